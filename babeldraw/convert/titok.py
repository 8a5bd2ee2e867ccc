"""Weights of TiTok's and TA-TiTok's tokenizers, as 1d-tokenizer publishes them.

The parameters are those of `tokenizers.titok`; the table is that of a section `tokenizer`.
"""

from babeldraw.config import require
from babeldraw.convert.table import Buffer, Ignored, Row, Table
from babeldraw.convert.vqgan import maskgit_decoder
from babeldraw.tokenizers.gaussian import BottleneckConfig
from babeldraw.tokenizers.titok import PIXELS, TiTokConfig
from babeldraw.tokenizers.vector_quantizers import VQConfig
from babeldraw.tokenizers.vqgan import VQGANConfig

# Of blocks, per head: one matrix of queries, keys and values.
_PARTS = "{query,key,value}"


def titok(config: TiTokConfig) -> Table:
    """A whole state dict: either stage of the paper, or a later model, with or without a text."""
    side = config.patch_size
    patches = f"d c=3 r={side} k={side} -> (r k c) d"
    return (
        Row("latents/table", "latent_tokens"),
        Row("patches/weight", "encoder.patch_embed.weight", patches),
        Row("patches/bias", "encoder.patch_embed.bias"),
        *_transformer("encoder"),
        Row("to_code/weight", "encoder.conv_out.weight", "q d 1 1 -> d q"),
        Row("to_code/bias", "encoder.conv_out.bias"),
        *(_codebook(config.quantizer) if config.quantizer.vocab else ()),
        *_linear("from_code", "decoder.decoder_embed"),
        Row("mask/table", "decoder.mask_token", "1 1 d -> 1 d"),
        *_transformer("decoder"),
        *(_text() if config.text is not None else ()),
        *(_pixel_head() if config.proxy is None else _code_head()),
        *(_proxy(config) if config.through_proxy else ()),
    )


def _proxy(config: TiTokConfig) -> Table:
    """What the second stage draws by: MaskGIT's codebook and decoder.

    Raises:
      UserError: the proxy is another one, for which they have no names.
    """
    proxy = config.proxy
    require(
        isinstance(proxy, VQGANConfig) and not proxy.projected and not proxy.network.attention,
        f"tokenizer.proxy is of kind={proxy.kind}; TiTok's layout has names for MaskGIT's alone, "
        "kind=vqgan as in configs/maskgit_vqgan.py",
    )
    return (
        Row(f"{PIXELS}/codebook/table", "pixel_quantize.embedding.weight"),
        *maskgit_decoder(proxy.network, f"{PIXELS}/decoder/", "pixel_decoder."),
    )


def _codebook(quantizer: BottleneckConfig) -> Table:
    """With how much each code was used of late, where idle ones are moved by it, as TA-TiTok's."""
    table = Row("codebook/table", "quantize.embedding.weight")
    if not (isinstance(quantizer, VQConfig) and quantizer.restart_how == "clustered"):
        return (table, Ignored(r"quantize\.embed_prob", "how much codes were used of late"))
    # Theirs are shares of all tokens, ours are in units of an equal one.
    size = quantizer.codebook_size
    return (table, Buffer("code_share", "quantize.embed_prob", (size,), scale=size))


def _transformer(side: str) -> Table:
    ours, theirs = f"{side}/stack/blocks", f"{side}.transformer.{{layer}}"
    pair = f"{ours}/attention/{_PARTS}"
    return (
        Row(f"{side}/class_row/table", f"{side}.class_embedding"),
        Row(f"{side}/positions/table", f"{side}.positional_embedding"),
        Row(f"{side}/token_positions/table", f"{side}.latent_token_positional_embedding"),
        *_norm(f"{side}/norm_before", f"{side}.ln_pre"),
        *_norm(f"{ours}/attention_norm", f"{theirs}.ln_1"),
        Row(f"{pair}/weight", f"{theirs}.attn.in_proj_weight", "(3 n h) d -> 3 d n h"),
        Row(f"{pair}/bias", f"{theirs}.attn.in_proj_bias", "(3 n h) -> 3 n h"),
        Row(f"{ours}/attention/out/weight", f"{theirs}.attn.out_proj.weight", "d (n h) -> n h d"),
        Row(f"{ours}/attention/out/bias", f"{theirs}.attn.out_proj.bias"),
        *_norm(f"{ours}/ffn_norm", f"{theirs}.ln_2"),
        *_linear(f"{ours}/ffn/up", f"{theirs}.mlp.c_fc"),
        *_linear(f"{ours}/ffn/down", f"{theirs}.mlp.c_proj"),
        *_norm(f"{side}/norm_after", f"{side}.ln_post"),
    )


def _text() -> Table:
    positions = "text_guidance_positional_embedding"
    return (
        Row("decoder/word_positions/table", f"decoder.{positions}"),
        *_linear("from_text", "decoder.text_guidance_proj"),
    )


def _code_head() -> Table:
    return (
        *_linear("head/hidden", "decoder.ffn.0", " 1 1"),
        *_linear("head/logits", "decoder.ffn.2", " 1 1"),
    )


def _pixel_head() -> Table:
    return (
        *_linear("head/patches", "decoder.ffn.0", " 1 1"),
        Row("head/smooth/weight", "decoder.conv_out.weight", "o i h w -> h w i o"),
        Row("head/smooth/bias", "decoder.conv_out.bias"),
    )


def _linear(ours: str, theirs: str, kernel: str = "") -> Table:
    """A product; `kernel` is that of a 1 x 1 convolution."""
    weight = Row(f"{ours}/weight", f"{theirs}.weight", f"o i{kernel} -> i o")
    return (weight, Row(f"{ours}/bias", f"{theirs}.bias"))


def _norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))
