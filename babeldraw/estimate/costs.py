"""What one instruction of a compiled program works on: operations, bytes, elements."""

import math
import re

from babeldraw.estimate.hlo import Array, Computation, Instruction, Program

# No work at all: names for what is there already.
FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all opt-barrier partition-id "
    "replica-id add-dependency iota".split()
)
_MOVES = FREE | frozenset(
    "copy broadcast reshape transpose slice dynamic-slice dynamic-update-slice concatenate pad "
    "fusion call while conditional convolution dot custom-call".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")


def flops(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Multiplications and additions of matrix units, those of one pass through a loop's body.

    A kernel (custom call) counts what its author declared of it.
    """
    if instruction.opcode in ("convolution", "dot"):
        lhs, rhs = (computation.instructions[name].arrays[0] for name in instruction.operands[:2])
        if instruction.opcode == "dot":
            return _dot_flops(instruction, lhs)
        return _convolution_flops(instruction, lhs, rhs)
    if instruction.opcode == "custom-call":
        return _declared(instruction, "flops")
    if instruction.opcode in ("fusion", "call", "async-start"):
        return sum(
            flops(inner, program.computations[name], program)
            for name in _fused(instruction)
            for inner in program.computations[name].instructions.values()
        )
    return 0


def traffic(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that it reads and writes, wherever they lie.

    Of an operand that is only sliced, the slices count; of one that is updated in place, the
    update, once.
    """
    operands = [computation.instructions[name] for name in instruction.operands]
    fused = _fused(instruction)
    if instruction.opcode == "fusion" and fused:
        inner = program.computations[fused[0]]
        reads = sum(_read(p, inner, program) for p in inner.parameters)
        return reads + _written(inner, inner.root)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes
    if instruction.opcode in _SLICES:
        return 2 * instruction.bytes
    if instruction.opcode == "custom-call":
        declared = _declared(instruction, "bytes_accessed")
        if declared:
            return declared
    return sum(operand.bytes for operand in operands) + instruction.bytes


def elementwise(instruction: Instruction, program: Program) -> int:
    """Operations of vector units: one per element and arithmetic instruction."""
    if instruction.opcode in ("fusion", "call"):
        return sum(
            elementwise(inner, program)
            for name in _fused(instruction)
            for inner in program.computations[name].instructions.values()
        )
    return 0 if instruction.opcode in _MOVES else sum(a.elements for a in instruction.arrays)


def _fused(instruction: Instruction) -> tuple[str, ...]:
    return instruction.called.get("calls", instruction.called.get("to_apply", ()))


def _declared(instruction: Instruction, field: str) -> int:
    match = re.search(rf'"{field}":"?(\d+)', instruction.attributes)
    return int(match.group(1)) if match else 0


def _read(parameter: Instruction, inner: Computation, program: Program) -> int:
    """Bytes of a fusion's operand that it reads."""
    total = 0
    for user in inner.users.get(parameter.name, ()):
        if user.opcode in _SLICES and user.operands[0] == parameter.name:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue
        elif user.opcode in ("bitcast", "reshape"):
            total += _read(user, inner, program)
        elif user.opcode == "fusion" and _fused(user):
            nested = program.computations[_fused(user)[0]]
            for at, name in enumerate(user.operands):
                if name == parameter.name and at < len(nested.parameters):
                    total += _read(nested.parameters[at], nested, program)
        else:
            return parameter.bytes
    return min(total, parameter.bytes)


def _written(inner: Computation, root: Instruction | None) -> int:
    if root is None:
        return 0
    if root.opcode == "tuple":
        return sum(_written(inner, inner.instructions[name]) for name in root.operands)
    if root.opcode == "dynamic-update-slice":
        return inner.instructions[root.operands[1]].bytes
    if root.opcode == "bitcast" and root.operands[0] in inner.instructions:
        return _written(inner, inner.instructions[root.operands[0]])
    return root.bytes


def _dot_flops(instruction: Instruction, lhs: Array) -> int:
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    dims = [int(n) for n in match.group(1).split(",") if n] if match else []
    return 2 * instruction.arrays[0].elements * math.prod(lhs.dims[d] for d in dims)


def _convolution_flops(instruction: Instruction, lhs: Array, rhs: Array) -> int:
    """Exact: products with padding and with the holes of a dilated input do not count.

    TPUs write a product of matrices as a convolution, and its batch as a spatial dimension with so
    much dilation and stride that each output meets one input.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        return 0
    of_lhs, of_rhs, of_out = labels.groups()
    out = instruction.arrays[0]
    total = 2 * out.dims[of_out.index("b")] * out.dims[of_out.index("f")]
    total *= rhs.dims[of_rhs.index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(f.split("=") for f in window.group(1).split()) if window else {}
    for at, label in enumerate(letter for letter in of_rhs if letter.isdigit()):
        spatial = _along(fields, int(label) if label.isdigit() else at)
        total *= _pairs(
            lhs.dims[of_lhs.index(label)],
            rhs.dims[of_rhs.index(label)],
            out.dims[of_out.index(label)],
            *spatial,
        )
    return total


def _along(fields: dict[str, str], at: int) -> tuple[int, int, int, int]:
    """stride, low padding, dilation of the input and of the kernel along a spatial dimension."""

    def of(name: str, default: int) -> int:
        if name not in fields:
            return default
        return int(fields[name].split("x")[at].split("_")[0])

    return of("stride", 1), of("pad", 0), of("lhs_dilate", 1), of("rhs_dilate", 1)


def _pairs(
    size: int, kernel: int, out: int, stride: int, low: int, dilate: int, kernel_dilate: int
) -> int:
    """Pairs of an output and a kernel position that meet a real input."""
    last = (size - 1) * dilate
    count = 0
    for k in range(kernel):
        # Outputs o with 0 <= o * stride + k * kernel_dilate - low <= last, on a multiple of dilate.
        shift = k * kernel_dilate - low
        first = max(0, -(shift // stride))
        final = min(out - 1, (last - shift) // stride)
        if final < first:
            continue
        if dilate == 1:
            count += final - first + 1
        else:
            common = math.gcd(stride, dilate)
            if shift % common:
                continue
            step = dilate // common
            start = next(
                o for o in range(first, first + step) if (o * stride + shift) % dilate == 0
            )
            count += max(0, (final - start) // step + 1)
    return count
