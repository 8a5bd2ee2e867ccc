"""How long a compiled program takes on a TPU that is not here.

The scheduled text of the program carries the compiler's own estimate of each instruction's cycles.
Here they are added up as the chip would run them: one core in order, loops as often as they turn,
and beside it one queue of copies and one of communications, which run on by themselves from their
start until the core waits for their end.

Two figures. Raw takes the compiler's cycles as they are; it is pessimistic about element-wise work.
Capped bounds what holds no product of matrices by what memory and vector units allow: the larger of
bytes / (0.85 x bandwidth) and operations / rate, where that is less than the compiler's figure.
"""

import dataclasses
import re
from collections.abc import Callable

from babeldraw.estimate.collective_costs import Wires, communication
from babeldraw.estimate.costs import FREE, elementwise, flops, traffic
from babeldraw.estimate.hlo import Computation, Instruction, Program, parse_program
from babeldraw.estimate.loops import Loops

# Share of the published bandwidth that a long copy reaches.
REACHED = 0.85
# Seconds and operations of one call of a kernel (custom call), or None where that is not known.
Kernels = Callable[[Instruction], tuple[float, int] | None]
_COPIES = ("copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start")


@dataclasses.dataclass
class Communication:
    """All of one kind in a step, on one chip.

    Attributes:
      count: how often, loops counted.
      bytes: of the larger of input and output, together.
      seconds: on the links.
      exposed: seconds that the core waits for them, or for those before them.
    """

    count: int = 0
    bytes: int = 0
    seconds: float = 0.0
    exposed: float = 0.0


@dataclasses.dataclass
class Estimate:
    """One pass of a program, on one chip.

    Attributes:
      seconds: that it takes.
      flops: of matrix units and kernels, loops counted.
      remat_flops: of these, what was computed before and is computed again.
      parts: seconds of the core by what it does: `matmul`, `kernel`, `elementwise`, and waiting:
        `copies`, `communication`.
      communication: by kind.
      sources: seconds by operation of the traced program.
      unknown_loops: loops whose number of turns could not be read; each was counted once.
      unknown_kernels: kernels for which nobody said how long they take.
    """

    seconds: float = 0.0
    flops: int = 0
    remat_flops: int = 0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    communication: dict[str, Communication] = dataclasses.field(default_factory=dict)
    sources: dict[str, float] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0
    unknown_kernels: int = 0

    def spend(self, part: str, seconds: float, source: str) -> None:
        self.parts[part] = self.parts.get(part, 0.0) + seconds
        self.sources[source] = self.sources.get(source, 0.0) + seconds


def estimate(
    text: str, wires: Wires, kernels: Kernels = lambda instruction: None
) -> dict[str, Estimate]:
    """`raw` and `capped` estimates of a program.

    Args:
      text: of a program compiled for one of `chips.CHIPS`, scheduled.
      wires: the chip and its slice.
      kernels: what kernels cost; one that it does not know takes the operations that it declares,
        at the peak. No kernel is quicker than its bytes at the bandwidth.
    """
    program = parse_program(text)
    return {
        name: _Walk(program, wires, capped, kernels).run()
        for name, capped in (("raw", False), ("capped", True))
    }


@dataclasses.dataclass
class _Queues:
    """When the queues of copies and of communications are free, and when what runs will end."""

    copies: float = 0.0
    links: float = 0.0
    ends: dict[str, tuple[float, str, str]] = dataclasses.field(default_factory=dict)


class _Walk:
    def __init__(self, program: Program, wires: Wires, capped: bool, kernels: Kernels):
        self.program, self.wires, self.chip = program, wires, wires.chip
        self.capped, self.kernels = capped, kernels
        self.loops = Loops(program)
        self.found = Estimate()

    def run(self) -> Estimate:
        entry = self.program.computations.get(self.program.entry or "")
        if entry is not None:
            self.found.seconds = self._computation(entry, 1)
        return self.found

    def _computation(self, computation: Computation, times: int) -> float:
        """Seconds of one pass; what is spent is booked `times` times."""
        now, queues = 0.0, _Queues()
        for instruction in computation.instructions.values():
            now = self._step(instruction, computation, times, now, queues)
        return now

    def _step(
        self,
        instruction: Instruction,
        computation: Computation,
        times: int,
        now: float,
        queues: _Queues,
    ) -> float:
        """When the core is done with this instruction, begun at `now`."""
        opcode = instruction.opcode
        if opcode in FREE:
            return now
        if opcode == "while":
            turns = self._turns(instruction, computation)
            body = self.program.computations[instruction.called["body"][0]]
            return now + turns * self._computation(body, times * turns)
        if opcode == "conditional":
            return now + self._branches(instruction, times)
        if opcode == "call":
            name = instruction.called["to_apply"][0]
            return now + self._computation(self.program.computations[name], times)
        if opcode.endswith("-done") and instruction.operands:
            return self._wait(instruction, times, now, queues)
        talk = communication(instruction, self.program)
        if talk is not None:
            return self._communicate(instruction, computation, times, now, queues, *talk)
        if opcode in _COPIES or opcode == "async-start":
            seconds = self._copied(instruction, computation) / self.chip.bandwidth
            queues.copies = max(now, queues.copies) + seconds
            queues.ends[instruction.name] = (queues.copies, "copies", "")
            return now
        return now + self._compute(instruction, computation, times)

    def _wait(self, instruction: Instruction, times: int, now: float, queues: _Queues) -> float:
        end, part, kind = queues.ends.pop(instruction.operands[0], (now, "", ""))
        waited = end - now
        if waited <= 0:
            return now
        self.found.spend(part, waited * times, instruction.source)
        if part == "communication":
            self.found.communication[kind].exposed += waited * times
        return end

    def _communicate(
        self,
        instruction: Instruction,
        computation: Computation,
        times: int,
        now: float,
        queues: _Queues,
        kind: str,
        carrier: Instruction,
    ) -> float:
        size = self._sent(instruction, computation, kind)
        seconds = self.wires.seconds(kind, size, carrier)
        total = self.found.communication.setdefault(kind, Communication())
        total.count += times
        total.bytes += size * times
        total.seconds += seconds * times
        begin = max(now, queues.links)
        queues.links = begin + seconds
        if instruction.opcode.endswith("-start"):
            queues.ends[instruction.name] = (queues.links, "communication", kind)
            return now
        # A product of matrices that was fused with it runs meanwhile.
        work = flops(instruction, computation, self.program)
        compute = self._compute(instruction, computation, times) if work else 0.0
        waited = max(queues.links - now - compute, 0.0)
        total.exposed += waited * times
        self.found.spend("communication", waited * times, instruction.source)
        return now + compute + waited

    def _sent(self, instruction: Instruction, computation: Computation, kind: str) -> int:
        operands = sum(computation.instructions[name].bytes for name in instruction.operands)
        if kind == "collective-permute":
            return operands
        # The result of a start holds its operands too.
        result = instruction.bytes
        if instruction.opcode.endswith("-start"):
            result = max(result - operands, 0) if kind != "all-reduce" else result
        return max(operands, result)

    def _copied(self, instruction: Instruction, computation: Computation) -> int:
        """Bytes that a started copy moves: those of what comes of it."""
        users = computation.users.get(instruction.name, ())
        done = [user for user in users if user.opcode.endswith("-done")]
        return done[0].bytes if done else instruction.bytes

    def _branches(self, instruction: Instruction, times: int) -> float:
        """The longest branch, as if it were always taken."""
        names = [name for found in instruction.called.values() for name in found]
        walks = []
        for name in names:
            walk = _Walk(self.program, self.wires, self.capped, self.kernels)
            seconds = walk._computation(self.program.computations[name], times)
            walks.append((seconds, walk.found))
        seconds, found = max(walks, key=lambda pair: pair[0])
        _add(self.found, found)
        return seconds

    def _compute(self, instruction: Instruction, computation: Computation, times: int) -> float:
        """Seconds of work of the core itself."""
        if instruction.opcode == "custom-call":
            part, (seconds, work) = "kernel", self._kernel(instruction, computation)
        else:
            work = flops(instruction, computation, self.program)
            part = "matmul" if work else "elementwise"
            seconds = self._cycles(instruction, computation, work > 0)
        self.found.flops += work * times
        if _again(instruction):
            self.found.remat_flops += work * times
        self.found.spend(part, seconds * times, instruction.source)
        return seconds

    def _cycles(self, instruction: Instruction, computation: Computation, matmul: bool) -> float:
        seconds = None
        if instruction.cycles is not None:
            seconds = instruction.cycles / self.chip.clock
            if matmul or not self.capped:
                return seconds
        moved = traffic(instruction, computation, self.program)
        bound = max(
            moved / (REACHED * self.chip.bandwidth),
            elementwise(instruction, self.program) / self.chip.vector,
        )
        return bound if seconds is None else min(seconds, bound)

    def _kernel(self, instruction: Instruction, computation: Computation) -> tuple[float, int]:
        """Seconds and operations of a custom call."""
        if "tpu_custom_call" not in instruction.attributes:
            # Bookkeeping of the compiler: a buffer, a view of one.
            return 0.0, 0
        known = self.kernels(instruction)
        if known is None:
            self.found.unknown_kernels += 1
            work = flops(instruction, computation, self.program)
            known = work / self.chip.peak, work
        moved = traffic(instruction, computation, self.program)
        return max(known[0], moved / (REACHED * self.chip.bandwidth)), known[1]

    def _turns(self, loop: Instruction, computation: Computation) -> int:
        turns = self.loops.turns(loop, computation)
        if turns is None:
            self.found.unknown_loops += 1
            return 1
        return turns


# What stacks and pipelines call their second pass forward; the gradient of it is new.
_AGAIN = re.compile(r"rematted_computation|recompute/(?!.*transpose)")


def _again(instruction: Instruction) -> bool:
    """Whether it was computed before: by the compiler's choice or by that of the program."""
    return ".remat" in instruction.name or _AGAIN.search(instruction.source) is not None


def _add(total: Estimate, part: Estimate) -> None:
    total.flops += part.flops
    total.remat_flops += part.remat_flops
    total.unknown_loops += part.unknown_loops
    total.unknown_kernels += part.unknown_kernels
    for name, seconds in part.parts.items():
        total.parts[name] = total.parts.get(name, 0.0) + seconds
    for name, seconds in part.sources.items():
        total.sources[name] = total.sources.get(name, 0.0) + seconds
    for kind, found in part.communication.items():
        own = total.communication.setdefault(kind, Communication())
        for field in dataclasses.fields(Communication):
            value = getattr(own, field.name) + getattr(found, field.name)
            setattr(own, field.name, value)
