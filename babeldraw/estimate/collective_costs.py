"""How long a communication takes on the links of a TPU slice."""

import dataclasses
import math
import re

from babeldraw.estimate.chips import Chip
from babeldraw.estimate.hlo import Instruction, Program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# What TPUs call a communication fused with its neighbours; the first that is found counts.
_FUSED = ("all-reduce-scatter", "reduce-scatter", "all-gather", "all-reduce", "all-to-all")
Place = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Wires:
    """The links of a slice.

    Attributes:
      chip: its figures.
      places: of each device, in the order of the mesh: slice, then coordinates in the torus. Empty
        where unknown; then groups are taken for rings of two directions.
      rings: of each dimension of the torus, whether its ends are joined.
    """

    chip: Chip
    places: tuple[Place, ...] = ()
    rings: tuple[bool, ...] = ()

    def seconds(self, kind: str, size: int, instruction: Instruction) -> float:
        """Of one communication.

        Args:
          kind: one of KINDS.
          size: bytes of the larger of input and output on one device (of a permute: sent).
          instruction: carries the groups and, for some, the algorithm that was chosen.
        """
        if kind == "collective-permute":
            return self._permute(size, instruction)
        group = groups(instruction.attributes, len(self.places))
        count = len(group)
        if count == 1:
            return 0.0
        share = size * (count - 1) / max(count, 1) if count else size
        if kind == "all-reduce":
            share *= 2
        if self._crosses_slices(group):
            return share / len({self.places[i][0] for i in group}) / self.chip.network
        links, ways = self._links(group), _directions(instruction.attributes)
        if ways:
            links = min(links, ways) if self.places else ways
        if kind == "all-to-all":
            return share * self._hops(group, count) / self.chip.link
        return share / links / self.chip.link

    def _links(self, group: tuple[int, ...]) -> int:
        """Links by which the worst placed chip of a group can send to the others at once.

        Along each dimension, the directions in which others lie by the shortest way; the end of a
        line, or of a part of a ring, has one.
        """
        if not self.places or not group:
            return 2
        total = 0
        for dim, ring in enumerate(self.rings):
            along = {self.places[i][dim + 1] for i in group}
            size = 1 + max(place[dim + 1] for place in self.places)
            if len(along) == 2:
                # Both ways around lead to the same chip, over links that others use.
                total += 1
            elif len(along) > 2:
                total += min(_ways(at, along, size if ring else 0) for at in along)
        return max(total, 1)

    def _hops(self, group: tuple[int, ...], count: int) -> float:
        """Links that each value of an all-to-all crosses, over those that a chip has there.

        Along the longest dimension: a quarter of a ring on average, and of a line as much as its
        middle link carries.
        """
        if not self.places or not group:
            return max(count / 8, 0.5)
        sizes = [
            (len({self.places[i][dim + 1] for i in group}), ring)
            for dim, ring in enumerate(self.rings)
        ]
        size, ring = max(sizes)
        return max(size / 8 if ring else size / 4, 0.5)

    def _crosses_slices(self, group: tuple[int, ...]) -> bool:
        return bool(self.places) and len({self.places[i][0] for i in group}) > 1

    def _permute(self, size: int, instruction: Instruction) -> float:
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", instruction.attributes)
        ends = re.findall(r"\{(\d+),(\d+)", pairs.group(1)) if pairs else []
        hops = 1
        for a, b in ends[:64] if self.places else []:
            one, other = self.places[int(a)], self.places[int(b)]
            if one[0] != other[0]:
                return size / self.chip.network
            hops = max(hops, self._distance(one[1:], other[1:]))
        # Where each chip sends so far, each link carries as many.
        return size * hops / self.chip.link

    def _distance(self, one: Place, other: Place) -> int:
        total = 0
        for dim, ring in enumerate(self.rings):
            size = 1 + max(place[dim + 1] for place in self.places)
            apart = abs(one[dim] - other[dim])
            total += min(apart, size - apart) if ring else apart
        return total


def _ways(at: int, others: set[int], ring: int) -> int:
    """Directions, one or two, in which others lie by the shortest way.

    Args:
      at: a chip's coordinate.
      others: coordinates of its group.
      ring: chips around the ring; 0 for a line.
    """
    if not ring:
        return (min(others) < at) + (max(others) > at)
    steps = {(other - at) % ring for other in others} - {0}
    return any(2 * step <= ring for step in steps) + any(2 * step >= ring for step in steps)


def communication(instruction: Instruction, program: Program) -> tuple[str, Instruction] | None:
    """Its kind and the instruction that carries groups, where it is or holds a communication."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in KINDS:
        return opcode, instruction
    if opcode not in ("fusion", "async"):
        return None
    names = instruction.called.get("calls", ())
    for name in names:
        for inner in program.computations[name].instructions.values():
            found = communication(inner, program)
            if found:
                kind, carrier = found
                if kind == "all-reduce" and "all-reduce-scatter" in name:
                    kind = "reduce-scatter"
                return kind, carrier
    return None


def groups(attributes: str, devices: int) -> tuple[int, ...]:
    """Devices of the first group, by their place in the mesh; empty: all, or unknown.

    Three spellings: `{{0,1},{2,3}}`, `[2,2]<=[2,2]T(1,0)` and `mesh['a'=2,'b'=2] {'b'}`. The last
    may say behind the mesh which devices stand in it, row by row: `device_ids=([2,2]T(1,0))`, or
    one by one, `device_ids=(0,2,1,3)`; without, they stand in their order.
    """
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(n) for n in listed.group(1).split(","))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        return _iota_group(int(iota.group(2)), *iota.groups()[2:])
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*(?:\)[^)]*)?)\))? \{([^}]*)\}",
        attributes,
    )
    if mesh:
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh.group(1))]
        ids = _device_ids(mesh.group(2) or "")
        group = _mesh_group(axes, _axes_over(mesh.group(3)))
        return tuple(sorted(ids[place] for place in group)) if ids else group
    return tuple(range(devices))


def _device_ids(text: str) -> tuple[int, ...]:
    """Which device stands at each place of a mesh; empty: each at its own."""
    iota = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        count = math.prod(int(size) for size in iota.group(1).split(","))
        return _iota_group(count, *iota.groups())
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _axes_over(text: str) -> dict[str, tuple[int, int]]:
    """Axes that a group spans, as (size of what is slower inside the axis, size of the part).

    `'a'` is the whole axis, written (0, 0); `'a':(2)4` those 4 steps of it that lie below 2.
    """
    found = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", text)
    return {name: (int(before or 0), int(size or 0)) for name, before, size in found}


def _iota_group(size: int, dims: str, order: str | None) -> tuple[int, ...]:
    shape = [int(n) for n in dims.split(",")]
    axes = [int(n) for n in order.split(",")] if order else list(range(len(shape)))
    strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    found = []
    for flat in range(size):
        index, rest = 0, flat
        for axis in reversed(axes):
            index += rest % shape[axis] * strides[axis]
            rest //= shape[axis]
        found.append(index)
    return tuple(found)


def _mesh_group(axes: list[tuple[str, int]], over: dict[str, tuple[int, int]]) -> tuple[int, ...]:
    found = [0]
    stride = math.prod(size for _, size in axes)
    for name, size in axes:
        stride //= size
        if name in over:
            before, part = over[name] if over[name][1] else (1, size)
            step = stride * (size // before // part)
            found = [base + at * step for base in found for at in range(part)]
    return tuple(sorted(found))


def _directions(attributes: str) -> int:
    """In how many directions the compiler's algorithm sends at once; 0 where it does not say.

    A colour is a way around the rings of a group. Strategies go it in both directions, each half of
    the bytes (they list twice as many spans as shards), but for those named after one direction.
    """
    match = re.search(r"(\w*Strategy\w*)\{colors:(\d+)", attributes)
    if match is None:
        return 0
    return int(match.group(2)) * (1 if "UniDirection" in match.group(1) else 2)
