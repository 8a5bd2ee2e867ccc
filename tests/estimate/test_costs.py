"""What instructions work on: convolutions counted one by one, bytes of slices and updates."""

import itertools

import pytest

from babeldraw.estimate.costs import elementwise, flops, traffic
from babeldraw.estimate.hlo import parse_program


def last(entry, before=""):
    """The costs of the last instruction of a program: operations, bytes, elements."""
    program = parse_program(f"{before}\nENTRY %main () -> f32[] {{\n{entry}\n}}\n")
    main = program.computations["main"]
    instruction = list(main.instructions.values())[-1]
    return (
        flops(instruction, main, program),
        traffic(instruction, main, program),
        elementwise(instruction, program),
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "low", "high", "dilate", "kernel_dilate"),
    [
        (7, 3, 1, 1, 1, 1, 1),
        (8, 3, 2, 0, 1, 1, 1),
        (5, 4, 1, 3, 3, 2, 1),
        (9, 3, 2, 2, 2, 1, 2),
        # A batch of products of matrices, as TPUs write it: each output meets one input.
        (6, 6, 5, 0, 0, 6, 1),
        (4, 4, 1, 3, 3, 1, 1),
    ],
)
def test_a_convolution_counts_what_meets_a_real_input(
    size, kernel, stride, low, high, dilate, kernel_dilate
):
    padded = (size - 1) * dilate + 1 + low + high
    out = (padded - (kernel - 1) * kernel_dilate - 1) // stride + 1
    real = {low + i * dilate for i in range(size)}
    met = sum(
        o * stride + k * kernel_dilate in real
        for o, k in itertools.product(range(out), range(kernel))
    )
    window = f"size={kernel} stride={stride} pad={low}_{high} lhs_dilate={dilate} "
    entry = f"""  %x = bf16[2,{size},3] parameter(0)
  %w = bf16[{kernel},3,5] parameter(1)
  %c = bf16[2,{out},5] convolution(%x, %w), window={{{window}rhs_dilate={kernel_dilate}}}, dim_labels=b0f_0io->b0f"""  # noqa: E501
    assert last(entry)[0] == 2 * 2 * 5 * 3 * met


def test_a_product_counts_its_contraction():
    entry = """  %x = f32[4,6] parameter(0)
  %w = f32[6,5] parameter(1)
  %d = f32[4,5] dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}"""
    assert last(entry) == (2 * 4 * 5 * 6, 4 * (4 * 6 + 6 * 5 + 4 * 5), 0)


SLICING = """
%slicing (a: f32[100,8], b: f32[8], i: s32[]) -> f32[1,8] {
  %a = f32[100,8] parameter(0)
  %b = f32[8] parameter(1)
  %i = s32[] parameter(2)
  %row = f32[1,8] dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,8}
  %wide = f32[1,8] broadcast(%b), dimensions={1}
  ROOT %sum = f32[1,8] add(%row, %wide)
}
"""
UPDATING = """
%updating (a: f32[100,8], u: f32[1,8], i: s32[]) -> f32[100,8] {
  %a = f32[100,8] parameter(0)
  %u = f32[1,8] parameter(1)
  %i = s32[] parameter(2)
  ROOT %new = f32[100,8] dynamic-update-slice(%a, %u, %i, %i)
}
"""


def test_of_a_sliced_operand_the_slice_is_read():
    entry = """  %a = f32[100,8] parameter(0)
  %b = f32[8] parameter(1)
  %i = s32[] parameter(2)
  %f = f32[1,8] fusion(%a, %b, %i), kind=kLoop, calls=%slicing"""
    assert last(entry, SLICING) == (0, 4 * (8 + 8 + 1 + 8), 8)


def test_an_update_in_place_moves_the_update():
    entry = """  %a = f32[100,8] parameter(0)
  %u = f32[1,8] parameter(1)
  %i = s32[] parameter(2)
  %f = f32[100,8] fusion(%a, %u, %i), kind=kLoop, calls=%updating"""
    assert last(entry, UPDATING) == (0, 4 * (8 + 1 + 8), 0)
