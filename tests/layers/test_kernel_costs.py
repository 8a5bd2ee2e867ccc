"""What a kernel's call costs is read from how the program names and shapes it."""

import pytest

from babeldraw.layers.kernel_costs import BUNDLES, kernel_cost
from babeldraw.sharding.chips import CHIPS
from babeldraw.sharding.hlo import parse_program

KERNEL = """ENTRY %main () -> f32[] {
  %NAME = (f32[8,512,128], bf16[8,16,1024,64]) custom-call(), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/splash_SHAPE/kernel"}
}
"""  # noqa: E501


def cost(name="splash_mha_fwd_residuals.3", shape="3_of_4_of_512x512", generation="v4"):
    program = parse_program(KERNEL.replace("NAME", name).replace("SHAPE", shape))
    (instruction,) = program.computations["main"].instructions.values()
    return kernel_cost(instruction, generation)


def test_a_call_takes_its_bundles_for_each_block_that_is_computed():
    forward, backward = BUNDLES["v4", 512, 512]
    # 8 examples of 16 heads, three blocks each, on two cores.
    steps, block = 8 * 16 * 3, 512 * 512 * 64
    seconds, operations = cost()
    assert seconds == pytest.approx(forward * steps / 2 / CHIPS["v4"].clock)
    assert operations == 2 * 2 * block * steps
    seconds, operations = cost("splash_mha_dkv_no_residuals.1")
    assert seconds == pytest.approx(backward * steps / 2 / CHIPS["v4"].clock)
    assert operations == 5 * 2 * block * steps


def test_what_is_not_known_is_not_guessed():
    assert cost(name="another_kernel.1") is None
    assert cost(shape="3_of_4_of_384x384") is None
