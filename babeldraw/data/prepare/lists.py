"""Lists of pictures, one row each, in Parquet, CSV or JSON lines: paths, addresses, or bytes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babeldraw.data.listed import rows_of
from babeldraw.data.prepare.examples import Raw, Rejected
from babeldraw.data.prepare.fetch import Fetch, fetch
from babeldraw.data.rows import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    MAX_CLASSES,
    caption_of,
    columns_of,
    label_of,
)
from babeldraw.errors import UserError

# What pyarrow raises on damaged files: its own are subclasses of these.
PARQUET_FAULTS = (OSError, ValueError, NotImplementedError, KeyError, OverflowError, TypeError)
SUFFIXES = (".parquet", ".csv", ".jsonl")
# Names as `columns_of` gives them.
URL_COLUMNS = ("url", "image_url")
BYTES_COLUMNS = ("image", "jpg", "bytes")
LABEL_COLUMNS = ("label", "cls")


@dataclass(frozen=True)
class ListInput:
    """Rows that name a picture by path (relative to the list), by URL, or hold its bytes.

    Attributes:
        path: a .parquet, .csv or .jsonl file, or a folder of them.
        fetch: limits for URLs; None: they are not fetched.
    """

    path: str
    fetch: Fetch | None = None

    @property
    def name(self) -> str:
        return f"list/{Path(self.path).name}"

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def pieces(self, size: int) -> list[dict]:
        pieces = []
        for file in self._files():
            if file.suffix.lower() == ".parquet":
                pieces += _parquet_pieces(file, size)
                continue
            rows = list(_rows(file))
            for start in range(0, len(rows), size):
                pieces.append({"file": str(file), "rows": rows[start : start + size]})
        return pieces

    def read(self, piece: dict, max_bytes: int) -> Iterator[Raw | Rejected]:
        file = Path(piece["file"])
        rows = piece["rows"] if "rows" in piece else _parquet_rows(file, piece)
        for number, row in rows:
            yield self._raw(row, f"{file.name}:{number}", file.parent, max_bytes)

    def _files(self) -> list[Path]:
        path = Path(self.path)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [f for f in files if f.suffix.lower() in SUFFIXES and f.is_file()]
        files = [file for file in files if not file.name.startswith(".")]
        if not files:
            raise UserError(f"path={self.path!r} holds no lists ({' '.join(SUFFIXES)})")
        return files

    def _raw(self, row: Any, where: str, folder: Path, max_bytes: int) -> Raw | Rejected:
        if not isinstance(row, dict):
            return Rejected(where, "unreadable caption", "the row cannot be read")
        row = columns_of(row)
        image = self._image(row, where, folder, max_bytes)
        if isinstance(image, Rejected):
            return image
        caption = caption_of(row)
        if caption is None:
            caption = _value(row, CAPTION_COLUMNS, (bytes,)) or ""
        label = next((row[name] for name in LABEL_COLUMNS if row.get(name) is not None), None)
        try:
            number = label_of(label)
        except ValueError:
            # What is no label costs the label alone.
            number = -1
        return Raw(where, image, caption, number if number < MAX_CLASSES else -1)

    def _image(self, row: dict, where: str, folder: Path, max_bytes: int) -> bytes | Rejected:
        data = _value(row, BYTES_COLUMNS, (bytes, dict))
        if isinstance(data, dict):
            # As the datasets library of Hugging Face stores pictures.
            data, row = data.get("bytes"), {**data, **row}
        if isinstance(data, bytes):
            return data
        url = _value(row, URL_COLUMNS, (str,))
        name = _value(row, FILE_COLUMNS, (str,))
        if url is None and name is not None and name.startswith(("http://", "https://")):
            url, name = name, None
        found = None
        if name is not None:
            found = _read_file(folder, name, where, max_bytes)
            if url is None or isinstance(found, bytes) or found.reason != "no picture":
                return found
        # The address where there is no file.
        if url is None:
            return Rejected(where, "no picture", "the row names none")
        if self.fetch is None:
            return Rejected(where, "not fetched", f"{url} (fetch is off)")
        try:
            return fetch(url, self.fetch, max_bytes)
        except (OSError, ValueError) as error:
            return Rejected(where, "not fetched", f"{url}: {error}")


def _read_file(folder: Path, name: str, where: str, max_bytes: int) -> bytes | Rejected:
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError) as error:  # A name with a null byte, links in a circle.
        return Rejected(where, "no picture", f"{name!r}: {type(error).__name__}")
    # A list that came from elsewhere shall not reach for files outside its folder.
    if not path.is_relative_to(folder.resolve()):
        return Rejected(where, "no picture", f"{name} lies outside {folder.name}")
    try:
        if path.stat().st_size > max_bytes:
            return Rejected(where, "too many bytes", f"{path.stat().st_size} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        return Rejected(where, "no picture", f"{name}: {type(error).__name__}")


def _value(row: dict, columns: tuple[str, ...], kinds: tuple[type, ...]) -> Any:
    return next((row[c] for c in columns if isinstance(row.get(c), kinds)), None)


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Numbered rows as JSON holds them; None where a row cannot be read."""
    with file.open("rb") as stream:
        for number, row in rows_of(file.name, stream):
            try:
                json.dumps(row).encode()
                yield number, row
            except (TypeError, ValueError):
                yield number, None


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet files need the package pyarrow; pip install 'babeldraw[prepare]'"
        ) from error
    return pyarrow.parquet


def _parquet_pieces(file: Path, size: int) -> list[dict]:
    parquet = _parquet()
    try:
        total = parquet.ParquetFile(file).metadata.num_rows
    except PARQUET_FAULTS as error:
        raise UserError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    starts = range(0, total, size)
    return [{"file": str(file), "start": s, "stop": min(s + size, total)} for s in starts]


def _parquet_rows(file: Path, piece: dict) -> Iterator[tuple[int, Any]]:
    """The numbered rows of a piece; only the row groups that hold some of them are read."""
    first, wanted = 0, range(piece["start"], piece["stop"])
    try:
        data = _parquet().ParquetFile(file)
    except PARQUET_FAULTS:
        yield from ((number, None) for number in wanted)
        return
    for group in range(data.num_row_groups):
        count = data.metadata.row_group(group).num_rows
        if first < wanted.stop and first + count > wanted.start:
            number = first
            try:
                for batch in data.iter_batches(batch_size=256, row_groups=[group]):
                    rows = enumerate(batch.to_pylist(), number)
                    number += len(batch)
                    yield from ((n, row) for n, row in rows if n in wanted)
            except PARQUET_FAULTS:
                # What of a damaged group was not read is counted, row by row.
                lost = range(max(number, wanted.start), min(first + count, wanted.stop))
                yield from ((n, None) for n in lost)
        first += count
