"""Weights of T5 1.1's encoder, as transformers' files name them; the network is `models.t5`."""

from babeldraw.convert.table import Ignored, Row, Table

THEIRS = "encoder.block.{layer}.layer"
INWARD, HEADS = "(n h) d -> d n h", "stack/blocks/attention"

T5: Table = (
    Row("embed/table", "shared.weight"),
    # Of the first layer, whose bias all others read.
    Row("relative_bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    Row("stack/blocks/attention_norm/scale", f"{THEIRS}.0.layer_norm.weight"),
    Row(f"{HEADS}/query/weight", f"{THEIRS}.0.SelfAttention.q.weight", INWARD),
    Row(f"{HEADS}/key/weight", f"{THEIRS}.0.SelfAttention.k.weight", INWARD),
    Row(f"{HEADS}/value/weight", f"{THEIRS}.0.SelfAttention.v.weight", INWARD),
    Row(f"{HEADS}/out/weight", f"{THEIRS}.0.SelfAttention.o.weight", "d (n h) -> n h d"),
    Row("stack/blocks/ffn_norm/scale", f"{THEIRS}.1.layer_norm.weight"),
    Row("stack/blocks/ffn/gate/weight", f"{THEIRS}.1.DenseReluDense.wi_0.weight", "f d -> d f"),
    Row("stack/blocks/ffn/up/weight", f"{THEIRS}.1.DenseReluDense.wi_1.weight", "f d -> d f"),
    Row("stack/blocks/ffn/down/weight", f"{THEIRS}.1.DenseReluDense.wo.weight", "d f -> f d"),
    Row("norm/scale", "encoder.final_layer_norm.weight"),
    Ignored(r"encoder\.embed_tokens\.weight", "the table of pieces once more"),
    Ignored(r"(decoder\..*|lm_head\.weight)", "the decoder and its softmax"),
)
