"""The files of a data set: those of a folder on disk, or of a .zip that is read as it is."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from babeldraw.data.records import BadRecord


class Files(Protocol):
    """Files by their relative paths, parted by '/'. Safe to use from threads.

    Attributes:
        name: what people call it: the folder, or the .zip without its ending.
        left_out: files that are not among `names`, by the reason (as 'are links').
    """

    name: str
    left_out: dict[str, list[str]]

    def names(self) -> Iterator[str]:
        """Every file's path, hidden ones left out, in no particular order."""
        ...

    def size(self, name: str) -> int:
        """Bytes. Raises BadRecord."""
        ...

    def read(self, name: str) -> bytes:
        """The content. Raises BadRecord."""
        ...

    def where(self, name: str) -> str:
        """What to call a file in an error."""
        ...


def hidden(name: str) -> bool:
    """Of a path, as Macs pack them beside each file: `._NAME.jpg`, `__MACOSX/`."""
    names = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith((".", "__MACOSX")) for part in names)


class DiskFiles:
    """A folder. Linked folders are followed, but not in circles."""

    def __init__(self, root: Path):
        self._root = root
        self.name, self.left_out = root.name, {}

    def names(self) -> Iterator[str]:
        around = {os.path.realpath(self._root)}
        for folder, folders, files in os.walk(self._root, followlinks=True):
            kept = []
            # A folder before the links to it, whatever the order of the disk.
            for name in sorted(folders, key=lambda n: (os.path.islink(os.path.join(folder, n)), n)):
                real = os.path.realpath(os.path.join(folder, name))
                if not hidden(name) and real not in around:
                    around.add(real)
                    kept.append(name)
            folders[:] = kept
            relative = Path(folder).relative_to(self._root)
            yield from ((relative / file).as_posix() for file in files if not hidden(file))

    def size(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_size
        except OSError as error:
            raise self._bad(name, error) from error

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise self._bad(name, error) from error

    def where(self, name: str) -> str:
        return str(self._root / name)

    def _bad(self, name: str, error: OSError) -> BadRecord:
        return BadRecord(self.where(name), error.strerror or str(error))
