"""Measures what error a tokenizer makes of each picture at each of its levels.

One line a picture into --out: its number, first caption, and error by level: the mean squared error
of colours in [0, 1], or LPIPS with --perceptual. Goes on where it stopped.

Example:
  babeldraw score measure --workdir=runs/cat --source=folder --path=my_pictures --out=errors.jsonl
"""

import jax
import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, required, use_cache
from babeldraw.commands.score import define_data, open_data
from babeldraw.complexity.lines import Lines
from babeldraw.complexity.measured import codes_by_level, measurer, rows_of
from babeldraw.complexity.scoring import Reading
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.judges.backbones import BACKBONES
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.say import ProgressReport, say


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", None, "A tokenizer's run folder.", flag_values=values)
    define_data(values)
    flags.DEFINE_integer("batch_size", 16, "Pictures at a time.", flag_values=values, lower_bound=1)
    flags.DEFINE_string(
        "perceptual", "", "Weights of LPIPS, by `babeldraw import`.", flag_values=values
    )
    flags.DEFINE_enum(
        "network", "vgg16", [*BACKBONES], "Whose --perceptual is.", flag_values=values
    )
    flags.DEFINE_string("out", None, "The .jsonl file to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    workdir, out = required(values, "workdir"), required(values, "out")
    if values.size:
        raise UserError("--size is the tokenizer's own here; leave it out")
    if values["network"].present and not values.perceptual:
        raise UserError(f"--network={values.network} is of --perceptual, its weights; give both")
    use_cache(values)
    tokenizer = TokenizerRun.open(workdir)
    codes, size = codes_by_level(tokenizer.tokenizer), tokenizer.image_size
    network, weights = None, None
    if values.perceptual:
        network = PerceptualNetwork(PerceptualConfig(values.perceptual, network=values.network))
        weights = jax.device_put(network.load("--perceptual"))
    source = open_data(values, max(size))
    reading = Reading(source, size)
    head = {
        "tokenizer": tokenizer.identity,
        "data": source.name,
        "measure": f"lpips_{values.network}" if network else "mse",
        "codes": codes,
    }
    lines = Lines(out, head, "--out")
    measure = measurer(tokenizer, network, weights)
    count = min(values.num or len(source), len(source))
    there = {row["record"] for row in lines.rows}
    missing = [index for index in range(count) if index not in there]
    report = ProgressReport("measure", count, start=count - len(missing), unit="pictures")
    for start in range(0, len(missing), values.batch_size):
        part = missing[start : start + values.batch_size]
        pairs = zip(part, reading.records(part, pictures=True), strict=True)
        kept = {index: record for index, record in pairs if record is not None}
        # The batch is padded, so that one program for each level serves all.
        images = np.zeros((values.batch_size, *size, 3), np.uint8)
        for slot, record in zip(images, kept.values(), strict=False):
            slot[:] = record.image
        captions = [record.caption for record in kept.values()]
        found = measure(images)
        if not all(np.isfinite(error[: len(kept)]).all() for error in found.values()):
            raise UserError(f"--workdir={workdir} gives no finite pictures; name a trained run")
        lines.add(rows_of([*kept], captions, found))
        report.update(count - len(missing) + start + len(part))
    report.close()
    if not lines.rows:
        raise UserError(f"no picture of {source.name} could be read")
    say(f"errors of {len(lines.rows)} pictures at levels {', '.join(codes)} in {out}")
    return 0
