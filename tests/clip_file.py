"""A small CLIP in place of B/32's: its file of weights, with a vocabulary beside it."""

import dataclasses
import gzip

from babeldraw.convert import clip
from babeldraw.convert.table import read, shapes
from babeldraw.data.clip_words import OPENAI
from babeldraw.judges.clip import CLIPS, clip_shapes
from babeldraw.judges.vit import ViTConfig
from babeldraw.runs.weights import flatten, write_weights
from tests.statements import even_tensors

MERGES = "#version: 0.2\nr e\nre d</w>\n"
STACK = dataclasses.replace(CLIPS["clip_b32"].text, blocks=1, heads=2, dim=16, hidden=20)
SMALL = dataclasses.replace(
    CLIPS["clip_b32"],
    image=ViTConfig(STACK, 56, 1e-5, before=True),
    text=STACK,
    dim=6,
    # Bytes, with and without a word's end, two merges, two marks.
    words=516,
    length=20,
)


def clip_file(folder, monkeypatch):
    """The path of the weights, of random numbers."""
    monkeypatch.setitem(CLIPS, "clip_b32", SMALL)
    abstract = clip_shapes(SMALL)
    params = flatten(
        read(clip.TRANSFORMERS, even_tensors(shapes(clip.TRANSFORMERS, abstract)), abstract)
    )
    file = folder / "clip.safetensors"
    write_weights(file, params, {"kind": "clip_b32"})
    with gzip.open(folder / OPENAI, "wt", encoding="utf-8") as words:
        words.write(MERGES)
    return file
