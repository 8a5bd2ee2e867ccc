"""Tells pictures in words, with a trained contrastive captioner or a CogLM (docs/coglm.md).

Prints a line per picture, or writes one JSON object per caption (--out): file, caption, score (the
mean log-probability of a token), seed. Without a temperature each token is the likeliest.

Example:
  babeldraw caption --workdir=runs/coca --path=my_pictures --out=captions.jsonl
  babeldraw caption --workdir=runs/coca --image=a.png --num=4 --temperature=0.8
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.data.image import decode, write_whole
from babeldraw.data.records import BadRecord
from babeldraw.drawing.captioning import GREEDY, CaptionerRun
from babeldraw.errors import UserError
from babeldraw.evaluation.picture_sets import is_picture
from babeldraw.say import ProgressReport, say

# Pictures held in memory at a time.
AT_A_TIME = 256


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    about = "A run folder, of a contrastive captioner or of a CogLM."
    flags.DEFINE_string("workdir", None, about, flag_values=values)
    flags.DEFINE_list("image", [], "Pictures, separated by commas.", flag_values=values)
    flags.DEFINE_string("path", "", "A folder of pictures.", flag_values=values)
    flags.DEFINE_integer("num", 1, "Captions of each.", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the first of each.", flag_values=values, lower_bound=0)
    flags.DEFINE_float("temperature", 0.0, "0: the likeliest token.", flag_values=values)
    flags.DEFINE_integer("top_k", 0, "Of so many likeliest tokens; 0: all.", flag_values=values)
    flags.DEFINE_float("top_p", 1.0, "Of the likeliest of so much mass.", flag_values=values)
    flags.DEFINE_integer("batch_size", 16, "Captions at a time.", flag_values=values, lower_bound=1)
    flags.DEFINE_string(
        "weights",
        "",
        "ema or params; none: the average of the weights where the run keeps one.",
        flag_values=values,
    )
    flags.DEFINE_string("out", "", "A .jsonl file to write; none: print.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    workdir, files = required(values, "workdir"), _files(values)
    changed = {name: values[name].value for name in ("temperature", "top_k", "top_p")}
    settings = dataclasses.replace(GREEDY, **changed)
    use_cache(values)
    captioner = CaptionerRun.open(workdir, values.weights)
    lines, bad = [], 0
    report = ProgressReport("caption", len(files), unit="pictures")
    for start in range(0, len(files), AT_A_TIME):
        there: dict[Path, np.ndarray] = {}
        for file in files[start : start + AT_A_TIME]:
            try:
                there[file] = decode(file, str(file))
            except BadRecord as error:
                bad += 1
                say(f"left out: {error}")
        drawn = captioner.caption(
            [*there.values()], values.num, values.seed, settings, values.batch_size
        )
        named = (file for file in there for _ in range(values.num))
        for file, caption in zip(named, drawn, strict=True):
            lines.append(
                {
                    "file": str(file),
                    "caption": caption.text,
                    "score": round(caption.score, 6),
                    "seed": caption.seed,
                }
            )
        report.update(min(start + AT_A_TIME, len(files)))
    report.close()
    if not lines:
        raise UserError(f"none of {len(files)} pictures can be read")
    if values.out:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        out = Path(values.out)
        make_folder(out.parent, f"--out={out}")
        write_whole(out, text.encode("utf-8", "replace"))
        say(f"{len(lines)} captions in {out}" + (f", {bad} pictures left out" if bad else ""))
        return 0
    for line in lines:
        print(f"{line['file']}: {line['caption']}")
    return 0


def _files(values: flags.FlagValues) -> list[Path]:
    files = [Path(file) for file in values.image]
    for file in files:
        if not file.is_file():
            raise UserError(f"--image={file} is no file; give pictures (PNG, JPEG, WebP)")
    if values.path:
        folder = Path(values.path)
        if not folder.is_dir():
            raise UserError(f"--path={folder} is no folder")
        files += sorted(file for file in folder.iterdir() if is_picture(file))
    if not files:
        raise UserError("there is no picture; give --image, or --path with some in it")
    return files
