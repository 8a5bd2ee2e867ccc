"""What an encoder made of texts: of captions beside their tokens, of prompts in a file.

Beside `tokens-00000.npz` lie `states-00000.npy`, float16 [n, S, D], and `count-00000.npy`, int32
[n], how many of a caption's first states are pieces; and `states.json`, which names the encoder.
Files are written whole or not at all, `states.json` last. Only the rows that are asked for are
read: states are hundreds of times as large as tokens.

Prompts' lie in one .npz, a row each: `texts`, and what a condition of the kind `features` reads.
"""

import functools
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.data.image import write_whole
from babeldraw.errors import UserError

MANIFEST = "states.json"
# What a batch holds of them.
NAMES = ("states", "count")
Spec = dict[str, tuple[tuple[int, ...], np.dtype]]


class StoredStates:
    """The states beside the shards of a folder of tokens.

    Args:
        folder: of the tokens.
        shards: names of the files of tokens, in order.

    Attributes:
        encoder: identity of the weights that made them.
        spec: shape and type of a record's `states` and `count`.

    Raises:
        UserError: there are none, or not of every shard.
    """

    def __init__(self, folder: Path, shards: list[str]):
        self._folder, self._shards = folder, shards
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            self.encoder: str = manifest["encoder"]
            shape = (int(manifest["length"]), int(manifest["dim"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"data.path={folder} holds no readable {MANIFEST}, what an encoder made of its "
                "captions; make it with `babeldraw encode`"
            ) from error
        self.spec: Spec = {
            "states": (shape, np.dtype(np.float16)),
            "count": ((), np.dtype(np.int32)),
        }
        for number in range(len(shards)):
            self._arrays(number)

    def row(self, shard: int, row: int) -> dict[str, np.ndarray]:
        """`states` and `count` of a record."""
        return {name: np.array(array[row]) for name, array in self._arrays(shard).items()}

    @functools.cache  # noqa: B019 - as long as the source, which is as long as the program.
    def _arrays(self, shard: int) -> dict[str, np.ndarray]:
        found = {}
        for name, (shape, dtype) in self.spec.items():
            file = self._folder / file_of(name, self._shards[shard])
            try:
                found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise self._damaged(file) from error
            if found[name].shape[1:] != shape or found[name].dtype != dtype:
                raise self._damaged(file)
        counts, most = found["count"], self.spec["states"][0][0]
        if counts.size and not 1 <= counts.min() <= counts.max() <= most:
            raise UserError(
                f"{self._folder} says that {counts.min()} to {counts.max()} states of a caption "
                f"are of words; 1 to {most} are possible. Encode it anew"
            )
        return found

    def _damaged(self, file: Path) -> UserError:
        return UserError(
            f"{file} is missing or damaged; remove it and run the same `babeldraw encode` once more"
        )


def file_of(name: str, shard: str) -> str:
    """The file of `states` or `count` beside one of tokens."""
    return Path(shard).with_suffix(".npy").name.replace("tokens", name)


def write_states(folder: Path, shard: str, states: np.ndarray, count: np.ndarray) -> None:
    """Writes the files of a shard: float [n, S, D] and int [n]."""
    for name, array in (("states", states.astype(np.float16)), ("count", count.astype(np.int32))):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_whole(folder / file_of(name, shard), buffer.getvalue())


def manifest_of(encoder: str, length: int, dim: int) -> dict[str, Any]:
    """What `states.json` says."""
    return {"encoder": encoder, "length": length, "dim": dim}


# ------------------------------------------------------------------ of prompts, in one file


def write_features(file: Path, texts: Sequence[str], features: Mapping[str, np.ndarray]) -> None:
    """Writes what `read_features` reads.

    Args:
      file: an .npz.
      texts: of which they were made.
      features: arrays with a row for each text: `states`, float [n, S, D], and `count`, int [n], or
        `pooled`, float [n, D].
    """
    buffer = io.BytesIO()
    np.savez(buffer, texts=np.array(texts, np.str_), **features)
    write_whole(file, buffer.getvalue())


def read_features(file: str, name: str) -> list[dict[str, Any]]:
    """Of each text its `text`, where the file tells it, and its row of every other array.

    Args:
      file: an .npz of `babeldraw encode --prompts`, or anybody's with the same arrays.
      name: what the user calls it, for messages.

    Raises:
      UserError: it cannot be read, or its arrays are not of equally many texts.
    """
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = {key: opened[key] for key in opened.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{name} is no readable .npz of features ({error}); make it with "
            "`babeldraw encode --prompts`"
        ) from error
    lengths = {key: array.shape[:1] for key, array in arrays.items()}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise UserError(f"{name} holds arrays of {lengths} texts; each needs a row for every text")
    columns = {"text" if key == "texts" else key: array for key, array in arrays.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
