"""Weights of RAR's generators (rar_b to rar_xxl), PyTorch's names; the network is `models.rar`."""

from typing import Any

from babeldraw.convert.table import Row, Table

_BLOCK, _THEIRS = "stack/blocks", "blocks.{layer}"
_FINAL = "adaln_before_head.adaLN_modulation.1"


def _of_blocks() -> Table:
    rows = []
    for ours, theirs in (("attention_norm", "norm1"), ("ffn_norm", "norm2")):
        rows.append(Row(f"{_BLOCK}/{ours}/scale", f"{_THEIRS}.{theirs}.weight"))
        rows.append(Row(f"{_BLOCK}/{ours}/bias", f"{_THEIRS}.{theirs}.bias"))
    for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
        rows.append(Row(f"{_BLOCK}/attention/{ours}/scale", f"{_THEIRS}.attn.{theirs}.weight"))
        rows.append(Row(f"{_BLOCK}/attention/{ours}/bias", f"{_THEIRS}.attn.{theirs}.bias"))
    heads, moved = f"{_BLOCK}/attention/{{query,key,value}}", f"{_BLOCK}/{{attention,ffn}}"
    for ours, theirs, weight, bias in (
        (heads, "attn.qkv", "(3 n h) d -> 3 d n h", "(3 n h) -> 3 n h"),
        (f"{_BLOCK}/attention/out", "attn.proj", "d (n h) -> n h d", ""),
        (f"{_BLOCK}/ffn/up", "mlp.fc1", "f d -> d f", ""),
        (f"{_BLOCK}/ffn/down", "mlp.fc2", "d f -> f d", ""),
        # Shift, scale and gate of attention, then of the feed-forward; before it a SiLU.
        (
            f"{moved}_modulation",
            "adaLN_modulation.1",
            "(2 k d) c -> 2 c k d",
            "(2 k d) -> 2 k d",
        ),
    ):
        rows.append(Row(f"{ours}/weight", f"{_THEIRS}.{theirs}.weight", weight))
        rows.append(Row(f"{ours}/bias", f"{_THEIRS}.{theirs}.bias", bias))
    return tuple(rows)


# Nothing of theirs is left out: `SpareRows` of the config hold what no one reads.
RAR: Table = (
    # Codes, a row once meant for a mask, classes, no class.
    Row("{embed+prefix/embed}/table", "embeddings.weight"),
    Row("start", "cls_token", "1 1 d -> d"),
    Row("places/table", "pos_embed", "1 t d -> t d"),
    Row("targets/table", "target_aware_pos_embed", "1 t d -> t d"),
    Row("times/table", "timesteps_embeddings", "1 t d -> t d"),
    *_of_blocks(),
    # Scale and shift, in this order.
    Row("norm/modulation/weight", f"{_FINAL}.weight", "(k d) c -> c k d"),
    Row("norm/modulation/bias", f"{_FINAL}.bias", "(k d) -> k d"),
    Row("logits/weight", "lm_head.weight", "v d -> d v"),
    Row("logits/bias", "lm_head.bias"),
)


def rar(section: Any) -> Table:
    """As `networks.Layout` asks; of a config of any size."""
    del section
    return RAR
