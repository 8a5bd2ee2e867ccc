"""Stores what a frozen T5 makes of the captions of token shards, beside the tokens.

Training then reads it from there, with --config.condition.kind=t5 and
--config.condition.stored=True, and runs T5 for drawing alone. Of several captions of a record the
first is encoded. Goes on where it stopped. It takes 2 S D bytes a record, in float16: 180 KiB of
120 states of T5-base.

Example:
  babeldraw tokenize --workdir=runs/my_tokenizer --source=folder --path=my_pictures --out=my_tokens
  babeldraw encode --path=my_tokens --t5=t5_base.safetensors --words=spiece.model --length=64
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, required, use_cache
from babeldraw.data.states import MANIFEST, NAMES, file_of, manifest_of, write_states
from babeldraw.data.text import Vocabulary, caption_at
from babeldraw.data.tokens import TokenSource
from babeldraw.errors import UserError
from babeldraw.models.t5 import FrozenT5, config_of, identity
from babeldraw.models.t5_condition import T5Condition
from babeldraw.runs.folder import write_json
from babeldraw.runs.weights import read_params, read_weights
from babeldraw.say import ProgressReport, say

# What says of files of states, while not all are there, whose they are.
BEGUN = ".states.json"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("path", None, "The folder of token shards.", flag_values=values)
    flags.DEFINE_string("t5", None, "T5's weights, of `babeldraw import`.", flag_values=values)
    flags.DEFINE_string("words", None, "T5's spiece.model.", flag_values=values)
    flags.DEFINE_integer("length", 120, "Pieces of a caption.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Captions at a time.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    folder, file = Path(required(values, "path")), required(values, "t5")
    words = Vocabulary(required(values, "words"))
    if values.batch_size < 1:
        raise UserError(f"--batch_size is {values.batch_size}; at least 1 is needed")
    source = TokenSource(folder, "all", with_states=False)
    encoder = config_of(read_weights(file, "--t5"), f"--t5={file}")
    condition = T5Condition(values.length, encoder=encoder, words=values.words)
    condition.with_vocabulary(words.size)
    params = read_params(file, "--t5", FrozenT5(encoder).shapes())
    manifest = manifest_of(identity(params), values.length, encoder.dim)
    _claim(folder, manifest)
    use_cache(values)
    _write(folder, source, condition, params, words, values.batch_size)
    write_json(folder / MANIFEST, manifest)
    say(f"states of {len(source)} captions in {folder}, by the encoder {manifest['encoder']}")
    return 0


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuses states of another encoder; those that were begun say whose they are."""
    for file in (folder / MANIFEST, folder / BEGUN):
        before = json.loads(file.read_text()) if file.exists() else manifest
        if before != manifest:
            raise UserError(f"{file} is of {before}, not {manifest}; remove it to write others")
    write_json(folder / BEGUN, manifest)


def _write(
    folder: Path,
    source: TokenSource,
    condition: T5Condition,
    params: Any,
    words: Vocabulary,
    batch_size: int,
) -> None:
    """Writes the files of the shards that have none."""
    encode, frozen = jax.jit(condition.encoded), {"text_encoder": jax.device_put(params)}
    report = ProgressReport("encode", len(source), unit="captions")
    for shard, rows in source.shards.items():
        if all((folder / file_of(name, shard)).exists() for name in NAMES):
            continue
        found = []
        for start in range(rows.start, rows.stop, batch_size):
            part = range(start, min(start + batch_size, rows.stop))
            said = [caption_at(source[index].caption, 0) for index in part]
            # The last batch is filled up: another shape would be another compilation.
            ids = words.encode([*said, *[""] * (batch_size - len(said))], condition.length)
            states = jax.device_get(encode(frozen, ids))
            found.append({name: states[name][: len(said)] for name in NAMES})
            report.update(part.stop)
        write_states(folder, shard, *(np.concatenate([f[name] for f in found]) for name in NAMES))
    report.close()
