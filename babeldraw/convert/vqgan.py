"""Weights of convolutional tokenizers: MaskGIT's, in Flax and in PyTorch's port, and LlamaGen's.

The parameters are those of `tokenizers.vqgan.VQGAN`; a table is that of a section `tokenizer`.
"""

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.vqgan import VQGANConfig

# Of PyTorch's convolutions.
KERNEL = "o i h w -> h w i o"


def maskgit_torch(config: VQGANConfig) -> Table:
    """1d-tokenizer's port, `maskgit-vqgan-imagenet-f16-256.bin`."""
    return (
        *maskgit_encoder(config.network, "encoder/", "encoder."),
        *maskgit_decoder(config.network, "decoder/", "decoder."),
        Row("codebook/table", "quantize.embedding.weight"),
    )


def maskgit_encoder(network: ConvolutionalConfig, ours: str, theirs: str) -> Table:
    """Its encoder, of names that begin so."""
    return (
        *_conv(f"{ours}first", f"{theirs}conv_in", network.bias),
        *_blocks(network, f"{ours}level_{{level}}", f"{theirs}down.{{level}}.block"),
        *_maskgit_ends(network, ours, theirs),
    )


def maskgit_decoder(network: ConvolutionalConfig, ours: str, theirs: str) -> Table:
    """Its decoder, of names that begin so, such as TiTok's `pixel_decoder.`."""
    up = f"{theirs}up.{{level}}"
    return (
        *_conv(f"{ours}first", f"{theirs}conv_in"),
        *_blocks(network, f"{ours}level_{{level}}", f"{up}.block"),
        *(_conv(f"{ours}up_{{level}}", f"{up}.upsample_conv") if network.stride > 1 else ()),
        *_maskgit_ends(network, ours, theirs),
    )


def _maskgit_ends(network: ConvolutionalConfig, ours: str, theirs: str) -> Table:
    return (
        *_blocks(network, f"{ours}middle", f"{theirs}mid", shortcut=False),
        *_norm(f"{ours}norm", f"{theirs}norm_out"),
        *_conv(f"{ours}last", f"{theirs}conv_out"),
    )


def _blocks(network: ConvolutionalConfig, ours: str, theirs: str, shortcut: bool = True) -> Table:
    """Residual blocks of levels, or of one, counted alike on both sides."""
    ours, theirs = f"{ours}/block_{{block}}", f"{theirs}.{{block}}"
    shortcut = shortcut and len(set(network.multipliers)) > 1
    return _block(network, ours, theirs, shortcut)


def _block(network: ConvolutionalConfig, ours: str, theirs: str, shortcut: bool) -> Table:
    rows = []
    for i in (1, 2):
        rows += _norm(f"{ours}/norm_{i}", f"{theirs}.norm{i}")
        rows += _conv(f"{ours}/conv_{i}", f"{theirs}.conv{i}", network.bias)
    if shortcut:
        rows += _conv(f"{ours}/shortcut", f"{theirs}.nin_shortcut", network.bias)
    return tuple(rows)


def _norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))


def _conv(ours: str, theirs: str, bias: bool = True) -> Table:
    weight = Row(f"{ours}/weight", f"{theirs}.weight", KERNEL)
    return (weight, Row(f"{ours}/bias", f"{theirs}.bias")) if bias else (weight,)


# ------------------------------------------------------------------ LlamaGen


def llamagen(config: VQGANConfig) -> Table:
    """Its `vq_ds16_c2i.pt` and the like, whose decoder counts levels from the smallest map."""
    network, rows = config.network, []
    levels = range(len(network.multipliers))
    for level in levels:
        for side, number in (("encoder", level), ("decoder", levels[-1] - level)):
            theirs = f"{side}.conv_blocks.{number}"
            rows += _llamagen_level(network, f"{side}/level_{level}", theirs, side, level)
        if level < levels[-1]:
            theirs = f"encoder.conv_blocks.{level}.downsample.conv"
            rows += _conv(f"encoder/down_{level}", theirs)
            theirs = f"decoder.conv_blocks.{levels[-1] - level - 1}.upsample.conv"
            rows += _conv(f"decoder/up_{level + 1}", theirs)
    for side in ("encoder", "decoder"):
        rows += _conv(f"{side}/first", f"{side}.conv_in")
        rows += _block(network, f"{side}/middle/block_0", f"{side}.mid.0", False)
        rows += _attention(f"{side}/middle/attention_0", f"{side}.mid.1")
        rows += _block(network, f"{side}/middle/block_1", f"{side}.mid.2", False)
        rows += _norm(f"{side}/norm", f"{side}.norm_out")
        rows += _conv(f"{side}/last", f"{side}.conv_out")
    return (
        *rows,
        *_conv("to_code", "quant_conv"),
        *_conv("from_code", "post_quant_conv"),
        Row("codebook/table", "quantize.embedding.weight"),
        Ignored(r"quantize\.codebook_used", "which codes were used of late"),
    )


def _llamagen_level(
    network: ConvolutionalConfig, ours: str, theirs: str, side: str, level: int
) -> Table:
    rows, last = [], len(network.multipliers) - 1
    count = network.encoder_blocks if side == "encoder" else network.decoder_blocks
    changes = f"level_{level}/block_0" in network.changes(side)
    for i in range(count):
        rows += _block(network, f"{ours}/block_{i}", f"{theirs}.res.{i}", changes and i == 0)
        if level == last:
            rows += _attention(f"{ours}/attention_{i}", f"{theirs}.attn.{i}")
    return tuple(rows)


def _attention(ours: str, theirs: str) -> Table:
    rows = [*_norm(f"{ours}/norm", f"{theirs}.norm")]
    for name in ("query", "key", "value"):
        place = f"{ours}/attention/{name}"
        rows.append(Row(f"{place}/weight", f"{theirs}.{name[0]}.weight", "o i 1 1 -> i 1 o"))
        rows.append(Row(f"{place}/bias", f"{theirs}.{name[0]}.bias", "o -> 1 o"))
    place = f"{ours}/attention/out"
    rows.append(Row(f"{place}/weight", f"{theirs}.proj_out.weight", "o i 1 1 -> 1 i o"))
    return (*rows, Row(f"{place}/bias", f"{theirs}.proj_out.bias"))


# ------------------------------------------------------------------ Flax


def maskgit_flax(config: VQGANConfig) -> Table:
    """Google's checkpoints of MaskGIT, whose modules are counted in the order of their calls."""
    network = config.network
    levels = [*range(len(network.multipliers))]
    middle = [f"middle/block_{i}" for i in range(network.middle_blocks)]
    down = [f"level_{level}/block_{i}" for level in levels for i in range(network.encoder_blocks)]
    levels.reverse()
    up = [f"level_{level}/block_{i}" for level in levels for i in range(network.decoder_blocks)]
    ups = [f"up_{level}" for level in levels[:-1]]
    return (
        *_flax_blocks(network, "encoder", [*down, *middle]),
        *_flax_conv("encoder/first", "encoder/Conv_0", network.bias),
        *_flax_conv("encoder/last", "encoder/Conv_1"),
        *_flax_norm("encoder/norm", "encoder/GroupNorm_0"),
        *_flax_blocks(network, "decoder", [*middle, *up]),
        *(
            row
            for i, name in enumerate(["first", *ups, "last"])
            for row in _flax_conv(f"decoder/{name}", f"decoder/Conv_{i}")
        ),
        *_flax_norm("decoder/norm", "decoder/GroupNorm_0"),
        Row("codebook/table", "quantizer/codebook"),
    )


def _flax_blocks(network: ConvolutionalConfig, side: str, blocks: list[str]) -> Table:
    rows, changes = [], network.changes(side)
    for i, name in enumerate(blocks):
        ours, theirs = f"{side}/{name}", f"{side}/ResBlock_{i}"
        for j in (1, 2):
            rows += _flax_norm(f"{ours}/norm_{j}", f"{theirs}/GroupNorm_{j - 1}")
            rows += _flax_conv(f"{ours}/conv_{j}", f"{theirs}/Conv_{j - 1}", network.bias)
        if name in changes:
            rows += _flax_conv(f"{ours}/shortcut", f"{theirs}/Conv_2", network.bias)
    return tuple(rows)


def _flax_norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}/scale"), Row(f"{ours}/bias", f"{theirs}/bias"))


def _flax_conv(ours: str, theirs: str, bias: bool = True) -> Table:
    weight = Row(f"{ours}/weight", f"{theirs}/kernel")
    return (weight, Row(f"{ours}/bias", f"{theirs}/bias")) if bias else (weight,)
