"""One piece of the data: to a part with its hashes, then, duplicates known, to a shard.

The folder `work` inside the output holds what is done so far: `part-00003.array_record` with
`part-00003.json`, then `shard-00003.json`. The JSON comes last and is written whole, so that where
it is, the rest is: a killed run goes on from there.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from etils import epath

from babeldraw.data.image import write_whole
from babeldraw.data.prepare.examples import Example, Options, Rejected, make_example
from babeldraw.data.prepare.inputs import Input, Piece
from babeldraw.data.shards import pack, read_shard, write_shard

WORK = "work"


@dataclass(frozen=True)
class Work:
    """What every worker is told.

    Attributes:
        source: where records come from.
        options: what is wanted of them.
        out: the folder to write, seen under this path by every worker.
        pieces: how many there are.
    """

    source: Input
    options: Options
    out: str
    pieces: int

    def part_file(self, index: int) -> epath.Path:
        return epath.Path(self.out) / WORK / f"part-{index:05d}.array_record"

    def part_entry(self, index: int) -> epath.Path:
        return epath.Path(self.out) / WORK / f"part-{index:05d}.json"

    def shard_entry(self, index: int) -> epath.Path:
        return epath.Path(self.out) / WORK / f"shard-{index:05d}.json"

    def shard_name(self, index: int) -> str:
        return f"shard-{index:05d}-of-{self.pieces:05d}.array_record"

    def rejected_name(self, index: int) -> str:
        return f"rejected-{index:05d}-of-{self.pieces:05d}.jsonl"


def make_part(work: Work, index: int, piece: Piece) -> dict[str, Any]:
    """Reads, checks and stores the records of a piece, unless that is done already.

    Returns:
        {'read': how many records, 'kept': their [where, content hash, look hash] in order,
        'rejected': [where, reason, detail] of the others}.
    """
    entry = work.part_entry(index)
    if entry.exists():
        return json.loads(entry.read_text())
    kept: list[list[str]] = []
    rejected: list[list[str]] = []

    def records() -> Iterator[bytes]:
        for example in _examples(work, piece):
            if isinstance(example, Rejected):
                rejected.append([example.where, example.reason, example.detail])
                continue
            kept.append([example.where, example.content, example.look])
            yield pack(example.jpeg, example.caption, example.label, example.where)

    write_shard(work.part_file(index), records())
    part = {"read": len(kept) + len(rejected), "kept": kept, "rejected": rejected}
    write_whole(entry, json.dumps(part).encode("utf-8", "surrogatepass"))
    return part


def _examples(work: Work, piece: Piece) -> Iterator[Example | Rejected]:
    for raw in work.source.read(piece, work.options.max_bytes):
        if isinstance(raw, Rejected):
            yield raw
            continue
        try:
            yield make_example(raw, work.options)
        except Rejected as rejected:
            yield rejected


def make_shard(work: Work, index: int, duplicates: Iterable[tuple[int, str, str]]) -> None:
    """Writes the shard of a piece and the list of what was refused, unless that is done already.

    Args:
        duplicates: (row in the part, reason, where the one that is kept lies).
    """
    entry = work.shard_entry(index)
    if entry.exists():
        return
    part = json.loads(work.part_entry(index).read_text())
    # A picture may equal one and resemble another: equality is the reason given.
    found = {row: (reason, first) for row, reason, first in sorted(duplicates, reverse=True)}
    out = epath.Path(work.out)
    rejected = part["rejected"] + [[part["kept"][r][0], *found[r]] for r in sorted(found)]
    lines = [dict(zip(("where", "reason", "detail"), row, strict=True)) for row in rejected]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(out / work.rejected_name(index), text.encode())
    result: dict[str, Any] = {"read": part["read"], "rejected": _count(rejected), "shard": None}
    result["first"] = {row[1]: row for row in reversed(rejected)}
    if len(part["kept"]) > len(found):
        records = enumerate(read_shard(work.part_file(index)))
        path = out / work.shard_name(index)
        result["shard"] = write_shard(path, (data for row, data in records if row not in found))
    write_whole(entry, json.dumps(result).encode())


def _count(rejected: list[list[str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, reason, _ in rejected:
        counts[reason] = counts.get(reason, 0) + 1
    return counts
