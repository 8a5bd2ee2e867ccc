"""What a kernel's call costs is read from how the program names and shapes it."""

import pytest

from babeldraw.estimate.chips import CHIPS
from babeldraw.estimate.hlo import parse_program
from babeldraw.estimate.kernel_costs import (
    BUNDLES,
    ROLE_BUNDLES,
    SHORT_BUNDLES,
    WINDOW_BUNDLES,
    kernel_cost,
)

KERNEL = """ENTRY %main () -> f32[] {
  %NAME = (f32[8,512,128], bf16[8,16,1024,64]) custom-call(), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/SHAPE/kernel"}
}
"""  # noqa: E501


def cost(name="splash_mha_fwd_residuals.3", shape="splash_3_of_4_of_512x512", generation="v4"):
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


SHORT = KERNEL.replace("f32[8,512,128], bf16[8,16,1024,64]", "bf16[8,16,64,1024], f32[8,16,1,1024]")


@pytest.mark.parametrize(("phase", "products"), [("fwd", 2), ("bwd", 5)])
def test_of_short_sequences_a_call_takes_its_bundles_for_each_head(phase, products):
    text = SHORT.replace("NAME", f"short_attention_{phase}.7").replace(
        "SHAPE", "short_21_of_1024x1024"
    )
    (instruction,) = parse_program(text).computations["main"].instructions.values()
    seconds, operations = kernel_cost(instruction, "v5e")
    bundles = SHORT_BUNDLES["v5e"][21, 1024, 1024, 64][phase == "bwd"]
    # One core.
    assert seconds == pytest.approx(bundles * 8 * 16 / CHIPS["v5e"].clock)
    assert operations == products * 2 * 8 * 16 * 21 * 128 * 128 * 64


def test_by_roles_a_call_takes_bundles_of_its_own():
    seconds = []
    for shape in ("short_16_of_512x512_by_role", "short_16_of_512x512"):
        text = SHORT.replace("NAME", "short_attention_fwd.7").replace("SHAPE", shape)
        text = text.replace("[8,16,64,1024]", "[8,16,64,512]")
        (instruction,) = parse_program(text).computations["main"].instructions.values()
        seconds.append(kernel_cost(instruction, "v4"))
    bundles = ROLE_BUNDLES["v4"][16, 512, 512, 64][0]
    assert seconds[0][0] == pytest.approx(bundles * 8 * 16 / 2 / CHIPS["v4"].clock)
    # Of the same tiles without roles none was counted.
    assert seconds[1] is None


@pytest.mark.parametrize(("phase", "count", "products"), [("fwd", 5, 2), ("dq", 2, 3)])
def test_of_windows_a_call_takes_its_bundles_for_each_tile_and_head(phase, count, products):
    text = SHORT.replace("NAME", f"window_attention_{phase}.7").replace("SHAPE", f"window_{count}")
    (instruction,) = parse_program(text).computations["main"].instructions.values()
    seconds, operations = kernel_cost(instruction, "v5e")
    steps = 8 * 16 * 8
    bundles = WINDOW_BUNDLES["v5e"][phase, count, 64]
    assert seconds == pytest.approx(bundles * steps / CHIPS["v5e"].clock)
    assert operations == products * 2 * steps * count * 128 * 128 * 64


def test_what_is_not_known_is_not_guessed():
    assert cost(name="another_kernel.1") is None
    assert cost(shape="splash_3_of_4_of_384x384") is None
    assert cost(name="short_attention_fwd.1", shape="short_22_of_1024x1024") is None
    assert cost(name="window_attention_fwd.1", shape="window_7") is None
