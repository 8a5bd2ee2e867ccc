"""How often a loop of a compiled program turns."""

import re

from babeldraw.estimate.hlo import Computation, Instruction, Program

_ALIASES = ("copy", "bitcast", "convert", "reshape")


class Loops:
    """Reads the number of turns of loops that count up by one to a constant."""

    def __init__(self, program: Program):
        self.program = program
        # Who calls a computation: constants are looked for there when it gets them as arguments.
        self.callers = {
            name: (instruction, computation)
            for computation in program.computations.values()
            for instruction in computation.instructions.values()
            for names in instruction.called.values()
            for name in names
        }

    def turns(self, loop: Instruction, computation: Computation) -> int | None:
        """None where that is not how the loop counts."""
        found = self._compare(self.program.computations[loop.called["condition"][0]])
        if found is None:
            return None
        compare, where = found
        direction = re.search(r"direction=(\w+)", compare.attributes)
        body = self.program.computations[loop.called["body"][0]]
        counter, bound = compare.operands
        if direction is None or direction.group(1) not in ("LT", "GT", "LE", "GE"):
            return None
        if direction.group(1) in ("GT", "GE"):
            counter, bound = bound, counter
        last = self._value(bound, where)
        if last is None or not body.instructions:
            return None
        # What changes from turn to turn is read where the loop begins.
        first = self._value(counter, where) or 0
        return max(last - first + (direction.group(1) in ("LE", "GE")), 0)

    def _compare(self, condition: Computation) -> tuple[Instruction, Computation] | None:
        root = condition.root
        while root is not None and root.opcode in _ALIASES:
            root = condition.instructions[root.operands[0]]
        if root is None:
            return None
        if root.opcode == "compare":
            return root, condition
        if root.opcode == "fusion":
            return self._compare(self.program.computations[root.called["calls"][0]])
        return None

    def _value(self, name: str, where: Computation) -> int | None:
        """The integer that an instruction is, where that can be followed to a constant."""
        instruction = where.instructions.get(name)
        if instruction is None:
            return None
        if instruction.opcode == "constant":
            return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal) else None
        if instruction.opcode in _ALIASES:
            return self._value(instruction.operands[0], where)
        if instruction.opcode == "get-tuple-element":
            return self._element(instruction, where)
        if instruction.opcode == "parameter" and where.name in self.callers:
            caller, outside = self.callers[where.name]
            if caller.opcode == "while":
                return None
            return self._value(caller.operands[int(instruction.literal)], outside)
        return None

    def _element(self, instruction: Instruction, where: Computation) -> int | None:
        """An element of the tuple that a loop carries: what it was in the beginning."""
        source = where.instructions.get(instruction.operands[0])
        index = instruction.number("index")
        if source is None or source.opcode != "parameter" or where.name not in self.callers:
            return None
        caller, outside = self.callers[where.name]
        initial = outside.instructions.get(caller.operands[0]) if caller.operands else None
        if caller.opcode != "while" or initial is None or initial.opcode != "tuple":
            return None
        return self._value(initial.operands[index], outside)
