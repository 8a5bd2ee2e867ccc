"""What a call of an attention kernel costs on a TPU, for estimates of a program's time.

The compiler gives a kernel no estimate. It does count the bundles (instruction words, one cycle
each) of one step of the kernel's grid: `docs/examples/kernel_bundles.py` makes it print them and
has filled the tables. What a step costs besides, and memory where that is slower, is left out.
"""

import re

from babeldraw.estimate.chips import CHIPS
from babeldraw.estimate.hlo import Instruction
from babeldraw.layers.tiles import TILE

# Bundles of (forward, backward) of splash attention, whose steps are blocks of the square of logits
# that are computed, by generation and size of a block (queries, keys), for heads of 64: of
# conv-shaped masks, a little above those of causal ones; of blocks of 128 keys, with padding.
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
# The same of attention of short sequences, for a head of one example, by tiles that are computed,
# queries, keys and values of a head: the conv-shaped mask of 32 by 32 tokens, the causal one, none,
# those of text, with padding, three sequences of 33 side by side, causal ones of 256 and of 576
# positions. A step of the grid takes eight heads of 128 positions, four of 256, one of 640 and of
# 1,024. For bfloat16; float32 takes up to 8 % more.
SHORT_BUNDLES: dict[str, dict[tuple[int, int, int, int], tuple[float, float]]] = {
    "v4": {
        (21, 1024, 1024, 64): (2929, 4106),
        (36, 1024, 1024, 64): (4495, 7053),
        (36, 1024, 1024, 96): (4745, 8047),
        (64, 1024, 1024, 64): (7182, 12603),
        (64, 1024, 1024, 80): (7420, 13206),
        (64, 1024, 1024, 128): (8266, 11936),
        (8, 1024, 128, 64): (1449, 2123),
        (1, 128, 128, 64): (1284 / 8, 2049 / 8),
        (1, 128, 128, 48): (1209 / 8, 1862 / 8),
        (3, 256, 256, 64): (1820 / 4, 2696 / 4),
        (15, 640, 640, 64): (2076, 3146),
    },
    "v5p": {
        (21, 1024, 1024, 64): (2055, 3747),
        (36, 1024, 1024, 64): (2880, 6229),
        (36, 1024, 1024, 96): (3191, 7238),
        (64, 1024, 1024, 64): (4523, 10906),
        (64, 1024, 1024, 80): (4668, 11706),
        (64, 1024, 1024, 128): (5217, 10824),
        (8, 1024, 128, 64): (1124, 1733),
        (1, 128, 128, 64): (1073 / 8, 1745 / 8),
        (1, 128, 128, 48): (958 / 8, 1581 / 8),
        (3, 256, 256, 64): (1319 / 4, 2362 / 4),
        (15, 640, 640, 64): (1382, 2771),
    },
    "v5e": {
        (21, 1024, 1024, 64): (1870, 3661),
        (36, 1024, 1024, 64): (2717, 6129),
        (36, 1024, 1024, 96): (3003, 7154),
        (64, 1024, 1024, 64): (4342, 10868),
        (64, 1024, 1024, 80): (4708, 11793),
        (64, 1024, 1024, 128): (5290, 10701),
        (8, 1024, 128, 64): (1014, 1683),
        (1, 128, 128, 64): (976 / 8, 1711 / 8),
        (1, 128, 128, 48): (939 / 8, 1539 / 8),
        (3, 256, 256, 64): (1250 / 4, 2277 / 4),
        (15, 640, 640, 64): (1297, 2644),
    },
    "v6e": {
        (21, 1024, 1024, 64): (1855, 3829),
        (36, 1024, 1024, 64): (2696, 6169),
        (36, 1024, 1024, 96): (2968, 6737),
        (64, 1024, 1024, 64): (4184, 10638),
        (64, 1024, 1024, 80): (4889, 10414),
        (64, 1024, 1024, 128): (4854, 9830),
        (8, 1024, 128, 64): (617, 1686),
        (1, 128, 128, 64): (660 / 8, 1605 / 8),
        (1, 128, 128, 48): (635 / 8, 1592 / 8),
        (3, 256, 256, 64): (1381 / 4, 2167 / 4),
        (15, 640, 640, 64): (1259, 2587),
    },
}
# The same by roles of each example (`masks.ByRole`): CogLM's, some of which are seen from
# everywhere, of 511 slots, and Llama's, which hide padding, of 375; a step takes two heads.
ROLE_BUNDLES: dict[str, dict[tuple[int, int, int, int], tuple[float, float]]] = {
    "v4": {
        (16, 512, 512, 64): (4630 / 2, 6666 / 2),
        (6, 384, 384, 64): (2123 / 2, 2934 / 2),
    },
    "v5p": {
        (16, 512, 512, 64): (2720 / 2, 5568 / 2),
        (6, 384, 384, 64): (1390 / 2, 2428 / 2),
    },
    "v5e": {
        (16, 512, 512, 64): (2636 / 2, 5447 / 2),
        (6, 384, 384, 64): (1332 / 2, 2338 / 2),
    },
    "v6e": {
        (16, 512, 512, 64): (2500 / 2, 5426 / 2),
        (6, 384, 384, 64): (1237 / 2, 2223 / 2),
    },
}
# Of attention to windows, for a tile of 128 queries, or of keys in "dkv", and a head, by the tiles
# that it looks at and values of a head: 9 x 5 of 60 x 60 cells, and 5 x 5 of 20 x 20 by three times
# as many. A step takes four heads of 5 tiles, eight of 2, one of 17.
WINDOW_BUNDLES: dict[str, dict[tuple[str, int, int], float]] = {
    "v4": {
        ("fwd", 5, 64): 2866 / 4,
        ("dq", 5, 64): 2981 / 4,
        ("dkv", 5, 64): 4226 / 4,
        ("fwd", 2, 64): 2619 / 8,
        ("dq", 2, 64): 2754 / 8,
        ("dkv", 17, 64): 4384,
    },
    "v5p": {
        ("fwd", 5, 64): 2030 / 4,
        ("dq", 5, 64): 2749 / 4,
        ("dkv", 5, 64): 3654 / 4,
        ("fwd", 2, 64): 1989 / 8,
        ("dq", 2, 64): 2532 / 8,
        ("dkv", 17, 64): 3387,
    },
    "v5e": {
        ("fwd", 5, 64): 2039 / 4,
        ("dq", 5, 64): 2792 / 4,
        ("dkv", 5, 64): 3727 / 4,
        ("fwd", 2, 64): 2001 / 8,
        ("dq", 2, 64): 2577 / 8,
        ("dkv", 17, 64): 3474,
    },
    "v6e": {
        ("fwd", 5, 64): 1868 / 4,
        ("dq", 5, 64): 2758 / 4,
        ("dkv", 5, 64): 2995 / 4,
        ("fwd", 2, 64): 1603 / 8,
        ("dq", 2, 64): 1856 / 8,
        ("dkv", 17, 64): 2576,
    },
}
# Products of matrices per block or tile: forward query key^T and weights value; backward five.
_PRODUCTS = {"fwd": 2, "bwd": 5, "dkv": 5}
_WINDOW_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def kernel_cost(instruction: Instruction, generation: str) -> tuple[float, int] | None:
    """Seconds and operations of a call; None where the kernel or its block is not known."""
    calls = (kind(instruction, generation) for kind in (_splash, _short, _window))
    call = next((found for found in calls if found), None)
    if call is None:
        return None
    bundles, operations = call
    chip = CHIPS[generation]
    cores = 2 if chip.config == "megacore" else 1
    return bundles / cores / chip.clock, operations


def _splash(instruction: Instruction, generation: str) -> tuple[float, int] | None:
    """Bundles and operations of a call."""
    phase = re.search(r"splash_mha_(fwd|dkv)", instruction.name)
    blocks = re.search(r"splash_(\d+)_of_(\d+)_of_(\d+)x(\d+)", instruction.source)
    # The first of its arrays with four dimensions: [B, N, T, H].
    shaped = [array.dims for array in instruction.arrays if len(array.dims) >= 4]
    if phase is None or blocks is None or not shaped:
        return None
    active, _, rows, columns = map(int, blocks.groups())
    known = BUNDLES.get((generation, rows, columns))
    if known is None:
        return None
    *_, heads, _, head_dim = shaped[0]
    steps = active * shaped[0][0] * heads
    products = _PRODUCTS[phase.group(1)]
    bundles = known[phase.group(1) != "fwd"]
    return bundles * steps, 2 * products * steps * rows * columns * head_dim


def _short(instruction: Instruction, generation: str) -> tuple[float, int] | None:
    """Bundles and operations of a call."""
    phase = re.search(r"short_attention_(fwd|bwd)", instruction.name)
    tiles = re.search(r"short_(\d+)_of_(\d+)x(\d+)(_by_role)?", instruction.source)
    # [B, N, H, T].
    shaped = [array.dims for array in instruction.arrays if len(array.dims) == 4]
    if phase is None or tiles is None or not shaped:
        return None
    count, queries, keys = map(int, tiles.groups()[:3])
    batch, heads, head_dim, _ = shaped[0]
    table = ROLE_BUNDLES if tiles.group(4) else SHORT_BUNDLES
    known = table.get(generation, {}).get((count, queries, keys, head_dim))
    if known is None:
        return None
    area = batch * heads * count * TILE * TILE
    bundles = known[phase.group(1) != "fwd"]
    return bundles * batch * heads, 2 * _PRODUCTS[phase.group(1)] * area * head_dim


def _window(instruction: Instruction, generation: str) -> tuple[float, int] | None:
    """Bundles and operations of a call."""
    phase = re.search(r"window_attention_(fwd|dq|dkv)", instruction.name)
    looked_at = re.search(r"window_(\d+)", instruction.source)
    # [B, N, H, T], of the tiles that the grid goes through.
    shaped = [array.dims for array in instruction.arrays if len(array.dims) == 4]
    if phase is None or looked_at is None or not shaped:
        return None
    count = int(looked_at.group(1))
    batch, heads, head_dim, length = shaped[0]
    known = WINDOW_BUNDLES.get(generation, {}).get((phase.group(1), count, head_dim))
    if known is None:
        return None
    steps = batch * heads * (length // TILE)
    products = _WINDOW_PRODUCTS[phase.group(1)]
    return known * steps, 2 * products * steps * count * TILE * TILE * head_dim
