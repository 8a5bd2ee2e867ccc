"""Weights of icetk's image tokenizer, CogView2's: `ice_image.pt`.

The parameters are those of `tokenizers.hierarchy` with `coarser=halved`; the table is that of a
section `tokenizer`, such as configs/cogview2/tokenizer.py.
"""

from babeldraw.config import require
from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.convert.vqgan import conv, taming_side
from babeldraw.tokenizers.hierarchy import HierarchyConfig


def icetk_image(config: HierarchyConfig) -> Table:
    """Its decoders are counted from the coarsest rate, its halvings from the finest.

    Raises:
      UserError: the coarser rates are made otherwise than there.
    """
    require(
        config.coarser == "halved",
        f"tokenizer.coarser is {config.coarser!r} and icetk halves the finest latents; take the "
        "config configs/cogview2/tokenizer.py, or set it to 'halved'",
    )
    strides, rows = config.strides, []
    for number, stride in enumerate(strides[1:]):
        rows += conv(f"encoder/down_to_{stride}", f"down_samplers.{number}.conv_down_sampler.conv")
    for number, stride in enumerate(reversed(strides)):
        decoder = config.decoder(stride)
        rows += taming_side(decoder, "decoder", f"decoders_{stride}", f"decs.{number}")
    return (
        *taming_side(config.network, "encoder", "encoder/finest", "enc"),
        *rows,
        *conv("encoder/to_code", "quantize.proj"),
        Row("codebook/table", "quantize.embed.weight"),
        Row("codebook/count", "quantize.cluster_size"),
        Ignored(r"quantize\.embed_avg", "running sums of latents, of which its codes were made"),
        Ignored(r"(?!enc\.|decs\.|down_samplers\.|quantize\.).*", "what it was trained with"),
    )
