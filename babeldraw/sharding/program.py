"""What a compiled program does, read from its text (optimized HLO)."""

import dataclasses
import math
import re

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One communication of a program.

    Attributes:
      kind: all-reduce, all-gather, reduce-scatter, collective-permute or all-to-all.
      elements: of the largest array it gives on one device.
      in_loop: it stands in the body of a loop.
      source: the operation of the traced program that it belongs to, or "".
    """

    kind: str
    elements: int
    in_loop: bool
    source: str


def collectives(text: str) -> list[Collective]:
    """Every communication in the text of a compiled program.

    TPUs fuse an all-reduce with the slice that follows it; such a fusion is a reduce-scatter.
    """
    computations = _computations(text)
    calls = {name: _calls(lines) for name, lines in computations.items()}
    looped = _reachable(_loop_bodies(computations), calls)
    # Fused all-reduces are counted at the fusion.
    scatters = {name for name in computations if name.startswith("all-reduce-scatter")}
    found = []
    for name, lines in computations.items():
        if name in scatters:
            continue
        for line in lines:
            kind, shape = _kind(line, scatters)
            if kind is not None:
                source = re.search(r'op_name="([^"]*)"', line)
                where = source.group(1) if source else ""
                found.append(Collective(kind, _elements(shape), name in looped, where))
    return found


def _kind(line: str, scatters: set[str]) -> tuple[str | None, str]:
    match = _INSTRUCTION.match(line)
    if not match:
        return None, ""
    _, shape, opcode = match.groups()
    if opcode == "fusion" and any(called in scatters for called in _calls([line])):
        return "reduce-scatter", shape
    opcode = opcode.removesuffix("-start")
    return (opcode, shape) if opcode in _KINDS else (None, "")


def _computations(text: str) -> dict[str, list[str]]:
    """Lines of each computation. A custom call's metadata may span lines of any form."""
    found, lines = {}, []
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            lines = found.setdefault(match.group(1), [])
        lines.append(line)
    return found


def _calls(lines: list[str]) -> set[str]:
    names = set()
    for line in lines:
        for group in _CALLED.findall(line):
            names |= {name.strip().lstrip("%") for name in group.split(",")}
    return names


def _loop_bodies(computations: dict[str, list[str]]) -> set[str]:
    bodies = set()
    for lines in computations.values():
        for line in lines:
            match = _INSTRUCTION.match(line)
            if match and match.group(3) == "while":
                bodies |= set(re.findall(r"body=%([\w.\-]+)", line))
    return bodies


def _reachable(start: set[str], calls: dict[str, set[str]]) -> set[str]:
    reached, open_ = set(), set(start)
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ |= calls.get(name, set())
    return reached


def _elements(shape: str) -> int:
    sizes = [math.prod(int(n) for n in dims.split(",") if n) for _, dims in _SHAPE.findall(shape)]
    return max(sizes, default=0)
