"""Weights of CLIP: the layout of transformers' `CLIPModel`, and OpenAI's own names.

The parameters are those of `judges.clip.clip_shapes`. Both hold the same numbers.
"""

from babeldraw.convert.table import Ignored, Row, Table

# Of a patch's convolution, and of a product.
KERNEL, PRODUCT = "o i h w -> h w i o", "o i -> i o"
HEADS = ("query", "key", "value")
LEFT_OUT = (
    Ignored(r"logit_scale", "the temperature of its training"),
    Ignored(r"(.*\.)?position_ids|input_resolution|context_length|vocab_size", "sizes and places"),
)


def norm(ours: str, theirs: str) -> Table:
    """A LayerNorm."""
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))


def product(ours: str, theirs: str) -> Table:
    """A dense layer with its bias."""
    return (
        Row(f"{ours}/weight", f"{theirs}.weight", PRODUCT),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    )


def apart(ours: str, theirs: str, names: tuple[str, str, str], out: str) -> Table:
    """Attention whose queries, keys and values are three layers, by these names."""
    rows = []
    for name, their_name in zip(HEADS, names, strict=True):
        rows.append(
            Row(f"{ours}/{name}/weight", f"{theirs}.{their_name}.weight", "(n h) d -> d n h")
        )
        rows.append(Row(f"{ours}/{name}/bias", f"{theirs}.{their_name}.bias", "(n h) -> n h"))
    return (*rows, *_out(ours, out))


def in_one(ours: str, weight: str, bias: str, out: str) -> Table:
    """Attention whose queries, keys and values are one tensor, in this order."""
    parts = f"{ours}/{{{','.join(HEADS)}}}"
    return (
        Row(f"{parts}/weight", weight, "(3 n h) d -> 3 d n h"),
        Row(f"{parts}/bias", bias, "(3 n h) -> 3 n h"),
        *_out(ours, out),
    )


def _out(ours: str, theirs: str) -> Table:
    return (
        Row(f"{ours}/out/weight", f"{theirs}.weight", "d (n h) -> n h d"),
        Row(f"{ours}/out/bias", f"{theirs}.bias"),
    )


def _blocks_of_transformers(tower: str, theirs: str) -> Table:
    ours, layer = f"{tower}/stack/blocks", f"{theirs}.encoder.layers.{{layer}}"
    attention, names = f"{layer}.self_attn", ("q_proj", "k_proj", "v_proj")
    return (
        *norm(f"{ours}/attention_norm", f"{layer}.layer_norm1"),
        *apart(f"{ours}/attention", attention, names, f"{attention}.out_proj"),
        *norm(f"{ours}/ffn_norm", f"{layer}.layer_norm2"),
        *product(f"{ours}/ffn/up", f"{layer}.mlp.fc1"),
        *product(f"{ours}/ffn/down", f"{layer}.mlp.fc2"),
    )


def _blocks_of_openai(tower: str, theirs: str) -> Table:
    ours, layer = f"{tower}/stack/blocks", f"{theirs}.resblocks.{{layer}}"
    attention = f"{layer}.attn"
    weight, bias = (f"{attention}.in_proj_{kind}" for kind in ("weight", "bias"))
    return (
        *norm(f"{ours}/attention_norm", f"{layer}.ln_1"),
        *in_one(f"{ours}/attention", weight, bias, f"{attention}.out_proj"),
        *norm(f"{ours}/ffn_norm", f"{layer}.ln_2"),
        *product(f"{ours}/ffn/up", f"{layer}.mlp.c_fc"),
        *product(f"{ours}/ffn/down", f"{layer}.mlp.c_proj"),
    )


IMAGE, VIT, TEXT = "clip/image", "clip/image/vit", "clip/text"
TRANSFORMERS: Table = (
    Row(f"{VIT}/patches/weight", "vision_model.embeddings.patch_embedding.weight", KERNEL),
    Row(f"{VIT}/class_row/table", "vision_model.embeddings.class_embedding", "d -> 1 d"),
    Row(f"{VIT}/positions/table", "vision_model.embeddings.position_embedding.weight"),
    # Spelt so.
    *norm(f"{VIT}/norm_before", "vision_model.pre_layrnorm"),
    *_blocks_of_transformers(VIT, "vision_model"),
    *norm(f"{VIT}/norm", "vision_model.post_layernorm"),
    Row(f"{IMAGE}/projection/weight", "visual_projection.weight", PRODUCT),
    Row(f"{TEXT}/words/table", "text_model.embeddings.token_embedding.weight"),
    Row(f"{TEXT}/positions/table", "text_model.embeddings.position_embedding.weight"),
    *_blocks_of_transformers(TEXT, "text_model"),
    *norm(f"{TEXT}/norm", "text_model.final_layer_norm"),
    Row(f"{TEXT}/projection/weight", "text_projection.weight", PRODUCT),
    *LEFT_OUT,
)
OPENAI: Table = (
    Row(f"{VIT}/patches/weight", "visual.conv1.weight", KERNEL),
    Row(f"{VIT}/class_row/table", "visual.class_embedding", "d -> 1 d"),
    Row(f"{VIT}/positions/table", "visual.positional_embedding"),
    *norm(f"{VIT}/norm_before", "visual.ln_pre"),
    *_blocks_of_openai(VIT, "visual.transformer"),
    *norm(f"{VIT}/norm", "visual.ln_post"),
    Row(f"{IMAGE}/projection/weight", "visual.proj"),
    Row(f"{TEXT}/words/table", "token_embedding.weight"),
    Row(f"{TEXT}/positions/table", "positional_embedding"),
    *_blocks_of_openai(TEXT, "transformer"),
    *norm(f"{TEXT}/norm", "ln_final"),
    Row(f"{TEXT}/projection/weight", "text_projection"),
    *LEFT_OUT,
)


def of_text(table: Table) -> Table:
    """The rows of the tower of texts; what the other one has is left out."""
    kept = [row for row in table if isinstance(row, Ignored) or row.ours.startswith(TEXT)]
    others = r"vision_model\..*|visual\..*|visual_projection\..*"
    return (*kept, Ignored(others, "the tower of pictures"))
