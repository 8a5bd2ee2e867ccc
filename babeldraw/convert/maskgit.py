"""Weights of MaskGIT's generators: TiTok's L-32 and B-64, and Google's own.

The parameters are those of `models.maskgit.MaskGITGenerator` that draws from a class.
"""

from babeldraw.convert.table import Row, Table
from babeldraw.models.maskgit import MaskGITConfig

BLOCKS = "stack/blocks"
# In all of them one table holds codes, the mask, classes and no class; Google's mask is no class.
VECTORS = "{embed/table+prefix/embed/table}"


def _linear(ours: str, theirs: str) -> Table:
    return (
        Row(f"{ours}/weight", f"{theirs}.weight", "o i -> i o"),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    )


def _norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))


def _attention(layer: str) -> Table:
    """Of Hugging Face's BertModel."""
    ours, rows = f"{BLOCKS}/attention", []
    for name in ("query", "key", "value"):
        theirs = f"{layer}.attention.self.{name}"
        rows.append(Row(f"{ours}/{name}/weight", f"{theirs}.weight", "(n h) d -> d n h"))
        rows.append(Row(f"{ours}/{name}/bias", f"{theirs}.bias", "(n h) -> n h"))
    out = f"{layer}.attention.output.dense"
    rows.append(Row(f"{ours}/out/weight", f"{out}.weight", "d (n h) -> n h d"))
    return (*rows, Row(f"{ours}/out/bias", f"{out}.bias"))


def titok(config: MaskGITConfig) -> Table:
    """Of `generator_titok_l32` and `generator_titok_b64`, whatever the sizes."""
    del config
    words, layer = "model.embeddings", "model.encoder.layer.{layer}"
    return (
        Row(VECTORS, f"{words}.word_embeddings.weight"),
        Row("positions/table", f"{words}.position_embeddings.weight"),
        Row("token_types/table", f"{words}.token_type_embeddings.weight"),
        *_norm("slots_norm", f"{words}.LayerNorm"),
        *_attention(layer),
        *_norm(f"{BLOCKS}/attention_norm_rejoin", f"{layer}.attention.output.LayerNorm"),
        *_linear(f"{BLOCKS}/ffn/up", f"{layer}.intermediate.dense"),
        *_linear(f"{BLOCKS}/ffn/down", f"{layer}.output.dense"),
        *_norm(f"{BLOCKS}/ffn_norm_rejoin", f"{layer}.output.LayerNorm"),
        *_linear("head", "model.lm_head"),
    )


def _flax(ours: str, theirs: str) -> Table:
    """A product of Flax, laid out as ours."""
    return (
        Row(f"{ours}/weight", f"{theirs}/kernel"),
        Row(f"{ours}/bias", f"{theirs}/bias"),
    )


def _flax_norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}/scale"), Row(f"{ours}/bias", f"{theirs}/bias"))


def google(config: MaskGITConfig) -> Table:
    """Of `maskgit_imagenet256_checkpoint` and `maskgit_imagenet512_checkpoint`, by `/`."""
    del config
    words, layer = "Embed_0", "TransformerLayer_{layer}"
    attention, rows = f"{layer}/Attention_0", []
    for name in ("query", "key", "value", "out"):
        rows += _flax(f"{BLOCKS}/attention/{name}", f"{attention}/self_attention/{name}")
    return (
        Row(VECTORS, f"{words}/word_embeddings/embedding"),
        Row("positions/table", f"{words}/position_embeddings/embedding"),
        *_flax_norm("slots_norm", f"{words}/embeddings_ln"),
        *rows,
        *_flax_norm(f"{BLOCKS}/attention_norm_rejoin", f"{attention}/attention_output_ln"),
        *_flax(f"{BLOCKS}/ffn/up", f"{layer}/Mlp_0/intermediate_output"),
        *_flax(f"{BLOCKS}/ffn/down", f"{layer}/Mlp_0/layer_output"),
        *_flax_norm(f"{BLOCKS}/ffn_norm_rejoin", f"{layer}/Mlp_0/layer_output_ln"),
        *_flax("transform/dense", "MlmLayer_0/mlm_dense"),
        *_flax_norm("transform/norm", "MlmLayer_0/mlm_ln"),
        Row("head/bias", "MlmLayer_0/mlm_bias/bias"),
    )
