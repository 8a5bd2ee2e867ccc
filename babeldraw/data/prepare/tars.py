"""WebDataset tar files as an input: a file is a piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from babeldraw.data.prepare.examples import Raw, Rejected
from babeldraw.data.webdataset import Damage, Entry, Further, read_span, read_text, scan, tar_files


@dataclass(frozen=True)
class TarInput:
    """Attributes:
    path: a folder of *.tar, a pattern, or one file; seen under this path by every worker.
    """

    path: str

    @property
    def name(self) -> str:
        return f"webdataset/{Path(self.path).name}"

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def pieces(self, size: int) -> list[dict]:
        del size
        return [{"file": path, "bytes": Path(path).stat().st_size} for path in tar_files(self.path)]

    def read(self, piece: dict, max_bytes: int) -> Iterator[Raw | Rejected]:
        name = Path(piece["file"]).name
        with open(piece["file"], "rb") as file:
            for entry in scan(file):
                if isinstance(entry, Damage):
                    yield Rejected(f"{name}@{entry.offset}", "damaged input", entry.reason)
                elif isinstance(entry, Further):
                    where = f"{name}:{entry.key}@{entry.offset}"
                    yield Rejected(where, "further member of a record")
                else:
                    yield self._raw(file, entry, f"{name}:{entry.key}@{entry.offset}", max_bytes)

    def _raw(self, file, entry: Entry, where: str, max_bytes: int) -> Raw | Rejected:
        if entry.image is None:
            return Rejected(where, "no picture")
        if entry.image.size > max_bytes:
            return Rejected(where, "too many bytes", f"{entry.image.size} bytes")
        try:
            caption, label = read_text(file, entry)
        except UnicodeDecodeError as error:
            return Rejected(where, "caption is not UTF-8", str(error))
        except (ValueError, RecursionError) as error:
            return Rejected(where, "unreadable caption", str(error))
        return Raw(where, read_span(file, entry.image, max_bytes), caption, label)
