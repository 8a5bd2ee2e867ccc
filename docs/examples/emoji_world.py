"""The emoji demo's pictures once more, in other splits or with other captions, for experiments."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
from ml_collections import ConfigDict

from babeldraw.commands.demo_emoji import PICTURES
from babeldraw.data.emoji import LIST, SEEN, SETTINGS, Entry, read_entries
from babeldraw.drawing.sampler import Sampler
from babeldraw.evaluation.concepts import Gallery
from babeldraw.runs.folder import RunFolder

# Names that captions have beside English.
LANGUAGES = ("de", "es", "fr", "it", "pt")
# The split of pictures that are not trained on, and that nobody is asked for.
REST = "rest"
# Of generators on some 2,000 pictures: the demo's in all else.
SMALL = {"heads": 4, "dim": 128, "hidden": 512}
BATCH, PIECES = 32, 4096


def write_world(
    demo: pathlib.Path, world: pathlib.Path, change: Callable[[Entry], Entry], every: int = 1
) -> list[Entry]:
    """Writes a folder of emoji whose pictures are links to the demo's; one that is whole stays.

    Args:
      demo: the folder of `babeldraw demo --world=emoji`.
      world: the folder to write.
      change: a picture's entry here, of the demo's.
      every: of so many pictures of the demo one is here.

    Returns:
      The entries of the new folder.

    Raises:
      UserError: `demo` holds no such pictures.
    """
    before = read_entries(demo / PICTURES)[::every]
    if (world / SETTINGS).exists():
        return read_entries(world)
    now = [change(entry) for entry in before]
    for old, new in zip(before, now, strict=True):
        (world / new.file).parent.mkdir(parents=True, exist_ok=True)
        if not (world / new.file).exists():
            os.symlink((demo / PICTURES / old.file).resolve(), world / new.file)
    rows = "\n".join(json.dumps(asdict(entry), ensure_ascii=False) for entry in now)
    (world / LIST).write_text(rows + "\n", encoding="utf-8")
    # Written last: whose folder has it is whole.
    (world / SETTINGS).write_text((demo / PICTURES / SETTINGS).read_text())
    return now


def at_split(entry: Entry, split: str) -> Entry:
    """The same picture in another split."""
    return replace(entry, file=f"{split}/{pathlib.PurePosixPath(entry.file).name}")


def smaller(config: ConfigDict) -> None:
    """Makes all stacks of a config's network of the size of these experiments."""
    for name in ("encoder", "decoder", "image_encoder"):
        if name in config.model:
            config.model[name].update(SMALL)


def copy_vocabulary(words: pathlib.Path, folder: pathlib.Path) -> None:
    """Gives a run that has none yet the pieces of `words`, a SentencePiece model."""
    its_own = RunFolder.of(str(folder)).vocabulary_file
    if not its_own.exists():
        folder.mkdir(parents=True, exist_ok=True)
        its_own.write_bytes(words.read_bytes())


def stored_tokens(
    tokenizer: pathlib.Path, world: pathlib.Path, out: pathlib.Path, level: str = ""
) -> dict[str, str]:
    """The codes of a folder's training pictures, stored once.

    Args:
      tokenizer: its run.
      world: folder as `babeldraw emoji` and `write_world` write them.
      out: where the tokens go; whole ones stay.
      level: of a tokenizer that has several.

    Returns:
      The config section `data` of all of them.
    """
    words = [f"--workdir={tokenizer}", f"--path={world}", f"--split={SEEN}/", f"--out={out}"]
    words += [f"--level={level}"] if level else []
    subprocess.run([sys.executable, "-m", "babeldraw.cli", "tokenize", *words], check=True)
    splits = {"split": "all", "eval_split": "test"}
    return {"source": "tokens", "path": str(out), "crop": "center", **splits}


def concepts_right(
    sampler: Sampler,
    gallery: Gallery,
    asked: np.ndarray,
    prompts: Sequence[str],
    guidance: float | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What is right of drawings, one for each prompt.

    Args:
      sampler: of the generator; draws with seed 0.
      gallery: of all true pictures.
      asked: int [N], which true picture each prompt means.
      prompts: N.
      guidance: None for the run's own.

    Returns:
      bool [N] by name, as `Gallery.judge` has them, and the drawings, uint8 [N, height, width, 3].
    """
    settings = sampler.defaults
    if guidance is not None:
        settings = replace(settings, guidance=guidance)
    drawn = sampler.sample(prompts, seed=0, settings=settings, batch_size=64)
    images = np.stack([picture.image for picture in drawn])
    return gallery.judge(images, asked), images
