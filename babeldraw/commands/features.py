"""Writes what a block of a VIM makes of pictures, for search, clustering and classification.

The .npz file holds `features` float32 [N, D], `label` int32 [N] (-1: none) and `caption`, in the
order of the pictures; the pictures are those of the run's own data unless --source says otherwise.

Example:
  babeldraw features --workdir=runs/digits/vim_0 --block=3 --split=test --out=features.npz
"""

import dataclasses
import io
from pathlib import Path

import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.data.image import write_whole
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.records import Source
from babeldraw.data.sources import open_source
from babeldraw.errors import UserError
from babeldraw.say import ProgressReport, say
from babeldraw.train.understanding import BATCH_SIZE, FeaturesRun, check_block


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", None, "The run folder of a VIM.", flag_values=values)
    flags.DEFINE_integer(
        "block", None, "Which block; 0: tokens plus positions.", flag_values=values
    )
    flags.DEFINE_string("source", "", "As config.data.source; none: the run's.", flag_values=values)
    flags.DEFINE_string("path", "", "As config.data.path; none: the run's.", flag_values=values)
    flags.DEFINE_string("split", "", "As config.data.split; none: eval_split.", flag_values=values)
    flags.DEFINE_integer("num", 0, "Pictures, at most; 0: all.", flag_values=values, lower_bound=0)
    flags.DEFINE_integer(
        "batch_size", BATCH_SIZE, "Pictures at a time.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_string("out", "features.npz", "The file to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    workdir, block = required(values, "workdir"), required(values, "block")
    if not values.out.endswith(".npz"):
        raise UserError(f"--out={values.out} must end in .npz")
    use_cache(values)
    features = FeaturesRun.open(workdir)
    check_block(block, features.blocks)
    source = _source(values, features)
    make_folder(Path(values.out).parent, f"--out={values.out}")
    count = min(values.num or len(source), len(source))
    found, labels, captions = [], [], []
    report = ProgressReport("features", count, unit="pictures")
    for batch in eval_batches(
        source,
        batch_size=values.batch_size,
        image_size=features.image_size,
        num_examples=count,
    ):
        there = batch["mask"]
        if "image" not in batch:
            raise UserError(f"{source.name} holds tokens, no pictures; name pictures by --source")
        rows = features.features(batch["image"], block, values.batch_size)
        found.append(rows[there])
        labels.append(batch["label"][there])
        captions += [
            caption for caption, is_there in zip(batch["caption"], there, strict=True) if is_there
        ]
        report.update(len(captions))
    report.close()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=np.concatenate(found),
        label=np.concatenate(labels),
        caption=np.array(captions, dtype=np.str_),
    )
    write_whole(values.out, buffer.getvalue())
    say(f"features of block {block} of {len(captions)} pictures in {values.out}")
    return 0


def _source(values: flags.FlagValues, features: FeaturesRun) -> Source:
    data, seed = features.run.experiment.data, features.run.experiment.train.seed
    changed = {name: values[name].value for name in ("source", "path") if values[name].value}
    data = dataclasses.replace(data, **changed)
    split, side = values.split or data.eval_split, max(features.image_size)
    return open_source(data, split, side, seed, require_captions=False)
