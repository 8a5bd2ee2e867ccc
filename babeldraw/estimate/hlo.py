"""The text of a compiled program (optimized, scheduled HLO) as data: computations, instructions.

Only what cost models ask for is read: shapes with their memory space, operands, called
computations, and the attributes as text.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations|true_computation|false_computation|"
    r"called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
# Bits of a value; a name that is not here (a token) has none.
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Array:
    """Attributes:
    dtype: as HLO writes it, such as bf16.
    dims: sizes.
    space: memory space; 0 is the main memory (HBM), others lie on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        return -(-self.elements * _bits(self.dtype) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Attributes:
    name, opcode: as written.
    arrays: the result; of a tuple, all arrays in it, in order.
    operands: names of other instructions of the same computation.
    attributes: the text behind the operands.
    root: it is the computation's result.
    literal: text between the parentheses, which of a constant is its value.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool
    literal: str

    @property
    def bytes(self) -> int:
        """Of the whole result."""
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Names of called computations, by attribute (`calls`, `body`, ...)."""
        return {
            match.group(0).partition("=")[0]: tuple(_NAME.findall(match.group(1)))
            for match in _CALLED.finditer(self.attributes)
        }

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate, where it made one."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match.group(1)) if match and int(match.group(1)) else None

    @functools.cached_property
    def source(self) -> str:
        """The operation of the traced program that it belongs to, or ""."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match.group(1) if match else ""

    def number(self, field: str) -> int | None:
        """An attribute such as `index=3`."""
        match = re.search(rf"\b{field}=(-?\d+)", self.attributes)
        return int(match.group(1)) if match else None


@dataclasses.dataclass
class Computation:
    """Instructions by name, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction | None:
        return next((i for i in self.instructions.values() if i.root), None)

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Which instructions read each."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                found.setdefault(operand, []).append(instruction)
        return found

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """In the order of a caller's operands."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.literal))


@dataclasses.dataclass
class Program:
    """Computations by name; `entry` is the name of the first to run, or None."""

    computations: dict[str, Computation]
    entry: str | None


def parse_program(text: str) -> Program:
    """The program that a compiled step's `as_text()` describes.

    A kernel's metadata spans lines of any form: what looks like no beginning of a computation or
    of an instruction goes on with the instruction before it.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in _joined(text.splitlines()):
        header = _HEADER.match(line)
        if header:
            current = Computation(header.group(2), {})
            computations[current.name] = current
            entry = current.name if header.group(1) else entry
        elif current is not None:
            instruction = _instruction(line)
            if instruction is not None:
                current.instructions[instruction.name] = instruction
    return Program(computations, entry)


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines, each instruction on one."""
    parts: list[str] = []
    for line in lines:
        if not parts or line == "}" or _HEADER.match(line) or _INSTRUCTION.match(line):
            if parts:
                yield "".join(parts)
            parts = []
        parts.append(line)
    if parts:
        yield "".join(parts)


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    root, name, shape, opcode = match.groups()
    inside, attributes = _to_closing(line[match.end() :])
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), _space(layout))
        for dtype, dims, layout in _ARRAY.findall(shape)
    )
    return Instruction(
        name, opcode, arrays, tuple(_NAME.findall(inside)), attributes, root is not None, inside
    )


def _to_closing(text: str) -> tuple[str, str]:
    """Splits at the parenthesis that closes one opened before `text`."""
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:index], text[index + 1 :]
    return text, ""


def _space(layout: str) -> int:
    match = _SPACE.search(layout)
    return int(match.group(1)) if match else 0


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.match(r"[a-z]+(\d+)", dtype)
    return int(match.group(1)) if match else 0
