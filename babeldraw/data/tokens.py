"""Stored image tokens with their captions: what `babeldraw tokenize` writes and stage 2 may read.

A folder of shards `tokens-00000.npz` (arrays only: `tokens` int32 [n, T], [n, T, factors] for codes
of several factors, float32 [n, *shape, channels] for continuous ones, and of several views
[n, views, ...], of all levels of a tokenizer as `tokenizers.all_levels` joins them; `label` int32
[n], `level` int32 [n] where the pictures had that column (`data.levels`), `captions` uint8, the
UTF-8 texts one after another, `ends` int64 [n], where each ends) and `manifest.json`, which names
the tokenizer, what its codes are, the classes, the counts and each shard's size and SHA-256. Both
are written whole or not at all, the manifest after each shard, so a kill at any moment loses one.
"""

import bisect
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.data.image import write_whole
from babeldraw.data.records import Record
from babeldraw.data.splits import check_split, split_length, split_position
from babeldraw.data.states import MANIFEST as STATES
from babeldraw.data.states import StoredStates
from babeldraw.errors import UserError

MANIFEST = "manifest.json"
# What a manifest says of the whole, and of each shard.
FIELDS = {
    "tokenizer": str,
    "name": str,
    "shape": list,
    "vocab": list,
    "channels": int,
    "views": int,
    "levels": list,
    "column": str,
    "classes": list,
    "records": int,
    "shard_size": int,
    "count": int,
    "bad": int,
    "complete": bool,
    "shards": list,
}
# Folders that are older than a field have this.
YOUNGER = {"views": 1, "levels": [], "column": "", "classes": []}
SHARD_FIELDS = {"file": str, "count": int, "bad": int, "bytes": int, "sha256": str}


def write_shard(
    path: Path, tokens: np.ndarray, records: Sequence[Record], level_N: Sequence[int] | None = None
) -> dict[str, Any]:
    """Writes one shard, whole or not at all; returns its entry of the manifest.

    Args:
        path: the file.
        tokens: of the records.
        records: captions and labels.
        level_N: what their column `level` says; None: there is none.
    """
    texts = [record.caption.encode("utf-8", "replace") for record in records]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        tokens=tokens,
        label=np.array([record.label for record in records], np.int32),
        captions=np.frombuffer(b"".join(texts), np.uint8),
        ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
        **({} if level_N is None else {"level": np.asarray(level_N, np.int32)}),
    )
    data = buffer.getvalue()
    write_whole(path, data)
    digest = hashlib.sha256(data).hexdigest()
    return {"file": path.name, "count": len(records), "bytes": len(data), "sha256": digest}


def is_there(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether a shard of the manifest is there and of its size."""
    path = folder / entry["file"]
    return path.is_file() and path.stat().st_size == entry["bytes"]


def is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether a shard of the manifest is there, byte for byte."""
    if not is_there(folder, entry):
        return False
    return hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of token shards.

    Raises:
        UserError: there is none, or it lacks a field or holds one of another type.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.path={folder} holds no readable {MANIFEST}; make one with `babeldraw tokenize`"
        ) from error
    if isinstance(manifest, dict):
        manifest |= {name: value for name, value in YOUNGER.items() if name not in manifest}
    if not _has(manifest, FIELDS) or not all(_is_shard(entry) for entry in manifest["shards"]):
        raise UserError(f"{folder / MANIFEST} is not a manifest of token shards")
    return manifest


def _has(value: Any, fields: dict[str, type]) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(value.get(name), kind) for name, kind in fields.items())


def _is_shard(entry: Any) -> bool:
    """The name alone of a file: no manifest reads one from elsewhere."""
    return _has(entry, SHARD_FIELDS) and Path(entry["file"]).name == entry["file"]


def _spec(manifest: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the codes of an image, or of one of its views, as `Codes` has them."""
    shape, factors = tuple(manifest["shape"]), len(manifest["vocab"])
    if not factors:
        return (*shape, manifest["channels"]), np.dtype(np.float32)
    length = int(np.prod(shape))
    return (length,) if factors == 1 else (length, factors), np.dtype(np.int32)


class TokenSource:
    """Random access to stored tokens; one record in twenty is the split 'test'.

    Args:
        path: the folder.
        split: 'train', 'test' or 'all'.
        with_states: whether what an encoder made of the captions is read too, where it is there.
        views: how many views of a picture each record must have; 0: any number.

    Raises:
        UserError: the folder is none, not whole, or has another number of views.

    Attributes:
        name: says which data and which tokenizer.
        token_spec: shape and type of the codes of an image, or of one of its views.
        tokenizer: identity of the tokenizer that made them; of several levels that of the first.
        stored_levels: names of the levels whose codes there are; (): of one.
        states: what an encoder made of the captions, which lies beside them; None: nothing does.
        shards: the files of tokens, and the positions of each among all records.
    """

    def __init__(
        self, path: str | os.PathLike, split: str, with_states: bool = True, views: int = 0
    ):
        check_split(split, "stored tokens")
        self._folder = Path(path)
        manifest = read_manifest(self._folder)
        if not manifest["complete"]:
            raise UserError(f"{path} is not complete; run the same `babeldraw tokenize` once more")
        self._views = manifest["views"]
        if views not in (0, self._views):
            raise UserError(
                f"data.path={path} is of `babeldraw tokenize --views={self._views}` and data.views "
                f"is {views}; make tokens with --views={views}, or set data.views to {self._views}"
            )
        self._split, self._shards = split, manifest["shards"]
        # Sizes are looked at now, checksums when a shard is read.
        for entry in self._shards:
            if not is_there(self._folder, entry):
                raise self._damaged(entry)
        self._starts = [0, *itertools.accumulate(shard["count"] for shard in self._shards)]
        self._loaded: dict[int, dict[str, np.ndarray]] = {}
        ends = zip(self._starts, self._starts[1:], strict=False)
        files = [entry["file"] for entry in self._shards]
        self.shards = {name: range(*pair) for name, pair in zip(files, ends, strict=True)}
        stored = with_states and (self._folder / STATES).exists()
        self.states = StoredStates(self._folder, files) if stored else None
        self.tokenizer = manifest["tokenizer"]
        self.token_spec = _spec(manifest)
        self.stored_levels = tuple(map(str, manifest["levels"]))
        self._classes = tuple(map(str, manifest["classes"]))
        more = f":{self._views} views" if self._views > 1 else ""
        more += f":levels {' '.join(self.stored_levels)}" if self.stored_levels else ""
        self.name = f"tokens:{manifest['name']}:{self.tokenizer}:{split}{more}"

    def __len__(self) -> int:
        return split_length(self._starts[-1], self._split)

    def __getitem__(self, index: int) -> Record:
        position = split_position(index, self._split)
        shard = bisect.bisect_right(self._starts, position) - 1
        arrays, row = self._load(shard), position - self._starts[shard]
        ends = arrays["ends"]
        start = int(ends[row - 1]) if row else 0
        caption = arrays["captions"][start : int(ends[row])].tobytes().decode("utf-8")
        none = np.zeros((0, 0, 3), np.uint8)
        label, tokens = int(arrays["label"][row]), arrays["tokens"][row]
        states = None if self.states is None else self.states.row(shard, row)
        if self._views == 1:
            return Record(none, caption, label, tokens, states=states)
        return Record(none, caption, label, tokens[0], tokens, states)

    def captions(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self[index].caption

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Those of the pictures; where they had no names the numbers up to the highest label."""
        if self._classes:
            return self._classes
        highest = max((int(labels.max(initial=-1)) for labels in self._column("label")), default=-1)
        return tuple(str(number) for number in range(highest + 1))

    @functools.cached_property
    def levels(self) -> np.ndarray | None:
        """int32 [len], what the pictures' column `level` said, see `data.levels`; None: nothing."""
        parts = self._column("level")
        if not parts or len(parts) < len(self._shards):
            return None
        places = [split_position(index, self._split) for index in range(len(self))]
        return np.concatenate(parts)[places]

    def _column(self, name: str) -> list[np.ndarray]:
        """An array of each shard that has it."""
        found = []
        for entry in self._shards:
            with np.load(self._folder / entry["file"], allow_pickle=False) as arrays:
                found += [arrays[name]] if name in arrays.files else []
        return found

    def _load(self, shard: int) -> dict[str, np.ndarray]:
        """Tokens are small: a shard stays in memory once read."""
        if shard not in self._loaded:
            entry = self._shards[shard]
            if not is_whole(self._folder, entry):
                raise self._damaged(entry)
            with np.load(self._folder / entry["file"], allow_pickle=False) as arrays:
                self._loaded[shard] = dict(arrays)
            self._check_shape(entry, self._loaded[shard]["tokens"].shape)
        return self._loaded[shard]

    def _check_shape(self, entry: dict[str, Any], found: tuple[int, ...]) -> None:
        views = () if self._views == 1 else (self._views,)
        wanted = (entry["count"], *views, *self.token_spec[0])
        if found != wanted:
            raise UserError(
                f"{self._folder / entry['file']} holds codes of the shape {found} and {MANIFEST} "
                f"says {wanted}; make the tokens anew in another folder"
            )

    def _damaged(self, entry: dict[str, Any]) -> UserError:
        return UserError(
            f"{self._folder / entry['file']} is missing or damaged; run the same "
            "`babeldraw tokenize` once more"
        )
