"""Turns the pictures of a data source into token shards with a trained tokenizer, and back.

Goes on where it stopped. Stage 2 reads the shards with --config.data.source=tokens and
--config.data.path=DIR, and then needs no pictures. With --decode the shards in --path become
pictures again, with captions.jsonl, as the source `folder` reads them, of several views the first.

--views=10 stores ten crops of each picture: its centre and corners at 1.1 of the size, mirrored
and not. Training then draws one of them for each record and epoch; evaluation takes the centre.

--level=all stores the codes of all levels of the tokenizer, on which a generator of all levels
trains, and keeps the data's column `level` (docs/cat.md).

Example:
  babeldraw tokenize --workdir=runs/my_tokenizer --source=folder --path=my_pictures --out=my_tokens
  babeldraw tokenize --decode --workdir=runs/my_tokenizer --path=my_tokens --out=seen_again
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.data.config import DataConfig
from babeldraw.data.image import save_png, write_whole
from babeldraw.data.records import Record, RecordReader, Source, classes_of
from babeldraw.data.sources import open_source
from babeldraw.data.text import caption_at
from babeldraw.data.tokens import MANIFEST, TokenSource, is_whole, read_manifest, write_shard
from babeldraw.data.views import check_views, cut_views, frame_size, framed
from babeldraw.drawing.tokenizer_run import AllLevels, TokenizerRun
from babeldraw.errors import UserError
from babeldraw.runs.folder import write_json
from babeldraw.say import ProgressReport, say
from babeldraw.tokenizers.all_levels import CodesOfLevels
from babeldraw.tokenizers.base import identity

# What a folder of decoded pictures says of itself.
DECODED = "decoded.json"
# In place of a level's name.
ALL = "all"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    flags.DEFINE_string("workdir", None, "Run folder of a tokenizer.", flag_values=values)
    flags.DEFINE_boolean("decode", False, "Token shards to pictures.", flag_values=values)
    flags.DEFINE_string("source", "folder", "shapes, folder or tfds.", flag_values=values)
    flags.DEFINE_string("path", "", "The folder, or the TFDS name.", flag_values=values)
    flags.DEFINE_string("split", "all", "The part of the data to read.", flag_values=values)
    flags.DEFINE_integer("num", 0, "Records at most; 0: all.", flag_values=values)
    flags.DEFINE_integer("shard_size", 4096, "Records per shard.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Pictures at a time.", flag_values=values)
    flags.DEFINE_string(
        "weights",
        "",
        "ema or params; none: the average of the weights where the run keeps one.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "level", "", "Of the tokenizer's sizes, or all; none: its first.", flag_values=values
    )
    flags.DEFINE_integer("views", 1, "Crops of each picture: 1 or 10.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    for name, least in (("num", 0), ("shard_size", 1), ("batch_size", 1)):
        if values[name].value < least:
            raise UserError(f"--{name} is {values[name].value}; at least {least} is needed")
    workdir, out = required(values, "workdir"), Path(required(values, "out"))
    if not values.decode and values.source == "tokens":
        raise UserError("--source=tokens are tokens already; --decode makes them pictures again")
    check_views(values.views, "--views")
    if values.decode and values.views > 1:
        raise UserError("--views does not go with --decode, which takes the first; leave it out")
    use_cache(values)
    every = values.level == ALL
    if values.decode and every:
        raise UserError("--level=all does not go with --decode; name the one to draw")
    level = "" if every else values.level
    tokenizer = TokenizerRun.open(workdir, weights=values.weights, level=level)
    if every:
        tokenizer = AllLevels.of(tokenizer)
    if values.decode:
        source = _open_tokens(values.path, values.split, tokenizer, workdir)
        make_folder(out, f"--out={out}")
        count = min(values.num or len(source), len(source))
        _decode(out, source, count, tokenizer, values.batch_size)
        say(f"{count} pictures in {out}")
        return 0
    data = DataConfig(source=values.source, path=values.path, split=values.split)
    side = max(frame_size(tokenizer.image_size, values.views))
    source = open_source(data, data.split, side, 0, require_captions=False)
    count = min(values.num or len(source), len(source))
    make_folder(out, f"--out={out}")
    manifest = _manifest(out, tokenizer, source, count, values.shard_size, values.views)
    _write(out, manifest, source, tokenizer, values.batch_size)
    say(f"{manifest['count']} token sets in {out}; {manifest['bad']} records were skipped")
    return 0


# ------------------------------------------------------------------ pictures to tokens


def _manifest(
    out: Path, tokenizer: TokenizerRun, source: Source, count: int, shard_size: int, views: int
) -> dict[str, Any]:
    """A fresh manifest, or the one of the same work that was stopped."""
    fresh = {
        "tokenizer": tokenizer.identity,
        "weights": tokenizer.weights,
        "name": source.name,
        "shape": list(tokenizer.codes.shape),
        "vocab": list(tokenizer.codes.vocab),
        "channels": tokenizer.codes.channels,
        "views": views,
        "levels": list(tokenizer.levels.names) if isinstance(tokenizer, AllLevels) else [],
        "column": _digest(getattr(source, "levels", None)),
        "classes": [*classes_of(source)],
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
    for name in ("tokenizer", "views", "levels", "column", "name", "records", "shard_size"):
        if before[name] != fresh[name]:
            raise UserError(
                f"--out={out} holds tokens of {name} {before[name]}, not {fresh[name]}; give "
                "another --out"
            )
    # One that is older has no names, and its labels may be of others by now.
    if before["classes"] not in ([], fresh["classes"]):
        raise UserError(
            f"--out={out} holds tokens of {len(before['classes'])} classes and the data have "
            f"{len(fresh['classes'])}, or of other names, by which labels count; give another --out"
        )
    return before


def _digest(column: np.ndarray | None) -> str:
    """Of what the data say of levels; data that are scored anew have another column."""
    return "" if column is None else hashlib.sha256(column.tobytes()).hexdigest()[:8]


def _write(
    out: Path, manifest: dict[str, Any], source: Source, tokenizer: TokenizerRun, batch_size: int
) -> None:
    """Writes the shards that are not there yet, the manifest after each."""
    # Brought to size as they are read: a shard of photographs would fill the memory.
    reader = RecordReader(source, read=lambda i: _framed(source, i, tokenizer, manifest["views"]))
    size, total = manifest["shard_size"], manifest["records"]
    report = ProgressReport("tokenize", total, unit="pictures")
    done, column = manifest["shards"], getattr(source, "levels", None)
    for shard, start in enumerate(range(0, total, size)):
        stop = min(start + size, total)
        if not (shard < len(done) and is_whole(out, done[shard])):
            read = {index: reader.try_read_at(index) for index in range(start, stop)}
            there = [index for index, record in read.items() if record is not None]
            records = [read[index] for index in there]
            tokens = _encode(
                records,
                manifest["views"],
                tokenizer,
                batch_size,
                lambda done, start=start: report.update(start + done),
            )
            levels = None if column is None else column[there]
            entry = write_shard(out / f"tokens-{shard:05d}.npz", tokens, records, levels)
            entry["bad"] = stop - start - len(records)
            done[shard : shard + 1] = [entry]
        manifest["count"] = sum(entry["count"] for entry in done)
        manifest["bad"] = sum(entry["bad"] for entry in done)
        manifest["complete"] = stop == total
        write_json(out / MANIFEST, manifest)
        report.update(stop)
    report.close()


def _framed(source: Source, index: int, tokenizer: TokenizerRun, views: int) -> Record:
    """A record with its picture at the size that views are cut from."""
    return framed(source[index], tokenizer.image_size, views, f"{source.name}[{index}]")


def _encode(
    records: list[Record],
    views: int,
    tokenizer: TokenizerRun,
    batch_size: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Codes [n, ...], or [n, views, ...] of several.

    The last batch is padded, so that one program serves all. `progress` is told the records done.
    """
    size, codes = tokenizer.image_size, tokenizer.codes
    pictures = (view for record in records for view in cut_views(record.image, size, views))
    tokens = [np.zeros((0, *codes.each), codes.dtype)]
    done = 0
    while part := [*itertools.islice(pictures, batch_size)]:
        images = np.zeros((batch_size, *size, 3), np.uint8)
        images[: len(part)] = part
        tokens.append(np.asarray(jax.device_get(tokenizer.encode(images)))[: len(part)])
        done += len(part)
        progress(done // views)
    found = np.concatenate(tokens)
    return found if views == 1 else found.reshape(len(records), views, *codes.each)


# ------------------------------------------------------------------ tokens to pictures


def _open_tokens(path: str, split: str, tokenizer: TokenizerRun, workdir: str) -> TokenSource:
    """The shards, which this tokenizer must have made."""
    source, own = TokenSource(path, split), tokenizer.identity
    if source.stored_levels:
        own = identity(tokenizer.tokenizer.at(""), tokenizer.params)
    if source.tokenizer != own:
        raise UserError(
            f"--path={path} holds tokens of the tokenizer {source.tokenizer} and "
            f"--workdir={workdir} is {own}; name the run that made them"
        )
    if tokenizer.text is not None and not any(source.captions()):
        raise UserError(
            f"--path={path} holds no captions and the decoder of {workdir} draws beside "
            "a text; make them of pictures that have captions"
        )
    return source


def _decode(
    out: Path, source: TokenSource, count: int, tokenizer: TokenizerRun, batch_size: int
) -> None:
    """Writes the pictures that are not there yet, then captions.jsonl."""
    _claim(out, source, count, tokenizer)
    names = [f"{index:08d}.png" for index in range(count)]
    missing = [index for index, name in enumerate(names) if not (out / name).exists()]
    report = ProgressReport("decode", count, start=count - len(missing), unit="pictures")
    for start in range(0, len(missing), batch_size):
        part = missing[start : start + batch_size]
        shape, dtype = source.token_spec
        codes, captions = np.zeros((batch_size, *shape), dtype), [""] * batch_size
        for number, record in enumerate(source[index] for index in part):
            codes[number], captions[number] = record.tokens, caption_at(record.caption, 0)
        if source.stored_levels:
            levels = CodesOfLevels.of(tokenizer.tokenizer)
            codes = levels.of_level(codes, tokenizer.tokenizer.level)
        images = np.asarray(jax.device_get(tokenizer.decode(codes, captions)))
        for index, image in zip(part, images, strict=False):
            save_png(out / names[index], image)
        report.update(count - len(missing) + start + len(part))
    report.close()
    lines = []
    for index, name in enumerate(names):
        record = source[index]
        line = {"file": name, "caption": record.caption, "label": record.label}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(out / "captions.jsonl", "".join(lines).encode())


def _claim(out: Path, source: TokenSource, count: int, tokenizer: TokenizerRun) -> None:
    """Says whose pictures the folder holds, and refuses one that holds others."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tokenizer.params):
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    # Decoders differ where tokens are the same: the weights are those of the whole network.
    work = {"tokens": source.name, "count": count, "weights": digest.hexdigest()[:16]}
    if not (out / DECODED).exists():
        # Hidden ones are what a kill leaves of a file that was being written.
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"--out={out} is not empty and holds no {DECODED}; give another --out")
        write_json(out / DECODED, work)
        return
    try:
        before = json.loads((out / DECODED).read_text())
    except ValueError:
        before = None
    if before != work:
        raise UserError(f"--out={out} holds pictures of other tokens; give another --out")
