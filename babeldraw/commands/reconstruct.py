"""Shows pictures beside what a tokenizer makes of them, at full size, with a map of the error.

Writes PNG files, figures.json and the page index.html, which opens offline. Without --images the
pictures are the first of the run's own held-out data.

Example:
  babeldraw reconstruct --workdir=runs/my_tokenizer --images=my_pictures --out=reconstructions
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.config import build
from babeldraw.data.config import DataConfig
from babeldraw.data.image import save_png, to_uint8, write_whole
from babeldraw.data.pipeline import fitted
from babeldraw.data.records import Record, RecordReader, Source
from babeldraw.data.sources import open_source
from babeldraw.data.text import caption_at
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.evaluation import measures
from babeldraw.judges import similarity
from babeldraw.judges.backbones import BACKBONES
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.pages import render
from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.say import ProgressReport, say

# The mean absolute error of a pixel's three colours that is shown as white.
WHITE_ERROR = 0.25
# Each picture: what is shown, and the end of its file's name.
SHOWN = ("original", "reconstruction", "error")
# Key of figures.json to its label and form on the page.
FORMS = {
    "psnr_db": ("PSNR", "{:.2f} dB"),
    "ssim": ("SSIM", "{:.4f}"),
    "l1": ("L1", "{:.4f}"),
    "l2": ("L2", "{:.5f}"),
    "lpips": ("LPIPS", "{:.4f}"),
    "codes": ("codes", "{:d} different"),
}


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", None, "Run folder of a tokenizer.", flag_values=values)
    flags.DEFINE_string("images", "", "A folder of pictures; none: held out.", flag_values=values)
    flags.DEFINE_integer("num", 16, "Pictures at most; 0: all.", flag_values=values)
    flags.DEFINE_integer("batch_size", 8, "Pictures at a time.", flag_values=values)
    flags.DEFINE_string(
        "perceptual", "", "Weights of LPIPS, by `babeldraw import`.", flag_values=values
    )
    flags.DEFINE_enum(
        "network", "vgg16", [*BACKBONES], "Whose --perceptual is.", flag_values=values
    )
    flags.DEFINE_string(
        "level", "", "Of the tokenizer's sizes; none: its first.", flag_values=values
    )
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    for name, least in (("num", 0), ("batch_size", 1)):
        if values[name].value < least:
            raise UserError(f"--{name} is {values[name].value}; at least {least} is needed")
    if values["network"].present and not values.perceptual:
        raise UserError(f"--network={values.network} says whose --perceptual is; name that file")
    workdir, out = required(values, "workdir"), Path(required(values, "out"))
    use_cache(values)
    tokenizer = TokenizerRun.open(workdir, level=values.level)
    source = _open(workdir, values.images, tokenizer)
    measure = _measures(tokenizer.image_size, values.perceptual, values.network)
    make_folder(out, f"--out={out}")
    total = min(values.num or len(source), len(source))
    report = ProgressReport("reconstruct", total, unit="pictures")
    rows: list[dict[str, Any]] = []
    for batch in _batches(source, total, values.batch_size, tokenizer.image_size):
        rows += _write_pictures(out, len(rows), batch, tokenizer, values.batch_size, measure)
        report.update(len(rows))
    report.close()
    if not rows:
        raise UserError(f"no picture of {source.name} could be read")
    means = _means(rows)
    write_json(out / "figures.json", {"mean": means, "pictures": rows})
    write_whole(out / "index.html", _page(workdir, means, rows).encode(errors="replace"))
    say(f"{len(rows)} pictures, {_figures(means)}; look at {out / 'index.html'}")
    return 0


# ------------------------------------------------------------------ what goes in


def _open(workdir: str, images: str, tokenizer: TokenizerRun) -> Source:
    """The pictures of a folder, or those that the run holds out; with captions where it needs some.

    Raises:
      UserError: the decoder draws beside a text and no picture has one.
    """
    if images:
        data, split, seed = DataConfig(source="folder", path=images), "all", 0
    else:
        config = RunFolder.to_read(workdir).read_config()
        data = build(DataConfig, config["data"], "config.data")
        split, seed = data.eval_split, config["train"]["seed"]
    size, read = max(tokenizer.image_size), tokenizer.text is not None
    return open_source(data, split, size, seed, require_captions=read)


def _batches(
    source: Source, total: int, size: int, image_size: tuple[int, int]
) -> Iterator[list[Record]]:
    """The first `total` records, `size` at a time, cut to size; bad ones are skipped."""
    reader = RecordReader(source)
    for start in range(0, total, size):
        indices = range(start, min(start + size, total))
        found = (fitted(reader.try_read_at(i), image_size) for i in indices)
        if batch := [record for record in found if record is not None]:
            yield batch


Measures = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def _measures(size: tuple[int, int], perceptual: str, network_name: str) -> Measures:
    """(images, originals), [B, height, width, 3] in [0, 1], to each measure [B].

    Raises:
      UserError: the file of perceptual weights does not fit.
    """
    config = PerceptualConfig(perceptual, network=network_name)
    network = PerceptualNetwork(config) if perceptual else None
    params = network.load("--perceptual") if network else None

    @jax.jit
    def measure(params: Any, images: jax.Array, originals: jax.Array) -> dict[str, jax.Array]:
        found = {"l1": measures.l1(images, originals), "l2": measures.l2(images, originals)}
        if min(size) >= similarity.SSIM_WINDOW:
            found["ssim"] = similarity.ssim(images, originals)
        if network is not None:
            found["lpips"] = network.distance(params, images, originals)
        return found

    return lambda images, originals: jax.device_get(measure(params, images, originals))


# ------------------------------------------------------------------ what comes out


def _write_pictures(
    out: Path,
    first: int,
    records: list[Record],
    tokenizer: TokenizerRun,
    batch_size: int,
    measure: Measures,
) -> list[dict[str, Any]]:
    """Writes three files per picture; returns its figures and its caption."""
    # The batch is padded, so that one program serves all.
    originals = np.zeros((batch_size, *tokenizer.image_size, 3), np.uint8)
    for slot, record in zip(originals, records, strict=False):
        slot[:] = record.image
    captions = [record.caption for record in records]
    captions = [caption_at(caption, 0) for caption in captions] + [""] * (batch_size - len(records))
    images, ids = map(np.asarray, jax.device_get(tokenizer.reconstruct(originals, captions)))
    expected = originals.astype(np.float32) / 255
    found, rows = measure(images, expected), []
    for index, record in enumerate(records):
        name = f"{first + index:05d}"
        error = error_map(images[index], expected[index])
        for kind, picture in zip(SHOWN, (originals[index], images[index], error), strict=True):
            save_png(out / f"{name}_{kind}.png", picture)
        row = {key: float(values[index]) for key, values in found.items()}
        row |= {"psnr_db": _psnr(row["l2"]), "codes": len(np.unique(ids[index]))}
        rows.append({"name": name, "caption": record.caption, **row})
    return rows


def error_map(image: np.ndarray, original: np.ndarray) -> np.ndarray:
    """The mean absolute error of each pixel's colours, black over red and yellow to white at 0.25.

    Args:
      image, original: float [H, W, 3] in [0, 1].

    Returns:
      uint8 [H, W, 3]; the scale is fixed, so that maps can be compared.
    """
    error = np.abs(image - original).mean(-1, keepdims=True) / WHITE_ERROR
    return to_uint8(3 * error - np.arange(3))


def _psnr(l2: float) -> float | None:
    """None for no error at all: JSON has no infinity."""
    psnr = measures.psnr_db(l2)
    return psnr if math.isfinite(psnr) else None


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means over pictures; PSNR that of the mean squared error. A picture's codes are its own."""
    keys = [key for key in FORMS if key in rows[0] and key not in ("psnr_db", "codes")]
    means = {key: float(np.mean([row[key] for row in rows])) for key in keys}
    return {"psnr_db": _psnr(means["l2"]), **means}


def _figures(row: dict[str, Any]) -> str:
    """The figures of a picture, or of all, as words."""
    shown = [(label, form, row[key]) for key, (label, form) in FORMS.items() if key in row]
    return ", ".join(
        f"{label} {'infinite' if value is None else form.format(value)}"
        for label, form, value in shown
    )


def _page(workdir: str, means: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    return render(
        "reconstruct.html",
        workdir=workdir,
        means=means,
        rows=rows,
        figures=_figures,
        shown=SHOWN,
        white_error=WHITE_ERROR,
    )
