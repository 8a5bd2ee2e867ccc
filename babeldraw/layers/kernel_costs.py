"""What a call of a splash kernel costs on a TPU, for estimates of a program's time.

The compiler gives a kernel no estimate. It does count the bundles (instruction words, one cycle
each) of one step of the kernel's grid: `docs/examples/kernel_bundles.py` makes it print them and
has filled the table. A call takes bundles x steps / cores cycles, steps being blocks of the square
of logits that are computed, for each head and example.
"""

import re

from babeldraw.sharding.chips import CHIPS
from babeldraw.sharding.hlo import Instruction

# Bundles of (forward, backward) by generation and size of a block (queries, keys), for heads of 64:
# of conv-shaped masks, a little above those of causal ones; of blocks of 128 keys, with padding.
BUNDLES: dict[tuple[str, int, int], tuple[int, int]] = {
    ("v4", 512, 512): (3279, 4042),
    ("v4", 512, 128): (2157, 1685),
    ("v4", 128, 128): (818, 902),
    ("v5p", 512, 512): (2326, 3304),
    ("v5p", 512, 128): (1578, 1508),
    ("v5p", 128, 128): (549, 640),
    ("v5e", 512, 512): (2268, 3101),
    ("v5e", 512, 128): (1632, 1264),
    ("v5e", 128, 128): (480, 519),
    ("v6e", 512, 512): (1598, 2105),
    ("v6e", 512, 128): (1087, 994),
    ("v6e", 128, 128): (446, 474),
}
# Products of matrices per block: forward query key^T and weights value; fused backward five.
_PRODUCTS = {"fwd": 2, "dkv": 5}


def kernel_cost(instruction: Instruction, generation: str) -> tuple[float, int] | None:
    """Seconds and operations of a call; None where the kernel or its block is not known."""
    phase = re.search(r"splash_mha_(fwd|dkv)", instruction.name)
    blocks = re.search(r"splash_(\d+)_of_(\d+)_of_(\d+)x(\d+)", instruction.source)
    if phase is None or blocks is None:
        return None
    active, _, rows, columns = map(int, blocks.groups())
    known = BUNDLES.get((generation, rows, columns))
    # The first of its arrays with four dimensions: [B, N, T, H].
    shaped = [array.dims for array in instruction.arrays if len(array.dims) >= 4]
    if known is None or not shaped:
        return None
    *_, heads, _, head_dim = shaped[0]
    steps = active * shaped[0][0] * heads
    chip = CHIPS[generation]
    cores = 2 if chip.config == "megacore" else 1
    bundles = known[0 if phase.group(1) == "fwd" else 1]
    products = _PRODUCTS[phase.group(1)]
    return (
        bundles * steps / cores / chip.clock,
        2 * products * steps * rows * columns * head_dim,
    )
