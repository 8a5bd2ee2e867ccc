"""Weights of MaskGen's generators on discrete codes, `maskgen_vq_l` and `maskgen_vq_xl`.

The parameters are those of `models.maskgen.MaskGenGenerator` that draws from features, with
`spare=1001`; blocks are named as diffusers names its JointTransformerBlock.
"""

from babeldraw.convert.table import Row, Table, Tied
from babeldraw.models.maskgen import MaskGenConfig

# Of each stream: its projections, the way out, the feed-forward and what moves its norms.
_IMAGE = (("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1")
_TEXT = (("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context")


def maskgen(config: MaskGenConfig) -> Table:
    """Of the last block the text gives nothing."""
    last = f"blocks.{config.stack.blocks - 1}"
    return (
        # Codes, the mask, and rows that none reads.
        Row("embed/table", "embeddings.weight"),
        Tied("lm_head.weight", "embeddings.weight"),
        Row("positions/table", "pos_embed", "1 t d -> t d"),
        *_linear("text", "text_embed_proj"),
        *_linear("vector", "cond_pooled_proj"),
        *_stream("stack/blocks", "blocks.{layer}", "/image", *_IMAGE),
        *_stream("stack/blocks", "blocks.{layer}", "/text", *_TEXT),
        *_heads("last/attention/text", last, _TEXT[0]),
        # Scale and shift, in this order.
        *_modulation("text_norm/modulation", f"{last}.norm1_context"),
        *_stream("last", last, "", *_IMAGE, own="/image"),
        *_modulation("norm/modulation", "norm"),
    )


def _stream(
    ours: str,
    theirs: str,
    stream: str,
    heads: tuple[str, ...],
    out: str,
    ffn: str,
    norm: str,
    own: str = "",
) -> Table:
    """A stream's part of a block; `own`: its name in attention, where no other part has one."""
    attention = f"{ours}/attention{stream or own}"
    return (
        *_heads(attention, theirs, heads),
        Row(f"{attention}/out/weight", f"{theirs}.attn.{out}.weight", "d (n h) -> n h d"),
        Row(f"{attention}/out/bias", f"{theirs}.attn.{out}.bias"),
        *_linear(f"{ours}/ffn{stream}/up", f"{theirs}.{ffn}.net.0.proj"),
        *_linear(f"{ours}/ffn{stream}/down", f"{theirs}.{ffn}.net.2"),
        # Shift, scale and gate of attention, then of the feed-forward.
        Row(
            f"{ours}/{{attention,ffn}}_modulation{stream}/weight",
            f"{theirs}.{norm}.linear.weight",
            "(2 k d) c -> 2 c k d",
        ),
        Row(
            f"{ours}/{{attention,ffn}}_modulation{stream}/bias",
            f"{theirs}.{norm}.linear.bias",
            "(2 k d) -> 2 k d",
        ),
    )


def _heads(ours: str, theirs: str, names: tuple[str, ...]) -> Table:
    rows = []
    for name, their_name in zip(("query", "key", "value"), names, strict=True):
        tensor = f"{theirs}.attn.{their_name}"
        rows.append(Row(f"{ours}/{name}/weight", f"{tensor}.weight", "(n h) d -> d n h"))
        rows.append(Row(f"{ours}/{name}/bias", f"{tensor}.bias", "(n h) -> n h"))
    return tuple(rows)


def _linear(ours: str, theirs: str) -> Table:
    return (
        Row(f"{ours}/weight", f"{theirs}.weight", "o i -> i o"),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    )


def _modulation(ours: str, theirs: str) -> Table:
    return (
        Row(f"{ours}/weight", f"{theirs}.linear.weight", "(k d) c -> c k d"),
        Row(f"{ours}/bias", f"{theirs}.linear.bias", "(k d) -> k d"),
    )
