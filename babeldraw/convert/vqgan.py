"""Weights of convolutional tokenizers: MaskGIT's, taming's, LlamaGen's, IBQ's, Open-MAGVIT2's.

The parameters are those of `tokenizers.vqgan.VQGAN`; a table is that of a section `tokenizer`.
"""

import dataclasses

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.vqgan import VQGANConfig

# Of PyTorch's convolutions.
KERNEL = "o i h w -> h w i o"
# Taming's name of a block's 1 x 1 convolution, and those of all who went on from it.
SHORTCUT = "nin_shortcut"


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
        *conv(f"{ours}first", f"{theirs}conv_in", network.bias),
        *_blocks(network, f"{ours}level_{{level}}", f"{theirs}down.{{level}}.block"),
        *_maskgit_ends(network, ours, theirs),
    )


def maskgit_decoder(network: ConvolutionalConfig, ours: str, theirs: str) -> Table:
    """Its decoder, of names that begin so, such as TiTok's `pixel_decoder.`."""
    up = f"{theirs}up.{{level}}"
    return (
        *conv(f"{ours}first", f"{theirs}conv_in"),
        *_blocks(network, f"{ours}level_{{level}}", f"{up}.block"),
        *(conv(f"{ours}up_{{level}}", f"{up}.upsample_conv") if network.stride > 1 else ()),
        *_maskgit_ends(network, ours, theirs),
    )


def _maskgit_ends(network: ConvolutionalConfig, ours: str, theirs: str) -> Table:
    return (
        *_blocks(network, f"{ours}middle", f"{theirs}mid", shortcut=False),
        *norm(f"{ours}norm", f"{theirs}norm_out"),
        *conv(f"{ours}last", f"{theirs}conv_out"),
    )


def _blocks(network: ConvolutionalConfig, ours: str, theirs: str, shortcut: bool = True) -> Table:
    """Residual blocks of levels, or of one, counted alike on both sides."""
    ours, theirs = f"{ours}/block_{{block}}", f"{theirs}.{{block}}"
    shortcut = shortcut and len(set(network.multipliers)) > 1
    return block(network, ours, theirs, SHORTCUT if shortcut else "")


def block(network: ConvolutionalConfig, ours: str, theirs: str, shortcut: str = "") -> Table:
    """A residual block; `shortcut`: how they call the 1 x 1 convolution, where there is one."""
    rows = []
    for i in (1, 2):
        rows += norm(f"{ours}/norm_{i}", f"{theirs}.norm{i}")
        rows += conv(f"{ours}/conv_{i}", f"{theirs}.conv{i}", network.bias)
    if shortcut:
        rows += conv(f"{ours}/shortcut", f"{theirs}.{shortcut}", network.bias)
    return tuple(rows)


def norm(ours: str, theirs: str) -> Table:
    """A norm's scale and bias."""
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))


def conv(ours: str, theirs: str, bias: bool = True) -> Table:
    """A convolution of PyTorch's."""
    weight = Row(f"{ours}/weight", f"{theirs}.weight", KERNEL)
    return (weight, Row(f"{ours}/bias", f"{theirs}.bias")) if bias else (weight,)


# ------------------------------------------------------------------ taming's layers


@dataclasses.dataclass(frozen=True)
class _Names:
    """How one of those who have taming's layers calls them.

    Attributes:
      encoder, decoder: of the list of levels, where they are counted from full size.
      block: of a residual block in a level.
      middle: of the block, the attention and the block between levels and latents.
      from_smallest: whether the decoder's levels are counted from the smallest map.
    """

    encoder: str = "down"
    decoder: str = "up"
    block: str = "block"
    middle: tuple[str, str, str] = ("block_1", "attn_1", "block_2")
    from_smallest: bool = False

    def level(self, side: str, level: int, last: int) -> str:
        number = last - level if side == "decoder" and self.from_smallest else level
        return f"{getattr(self, side)}.{number}"


_TAMING = _Names()
_LLAMAGEN = _Names("conv_blocks", "conv_blocks", "res", ("0", "1", "2"), True)


def llamagen(config: VQGANConfig) -> Table:
    """Its `vq_ds16_c2i.pt` and the like, whose decoder counts levels from the smallest map."""
    unused = Ignored(r"quantize\.codebook_used", "which codes were used of late")
    return (*_taming(config.network, _LLAMAGEN), unused)


def taming(config: VQGANConfig) -> Table:
    """The weights in a checkpoint of Lightning of taming-transformers' VQGAN or of IBQ."""
    return (*_taming(config.network, _TAMING), *_BESIDE)


def taming_average(config: VQGANConfig) -> Table:
    """Their average in the same file, where a run kept one."""
    return _averaged(_taming(config.network, _TAMING))


# What else is in a checkpoint of Lightning.
_BESIDE = (
    Ignored(r"loss\..*", "its discriminator and perceptual network"),
    Ignored(r"model_ema\..*", "the average of the weights, which --ema reads"),
)


def _averaged(table: Table) -> Table:
    """Rows whose tensors are those of LitEma, which leaves out the dots of names."""
    rows = [
        dataclasses.replace(row, theirs=f"model_ema.{row.theirs.replace('.', '')}")
        for row in table
        if isinstance(row, Row)
    ]
    return (
        *rows,
        Ignored(r"(?!model_ema\.).*", "the weights themselves, which --torch reads"),
        Ignored(r"model_ema\.loss.*", "its discriminator and perceptual network"),
        Ignored(r"model_ema\.(decay|num_updates)", "how the average was kept"),
    )


def latent_diffusion(config: VQGANConfig) -> Table:
    """The tensors of latent diffusion's autoencoder, taming's without a codebook."""
    return _two_sides(config.network, _TAMING)


def _taming(network: ConvolutionalConfig, names: _Names) -> Table:
    """All but what is beside the network."""
    return (*_two_sides(network, names), Row("codebook/table", "quantize.embedding.weight"))


def _two_sides(network: ConvolutionalConfig, names: _Names) -> Table:
    return (
        *taming_side(network, "encoder", "encoder", "encoder", names),
        *taming_side(network, "decoder", "decoder", "decoder", names),
        *conv("to_code", "quant_conv"),
        *conv("from_code", "post_quant_conv"),
    )


def taming_side(
    network: ConvolutionalConfig, side: str, ours: str, theirs: str, names: _Names = _TAMING
) -> Table:
    """An `encoder` or a `decoder` of taming's layers, whose names begin so on either side."""
    rows = []
    for level in range(len(network.multipliers)):
        rows += _level(network, side, level, ours, theirs, names)
    first, attention, second = (f"{theirs}.mid.{name}" for name in names.middle)
    return (
        *rows,
        *conv(f"{ours}/first", f"{theirs}.conv_in"),
        *block(network, f"{ours}/middle/block_0", first),
        *_attention(f"{ours}/middle/attention_0", attention),
        *block(network, f"{ours}/middle/block_1", second),
        *norm(f"{ours}/norm", f"{theirs}.norm_out"),
        *conv(f"{ours}/last", f"{theirs}.conv_out"),
    )


def _level(
    network: ConvolutionalConfig, side: str, level: int, ours: str, theirs: str, names: _Names
) -> Table:
    """A level's blocks, its attention, and what changes the size behind it."""
    rows, last = [], len(network.multipliers) - 1
    own, of_level = f"{ours}/level_{level}", f"{theirs}.{names.level(side, level, last)}"
    count = network.encoder_blocks if side == "encoder" else network.decoder_blocks
    changes = f"level_{level}/block_0" in network.changes(side)
    for i in range(count):
        shortcut = SHORTCUT if changes and i == 0 else ""
        rows += block(network, f"{own}/block_{i}", f"{of_level}.{names.block}.{i}", shortcut)
        if level == last and not network.middle_attention_alone:
            rows += _attention(f"{own}/attention_{i}", f"{of_level}.attn.{i}")
    if side == "encoder" and level < last:
        rows += conv(f"{ours}/down_{level}", f"{of_level}.downsample.conv")
    if side == "decoder" and level > 0:
        rows += conv(f"{ours}/up_{level}", f"{of_level}.upsample.conv")
    return tuple(rows)


def _attention(ours: str, theirs: str) -> Table:
    rows = [*norm(f"{ours}/norm", f"{theirs}.norm")]
    for name in ("query", "key", "value"):
        place = f"{ours}/attention/{name}"
        rows.append(Row(f"{place}/weight", f"{theirs}.{name[0]}.weight", "o i 1 1 -> i 1 o"))
        rows.append(Row(f"{place}/bias", f"{theirs}.{name[0]}.bias", "o -> 1 o"))
    place = f"{ours}/attention/out"
    rows.append(Row(f"{place}/weight", f"{theirs}.proj_out.weight", "o i 1 1 -> 1 i o"))
    return (*rows, Row(f"{place}/bias", f"{theirs}.proj_out.bias"))


# ------------------------------------------------------------------ Open-MAGVIT2


def open_magvit2(config: VQGANConfig) -> Table:
    """The weights in a checkpoint of Lightning of its tokenizer."""
    return (*_magvit2(config.network), *_BESIDE)


def open_magvit2_average(config: VQGANConfig) -> Table:
    """Their average in the same file."""
    return _averaged(_magvit2(config.network))


def _magvit2(network: ConvolutionalConfig) -> Table:
    rows = []
    for side, theirs in (("encoder", "down"), ("decoder", "up")):
        rows += conv(f"{side}/first", f"{side}.conv_in", side == "decoder" or network.bias)
        rows += _blocks(network, f"{side}/level_{{level}}", f"{side}.{theirs}.{{level}}.block")
        rows += _blocks(network, f"{side}/middle", f"{side}.mid_block", shortcut=False)
        rows += norm(f"{side}/norm", f"{side}.norm_out")
        rows += conv(f"{side}/last", f"{side}.conv_out")
    if network.stride > 1:
        rows += conv("encoder/down_{level}", "encoder.down.{level}.downsample")
        rows += conv("decoder/up_{level}", "decoder.up.{level}.upsample.conv1")
    for ours, theirs in (("scale", "gamma"), ("bias", "beta")):
        ours, theirs = f"decoder/adaptive_{{level}}/{ours}", f"decoder.adaptive.{{level}}.{theirs}"
        rows.append(Row(f"{ours}/weight", f"{theirs}.weight", "o i -> i o"))
        rows.append(Row(f"{ours}/bias", f"{theirs}.bias"))
    return tuple(rows)


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
