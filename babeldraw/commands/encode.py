"""Stores what a frozen T5 makes of the captions of token shards, beside the tokens; or of prompts.

Training then reads it from there, with --config.condition.kind=t5 and
--config.condition.stored=True, and runs T5 for drawing alone; or with kind=features, and has no T5:
such a run draws from what is made of --prompts, which `babeldraw sample --features` reads. Of
several captions of a record the first is encoded. Goes on where it stopped. It takes 2 S D bytes a
record, in float16: 180 KiB of 120 states of T5-base.

Example:
  babeldraw tokenize --workdir=runs/my_tokenizer --source=folder --path=my_pictures --out=my_tokens
  babeldraw encode --path=my_tokens --t5=t5_base.safetensors --words=spiece.model --length=64
  babeldraw encode --prompts=prompts.txt --t5=t5_base.safetensors --words=spiece.model \\
      --length=64 --out=features.npz
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.data.states import (
    MANIFEST,
    NAMES,
    file_of,
    manifest_of,
    write_features,
    write_states,
)
from babeldraw.data.text import Vocabulary, caption_at
from babeldraw.data.tokens import TokenSource
from babeldraw.drawing.prompts import read_prompts
from babeldraw.errors import UserError
from babeldraw.models.t5 import FrozenT5, config_of, identity
from babeldraw.models.t5_condition import T5Condition
from babeldraw.runs.folder import write_json
from babeldraw.runs.weights import read_params, read_weights
from babeldraw.say import ProgressReport, say

# What says of files of states, while not all are there, whose they are.
BEGUN = ".states.json"


# Captions, at most so many, to float [n, S, D] and int [n].
Encode = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("path", None, "The folder of token shards.", flag_values=values)
    flags.DEFINE_string("prompts", None, "In its place: a file of prompts.", flag_values=values)
    flags.DEFINE_string("out", None, "Of prompts: the .npz to write.", flag_values=values)
    flags.DEFINE_string("t5", None, "T5's weights, of `babeldraw import`.", flag_values=values)
    flags.DEFINE_string("words", None, "T5's spiece.model.", flag_values=values)
    flags.DEFINE_integer("length", 120, "Pieces of a caption.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Captions at a time.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    if values.batch_size < 1:
        raise UserError(f"--batch_size is {values.batch_size}; at least 1 is needed")
    if values.prompts and values.path:
        raise UserError("--path and --prompts are both given; encode one after the other")
    if values.prompts:
        return _of_prompts(values)
    folder = Path(required(values, "path"))
    # What there is not is told before T5 is read.
    TokenSource(folder, "all", with_states=False)
    encoder, dim, encode = _t5(values)
    use_cache(values)
    count = store(folder, encode, encoder, values.length, dim, values.batch_size)
    say(f"states of {count} captions in {folder}, by the encoder {encoder}")
    return 0


def _of_prompts(values: flags.FlagValues) -> int:
    out = Path(required(values, "out"))
    if out.suffix != ".npz":
        raise UserError(f"--out={out} is no .npz; name one")
    texts = [prompt.text for prompt in read_prompts(values.prompts)]
    encoder, _, encode = _t5(values)
    use_cache(values)
    make_folder(out.parent, f"--out={out}")
    write_features(out, texts, _in_batches(encode, texts, values.batch_size))
    say(f"states of {len(texts)} prompts in {out}, by the encoder {encoder}")
    return 0


def _t5(values: flags.FlagValues) -> tuple[str, int, Encode]:
    """The identity of T5's weights, its width, and how it encodes."""
    file, words = required(values, "t5"), Vocabulary(required(values, "words"))
    config = config_of(read_weights(file, "--t5"), f"--t5={file}")
    condition = T5Condition(values.length, encoder=config, words=values.words)
    condition.with_vocabulary(words.size)
    params = read_params(file, "--t5", FrozenT5(config).shapes())
    encoded, frozen = jax.jit(condition.encoded), {"text_encoder": jax.device_put(params)}

    def encode(texts: Sequence[str]) -> dict[str, np.ndarray]:
        # The last batch is filled up: another shape would be another compilation.
        filled = [*texts, *[""] * (values.batch_size - len(texts))]
        found = jax.device_get(encoded(frozen, words.encode(filled, condition.length)))
        return {name: found[name][: len(texts)] for name in NAMES}

    return identity(params), config.dim, encode


def store(
    folder: Path, encode: Encode, encoder: str, length: int, dim: int, batch_size: int = 32
) -> int:
    """Stores what anybody's encoder makes of the captions of token shards beside them.

    Goes on where it stopped.

    Args:
      folder: of the shards, which `babeldraw tokenize` wrote.
      encode: makes `states`, float [n, S, D], and `count`, int [n], how many of the first are
        pieces, of n captions, at most `batch_size`. States behind these are not looked at; zeros in
        all of them say nothing.
      encoder: whose they are, a word for `states.json`.
      length: S.
      dim: D.
      batch_size: captions at a time.

    Returns:
      The number of captions.

    Raises:
      UserError: no such folder, states of another encoder are there, or these are of other shapes
        or more than are kept.
    """
    folder = Path(folder)
    source = TokenSource(folder, "all", with_states=False)
    manifest = manifest_of(encoder, length, dim)
    _claim(folder, manifest)
    report = ProgressReport("encode", len(source), unit="captions")
    for shard, rows in source.shards.items():
        if not all((folder / file_of(name, shard)).exists() for name in NAMES):
            captions = [caption_at(source[index].caption, 0) for index in rows]
            found = _in_batches(encode, captions, batch_size)
            _check_shapes(found, (len(captions), length, dim))
            write_states(folder, shard, *(found[name] for name in NAMES))
        report.update(rows.stop)
    report.close()
    write_json(folder / MANIFEST, manifest)
    return len(source)


def _in_batches(encode: Encode, texts: Sequence[str], batch_size: int) -> dict[str, np.ndarray]:
    parts = [encode(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def _check_shapes(found: Mapping[str, np.ndarray], wanted: tuple[int, ...]) -> None:
    shapes = [found[name].shape for name in NAMES]
    if shapes != [wanted, wanted[:1]]:
        raise UserError(f"states and counts of the shapes {shapes} are given; {wanted} is needed")
    counts, length = found["count"], wanted[1]
    # An empty caption has one piece, its end.
    for count in counts[(counts < 1) | (counts > length)][:1]:
        raise UserError(f"a count of {count} states is given; 1 to {length} of a caption are kept")


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuses states of another encoder; those that were begun say whose they are."""
    for file in (folder / MANIFEST, folder / BEGUN):
        before = json.loads(file.read_text()) if file.exists() else manifest
        if before != manifest:
            raise UserError(f"{file} is of {before}, not {manifest}; remove it to write others")
    write_json(folder / BEGUN, manifest)
