"""Weights of DiT, PyTorch's names; the network is `models.dit` that draws from a class."""

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.models.dit import DiTConfig

_BLOCK, _THEIRS = "stack/blocks", "blocks.{layer}"
_FINAL = "final_layer"


def _linear(ours: str, theirs: str, weight: str = "o i -> i o", bias: str = "") -> Table:
    return (
        Row(f"{ours}/weight", f"{theirs}.weight", weight),
        Row(f"{ours}/bias", f"{theirs}.bias", bias),
    )


def _of_blocks() -> Table:
    heads = f"{_BLOCK}/attention/{{query,key,value}}"
    qkv = ("(3 n h) d -> 3 d n h", "(3 n h) -> 3 n h")
    # Shift, scale and gate of attention, then of the feed-forward; before it a SiLU.
    moved = ("(2 k d) c -> 2 c k d", "(2 k d) -> 2 k d")
    modulation = f"{_BLOCK}/{{attention,ffn}}_modulation"
    return (
        *_linear(heads, f"{_THEIRS}.attn.qkv", *qkv),
        *_linear(f"{_BLOCK}/attention/out", f"{_THEIRS}.attn.proj", "d (n h) -> n h d"),
        *_linear(f"{_BLOCK}/ffn/up", f"{_THEIRS}.mlp.fc1"),
        *_linear(f"{_BLOCK}/ffn/down", f"{_THEIRS}.mlp.fc2"),
        *_linear(modulation, f"{_THEIRS}.adaLN_modulation.1", *moved),
    )


def dit(config: DiTConfig) -> Table:
    """Of `DiT-XL-2-256x256.pt`, whatever the sizes."""
    side = config.patch_size
    return (
        # A convolution whose stride is its size: the product of a square of codes.
        *_linear("patches", "x_embedder.proj", f"d c p={side} q={side} -> (p q c) d"),
        *_linear("time/first", "t_embedder.mlp.0"),
        *_linear("time/second", "t_embedder.mlp.2"),
        # Classes, then no class.
        Row("prefix/embed/table", "y_embedder.embedding_table.weight"),
        *_of_blocks(),
        # Shift and scale, in this order: `AdaptiveNorm.backwards`.
        *_linear(
            "norm/modulation",
            f"{_FINAL}.adaLN_modulation.1",
            "(2 d) c -> c 2 d",
            "(2 d) -> 2 d",
        ),
        *_linear("head", f"{_FINAL}.linear"),
        Ignored("pos_embed", "positions, computed from the sizes"),
    )
