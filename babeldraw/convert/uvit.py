"""Weights of TiTok's generator of the U-ViT type, `generator_titok_s128`.

The parameters are those of `models.uvit.UViTGenerator` that draws from a class.
"""

from babeldraw.convert.table import Row, Table
from babeldraw.models.uvit import UViTConfig


def uvit(config: UViTConfig) -> Table:
    """Theirs count the blocks before the middle one and those after it apart."""
    half = config.stack.blocks // 2
    names = {number: f"in_blocks.{number}" for number in range(half)}
    names |= {half: "mid_block"}
    names |= {half + 1 + number: f"out_blocks.{number}" for number in range(half)}
    rows = []
    for number, theirs in names.items():
        rows += _block(f"stack/block{number}", theirs)
        if number > half:
            rows += _linear(f"stack/skip{number}", f"{theirs}.skip_linear")
    return (
        # Codes, the mask, classes, no class.
        Row("{embed/table+prefix/embed/table}", "embeddings.weight"),
        Row("positions/table", "pos_embed", "1 t d -> t d"),
        *rows,
        *_norm("norm", "norm"),
        *_linear("head", "lm_head"),
    )


def _block(ours: str, theirs: str) -> Table:
    return (
        *_norm(f"{ours}/attention_norm", f"{theirs}.norm1"),
        Row(
            f"{ours}/attention/{{query,key,value}}/weight",
            f"{theirs}.attn.qkv.weight",
            "(3 n h) d -> 3 d n h",
        ),
        Row(f"{ours}/attention/out/weight", f"{theirs}.attn.proj.weight", "d (n h) -> n h d"),
        Row(f"{ours}/attention/out/bias", f"{theirs}.attn.proj.bias"),
        *_norm(f"{ours}/ffn_norm", f"{theirs}.norm2"),
        *_linear(f"{ours}/ffn/up", f"{theirs}.mlp.fc1"),
        *_linear(f"{ours}/ffn/down", f"{theirs}.mlp.fc2"),
    )


def _norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))


def _linear(ours: str, theirs: str) -> Table:
    return (
        Row(f"{ours}/weight", f"{theirs}.weight", "o i -> i o"),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    )
