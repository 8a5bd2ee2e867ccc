"""The part of cat.py that measures errors by level, trains the scorer of captions and chooses."""

import argparse
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from cat_data import DETAILED, LIST, TESTED, TRAIN, kind_of
from cat_measures import (
    Judged,
    by_level,
    correlations,
    errors,
    group_of,
    judges,
    log_error,
    scores,
)
from cells import Figures, folder_of_figures

from babeldraw.commands.demo_emoji import PACKAGES, lpips_weights
from babeldraw.complexity.baselines import JpegSize, SquaredError
from babeldraw.complexity.regressor import RegressorConfig, RegressorRun, train_regressor
from babeldraw.config import require
from babeldraw.data.complexity import levels_of, thresholds_for
from babeldraw.data.image import center_crop, decode, save_png, to_grid
from babeldraw.data.records import NO_PICTURE, Record
from babeldraw.drawing.tokenizer_run import TokenizerRun

# Training pictures whose errors are measured.
MEASURED = 1200
# Of 64 codes, those of 16 pixels, what CAT has on ImageNet by its article: 18 % fewer.
OF_CODES = 0.82
LEVELS = "levels.jsonl"


def weights(kind: str, args: argparse.Namespace) -> str:
    """The file of an LPIPS network; empty where it cannot be had, and of a quick run."""
    if args.quick:
        return ""
    args.emoji.mkdir(parents=True, exist_ok=True)
    return lpips_weights(args.emoji, args.emoji / PACKAGES, kind)


def listed(args: argparse.Namespace) -> list[dict[str, str]]:
    """File and caption of each picture."""
    lines = (args.workdir / "data" / LIST).read_text().splitlines()
    return [json.loads(line) for line in lines]


def some(rows: list[dict[str, str]], split: str, most: int) -> list[dict[str, str]]:
    """At most so many of a split, evenly over its kinds."""
    own = [row for row in rows if row["file"].startswith(split)]
    return [own[i] for i in np.linspace(0, len(own) - 1, min(most, len(own))).astype(int)]


def records_of(
    rows: list[dict[str, str]], size: tuple[int, int], args: argparse.Namespace
) -> list[Record]:
    folder = args.workdir / "data"
    return [Record(center_crop(decode(folder / r["file"]), size), r["caption"]) for r in rows]


def runs_of(name: str, args: argparse.Namespace) -> dict[str, TokenizerRun]:
    """A nested VAE's run at each of its levels."""
    first = TokenizerRun.open(str(args.workdir / name))
    levels = first.tokenizer.levels
    return {level: TokenizerRun.open(str(args.workdir / name), level=level) for level in levels}


def judged_of(
    runs: dict[str, TokenizerRun], args: argparse.Namespace, picture: str
) -> tuple[Judged, list[Record], np.ndarray]:
    """What a nested VAE's levels, and the fixed VAE, make of the test's pictures.

    With them their records, and the mean over levels of the log of each one's error; some of what
    comes back is in a picture of that name.
    """
    by, first = judges(weights("alexnet_lpips", args)), next(iter(runs.values()))
    tested = [row for row in listed(args) if row["file"].startswith(TESTED)]
    test = records_of(tested, first.image_size, args)
    images = np.stack([record.image for record in test])
    found = errors(runs, images, by)
    fixed_run = TokenizerRun.open(str(args.workdir / "fixed"))
    one = errors({"16": fixed_run}, images, by)
    show([*runs.values(), fixed_run], images, args.workdir / picture)
    kind_N = np.array([kind_of(row["file"]) for row in tested])
    fixed = {name: error_N1[:, 0] for name, error_N1 in one.items()}
    codes = tuple(run.codes.length for run in runs.values())
    judged = Judged(kind_N, codes, found, fixed, DETAILED)
    return judged, test, log_error(found["squared_error"])


def errors_cell(args: argparse.Namespace) -> Figures:
    whole, runs = listed(args), runs_of("nested", args)
    names = tuple(runs)
    seen = records_of(some(whole, TRAIN, MEASURED), runs[names[0]].image_size, args)
    images = np.stack([record.image for record in seen])
    by = {"squared_error": judges("")["squared_error"]}
    target_N = log_error(errors(runs, images, by)["squared_error"])
    told = _scorer(args, [record.caption for record in seen], target_N)

    judged, test, log_error_N = judged_of(runs, args, "levels.png")
    codes = judged.codes
    score = {
        "caption": scores(RegressorRun.open(str(args.workdir / "scorer")), test),
        "jpeg": scores(JpegSize(), test),
        "variance": scores(SquaredError(), test),
    }
    middle = codes[len(codes) // 2]
    by_score = {**score, "the real error": log_error_N}
    chosen = {name: judged.chosen(one_N, middle) for name, one_N in by_score.items()}
    return {
        "pictures": len(test),
        "codes": dict(zip(names, codes, strict=True)),
        "variance_told": told,
        "levels": by_level(judged, names),
        "chosen": {**chosen, "the best PSNR": judged.best(middle)},
        "spearman": correlations(score, log_error_N, judged.parts()),
        "drawing": write_levels(dict(zip(names, codes, strict=True)), OF_CODES, args),
    }


def captioned_errors_cell(args: argparse.Namespace) -> Figures:
    """What levels by captions give, with the VAE that was trained at them."""
    runs = runs_of("captioned", args)
    judged, test, log_error_N = judged_of(runs, args, "captioned_levels.png")
    middle = judged.codes[len(judged.codes) // 2]
    words_N = scores(RegressorRun.open(str(args.workdir / "scorer")), test)
    by_score = {"caption": words_N, "the real error": log_error_N}
    chosen = {name: judged.chosen(one_N, middle) for name, one_N in by_score.items()}
    return {
        "pictures": len(test),
        "codes": dict(zip(runs, judged.codes, strict=True)),
        "levels": by_level(judged, tuple(runs)),
        "chosen": {**chosen, "the best PSNR": judged.best(middle)},
    }


def measured(args: argparse.Namespace) -> Figures:
    """Of the cell `errors`. Raises `UserError` where it was not made here."""
    file = folder_of_figures(args, "cat") / "errors.json"
    require(
        file.exists() and (args.workdir / "scorer").exists(),
        f"{file} or the scorer in --workdir is missing; make the cell errors here first",
    )
    return json.loads(file.read_text())


def show(runs: Sequence[TokenizerRun], images: np.ndarray, path: pathlib.Path) -> None:
    """Eight pictures, evenly over all, in a row; below it what each run gives back of them."""
    some = images[np.linspace(0, len(images) - 1, 8).astype(int)]
    back = [np.clip(np.asarray(run.reconstruct(some)[0]), 0, 1) for run in runs]
    rows = [some, *(np.uint8(np.round(255 * one)) for one in back)]
    save_png(path, to_grid(np.concatenate(rows), len(some)))


def _scorer(args: argparse.Namespace, captions: list[str], target_N: np.ndarray) -> float | None:
    """Trains the scorer of captions. Returns the variance told; None where it was there."""
    folder = args.workdir / "scorer"
    if folder.exists():
        return None
    return train_regressor(captions, target_N, RegressorConfig(), str(folder), "cat.py")


def write_levels(codes: dict[str, int], share: float, args: argparse.Namespace) -> Figures:
    """Writes the data's column of levels, by the captions' scores.

    Args:
      codes: of each level, by its name.
      share: what of the middle level's codes a picture shall have on average.
      args: the script's.
    """
    names, each, rows = [*codes], [*codes.values()], listed(args)
    scorer = RegressorRun.open(str(args.workdir / "scorer"))
    score_N = scores(scorer, [Record(NO_PICTURE, row["caption"]) for row in rows])
    thresholds = thresholds_for(score_N, each, share * each[len(each) // 2])
    level_N = levels_of(score_N, thresholds)
    lines = [
        json.dumps({**row, "level": names[number]}) + "\n"
        for row, number in zip(rows, level_N, strict=True)
    ]
    (args.workdir / "data" / LEVELS).write_text("".join(lines))
    counts = group_of(level_N, len(names), 4 if args.quick else 10)
    mean = float(np.dot(counts, each) / sum(counts))
    return {"thresholds": thresholds, "counts": counts, "codes": mean}
