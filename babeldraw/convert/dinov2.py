"""Weights of DINOv2: the layout of transformers' `Dinov2Model`, and of Meta's `.pth`.

The parameters are those of `judges.dinov2.dinov2_shapes`. Both hold the same numbers. The models
with registers have a tensor more and are refused by its name.
"""

from babeldraw.convert.clip import KERNEL, apart, in_one, norm, product
from babeldraw.convert.table import Ignored, Row, Table

ROOT, BLOCKS = "dinov2", "dinov2/stack/blocks"
MASK = "what stands for hidden patches in its training"


def _ends(patches: str, row: str, positions: str, last: str) -> Table:
    """What stands before and after the blocks."""
    return (
        Row(f"{ROOT}/patches/weight", f"{patches}.weight", KERNEL),
        Row(f"{ROOT}/patches/bias", f"{patches}.bias"),
        Row(f"{ROOT}/class_row/table", row, "1 1 d -> 1 d"),
        Row(f"{ROOT}/positions/table", positions, "1 t d -> t d"),
        *norm(f"{ROOT}/norm", last),
    )


def _blocks(layer: str, attention: Table, scale: str) -> Table:
    """The rest of a block; `scale` with the number of the part."""
    return (
        *norm(f"{BLOCKS}/attention_norm", f"{layer}.norm1"),
        *attention,
        Row(f"{BLOCKS}/attention_norm_after/scale", f"{layer}.{scale.format(1)}"),
        *norm(f"{BLOCKS}/ffn_norm", f"{layer}.norm2"),
        *product(f"{BLOCKS}/ffn/up", f"{layer}.mlp.fc1"),
        *product(f"{BLOCKS}/ffn/down", f"{layer}.mlp.fc2"),
        Row(f"{BLOCKS}/ffn_norm_after/scale", f"{layer}.{scale.format(2)}"),
    )


def _transformers() -> Table:
    layer, names = "encoder.layer.{layer}", ("query", "key", "value")
    attention = f"{layer}.attention"
    heads = apart(
        f"{BLOCKS}/attention", f"{attention}.attention", names, f"{attention}.output.dense"
    )
    return (
        *_ends(
            "embeddings.patch_embeddings.projection",
            "embeddings.cls_token",
            "embeddings.position_embeddings",
            "layernorm",
        ),
        *_blocks(layer, heads, "layer_scale{}.lambda1"),
        Ignored(r"embeddings\.mask_token", MASK),
    )


def _meta() -> Table:
    layer = "blocks.{layer}"
    weight, bias = (f"{layer}.attn.qkv.{kind}" for kind in ("weight", "bias"))
    heads = in_one(f"{BLOCKS}/attention", weight, bias, f"{layer}.attn.proj")
    return (
        *_ends("patch_embed.proj", "cls_token", "pos_embed", "norm"),
        *_blocks(layer, heads, "ls{}.gamma"),
        Ignored(r"mask_token", MASK),
    )


TRANSFORMERS: Table = _transformers()
META: Table = _meta()
