"""What a compiled program sends, read from its text (optimized HLO)."""

import dataclasses

from babeldraw.estimate.collective_costs import communication
from babeldraw.estimate.hlo import Program, parse_program


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
    program = parse_program(text)
    looped, inside = _looped(program), _inside(program)
    found = []
    for name, computation in program.computations.items():
        if name in inside:
            # Counted where the fusion stands.
            continue
        for instruction in computation.instructions.values():
            talk = communication(instruction, program)
            if talk is not None:
                elements = max((array.elements for array in instruction.arrays), default=0)
                found.append(Collective(talk[0], elements, name in looped, instruction.source))
    return found


def _inside(program: Program) -> set[str]:
    """Computations that are the inside of one instruction."""
    return {
        name
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode in ("fusion", "async-start")
        for name in instruction.called.get("calls", ())
    }


def _looped(program: Program) -> set[str]:
    """Computations that run in the body of a loop."""
    calls: dict[str, set[str]] = {}
    open_ = set()
    for name, computation in program.computations.items():
        for instruction in computation.instructions.values():
            called = instruction.called
            calls.setdefault(name, set()).update(*called.values())
            open_.update(called.get("body", ()))
    reached = set()
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ |= calls.get(name, set())
    return reached
