"""Turns the pictures of a data source into token shards with a trained tokenizer.

Goes on where it stopped. Stage 2 reads the shards with --config.data.source=tokens and
--config.data.path=DIR, and then needs no pictures.

Example:
  babeldraw tokenize --workdir=runs/my_tokenizer --source=folder --path=my_pictures --out=my_tokens
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from babeldraw.commands.flags import required
from babeldraw.data.image import center_crop
from babeldraw.data.sources import DataConfig, Record, RecordReader, Source, open_source
from babeldraw.data.tokens import MANIFEST, is_whole, read_manifest, write_shard
from babeldraw.errors import UserError
from babeldraw.runs.folder import write_json
from babeldraw.train.progress import ProgressReport, say
from babeldraw.train.tokenizer_run import TokenizerRun


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("workdir", None, "Run folder of a tokenizer.", flag_values=values)
    flags.DEFINE_string("source", "folder", "shapes, folder or tfds.", flag_values=values)
    flags.DEFINE_string("path", "", "The folder, or the TFDS name.", flag_values=values)
    flags.DEFINE_string("split", "all", "The part of the data to read.", flag_values=values)
    flags.DEFINE_integer("num", 0, "Records at most; 0: all.", flag_values=values)
    flags.DEFINE_integer("shard_size", 4096, "Records per shard.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Pictures at a time.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    for name, least in (("num", 0), ("shard_size", 1), ("batch_size", 1)):
        if values[name].value < least:
            raise UserError(f"--{name} is {values[name].value}; at least {least} is needed")
    tokenizer = TokenizerRun.open(required(values, "workdir"))
    out = Path(required(values, "out"))
    data = DataConfig(source=values.source, path=values.path, split=values.split)
    source = open_source(data, data.split, tokenizer.image_size[0], 0, require_captions=False)
    count = min(values.num or len(source), len(source))
    out.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(out, tokenizer, source, count, values.shard_size)
    _write(out, manifest, source, tokenizer, values.batch_size)
    say(f"{manifest['count']} token sets in {out}; {manifest['bad']} records were skipped")
    return 0


def _manifest(
    out: Path, tokenizer: TokenizerRun, source: Source, count: int, shard_size: int
) -> dict[str, Any]:
    """A fresh manifest, or the one of the same work that was stopped."""
    fresh = {
        "tokenizer": tokenizer.identity,
        "name": source.name,
        "shape": list(tokenizer.tokens.shape),
        "vocab_size": tokenizer.tokens.vocab_size,
        "records": count,
        "shard_size": shard_size,
        "count": 0,
        "bad": 0,
        "complete": False,
        "shards": [],
    }
    if not (out / MANIFEST).exists():
        return fresh
    before = read_manifest(out)
    for name in ("tokenizer", "name", "records", "shard_size"):
        if before[name] != fresh[name]:
            raise UserError(
                f"--out={out} holds tokens of {name} {before[name]}, not {fresh[name]}; give "
                "another --out"
            )
    return before


def _write(
    out: Path, manifest: dict[str, Any], source: Source, tokenizer: TokenizerRun, batch_size: int
) -> None:
    """Writes the shards that are not there yet, the manifest after each."""
    reader, size = RecordReader(source), manifest["shard_size"]
    total = manifest["records"]
    report = ProgressReport("tokenize", total, unit="pictures")
    done = manifest["shards"]
    for shard, start in enumerate(range(0, total, size)):
        stop = min(start + size, total)
        if not (shard < len(done) and is_whole(out, done[shard])):
            records = [r for i in range(start, stop) if (r := reader.try_read_at(i)) is not None]
            tokens_NT = _encode(records, tokenizer, batch_size, start, report.update)
            entry = write_shard(out / f"tokens-{shard:05d}.npz", tokens_NT, records)
            entry["bad"] = stop - start - len(records)
            done[shard : shard + 1] = [entry]
        manifest["count"] = sum(entry["count"] for entry in done)
        manifest["bad"] = sum(entry["bad"] for entry in done)
        manifest["complete"] = stop == total
        write_json(out / MANIFEST, manifest)
        report.update(stop)
    report.close()


def _encode(
    records: list[Record],
    tokenizer: TokenizerRun,
    batch_size: int,
    first: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """int32 [n, T]; the last batch is padded, so that one program serves all."""
    tokens = [np.zeros((0, tokenizer.tokens.length), np.int32)]
    for start in range(0, len(records), batch_size):
        part = records[start : start + batch_size]
        images = np.zeros((batch_size, *tokenizer.image_size, 3), np.uint8)
        for slot, record in zip(images, part, strict=False):
            slot[:] = center_crop(record.image, tokenizer.image_size)
        tokens.append(np.asarray(jax.device_get(tokenizer.encode(images)))[: len(part)])
        progress(first + start + len(part))
    return np.concatenate(tokens)
