"""Weights of latent diffusion's autoencoders, as diffusers' AutoencoderKL and as their own files.

The parameters are those of `tokenizers.vqgan.VQGAN` with a Gaussian (configs/autoencoder_kl.py).
What a generator's codes are multiplied by, 0.18215 in Stable Diffusion, is in no file of weights:
it is `config.prediction.scale`.
"""

import functools

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.convert.vqgan import block, conv, latent_diffusion, norm
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.vqgan import VQGANConfig

# Of the attention's four products: ours, diffusers' own, and of its first versions, as which the
# autoencoders of Stable Diffusion were published.
PRODUCTS = {
    "query": ("to_q", "query"),
    "key": ("to_k", "key"),
    "value": ("to_v", "value"),
    "out": ("to_out.0", "proj_attn"),
}
TODAY, FIRST = 0, 1


def _diffusers(version: int, config: VQGANConfig) -> Table:
    network, last = config.network, len(config.network.multipliers) - 1
    rows = [*conv("to_code", "quant_conv"), *conv("from_code", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        for level in range(last + 1):
            rows += _level(network, side, level)
        middle = f"{side}.mid_block"
        rows += conv(f"{side}/first", f"{side}.conv_in")
        rows += block(network, f"{side}/middle/block_0", f"{middle}.resnets.0")
        rows += _attention(f"{side}/middle/attention_0", f"{middle}.attentions.0", version)
        rows += block(network, f"{side}/middle/block_1", f"{middle}.resnets.1")
        rows += norm(f"{side}/norm", f"{side}.conv_norm_out")
        rows += conv(f"{side}/last", f"{side}.conv_out")
    return tuple(rows)


def _level(network: ConvolutionalConfig, side: str, level: int) -> Table:
    """A level's blocks and what changes the size behind it; the decoder counts from the last."""
    last, encodes = len(network.multipliers) - 1, side == "encoder"
    count = network.encoder_blocks if encodes else network.decoder_blocks
    theirs = f"encoder.down_blocks.{level}" if encodes else f"decoder.up_blocks.{last - level}"
    rows, changes = [], f"level_{level}/block_0" in network.changes(side)
    for i in range(count):
        shortcut = "conv_shortcut" if changes and i == 0 else ""
        rows += block(network, f"{side}/level_{level}/block_{i}", f"{theirs}.resnets.{i}", shortcut)
    if encodes and level < last:
        rows += conv(f"encoder/down_{level}", f"{theirs}.downsamplers.0.conv")
    if not encodes and level > 0:
        rows += conv(f"decoder/up_{level}", f"{theirs}.upsamplers.0.conv")
    return tuple(rows)


def _attention(ours: str, theirs: str, version: int) -> Table:
    rows = [*norm(f"{ours}/norm", f"{theirs}.group_norm")]
    for name, names in PRODUCTS.items():
        place, product = f"{ours}/attention/{name}", f"{theirs}.{names[version]}"
        # One head, of whose products the last leads out of it.
        inward = name != "out"
        how = ("o i -> i 1 o", "o -> 1 o") if inward else ("o i -> 1 i o", "")
        rows.append(Row(f"{place}/weight", f"{product}.weight", how[0]))
        rows.append(Row(f"{place}/bias", f"{product}.bias", how[1]))
    return tuple(rows)


diffusers = functools.partial(_diffusers, TODAY)
diffusers_first = functools.partial(_diffusers, FIRST)


def compvis(config: VQGANConfig) -> Table:
    """latent-diffusion's own .ckpt of an autoencoder, a checkpoint of Lightning."""
    return (
        *latent_diffusion(config),
        Ignored(r"loss\..*", "its discriminator, perceptual network and scale of errors"),
        Ignored(r"model_ema\..*", "the average of the weights"),
    )
