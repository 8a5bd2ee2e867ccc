"""Weights of CogView2, as SwissArmyTransformer keeps them: CogLM and its super-resolution.

The parameters are those of `models.coglm`, `models.enlarger` and `models.refiner`. Its modules have
icetk's ids written into them, 20,000 codes and then the pieces of a text, of which the first is the
unknown one and the fourth padding; with us padding is the first (`data.text.Vocabulary`), so these
two rows change places.
"""

from babeldraw.config import require
from babeldraw.convert.partitions import Partitions
from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.data.text import ICETK_PAD
from babeldraw.models.coglm import CogLMConfig
from babeldraw.models.enlarger import EnlargerConfig
from babeldraw.models.refiner import RefinerConfig

CODES = 20_000
_BLOCK, _THEIRS = "stack/blocks", "transformer.layers.{layer}"
# A rank holds its heads' queries, keys and values, in this order, and a share of each of the rest.
PARTITIONS = Partitions(
    r"mp_rank_(\d+)_model_states\.pt",
    (
        (r"transformer\.word_embeddings\.weight", 0, 1),
        (r".*\.query_key_value(\.\d+)?\.(weight|bias)", 0, 3),
        (r".*\.dense_h_to_4h\.(weight|bias)", 0, 1),
        (r".*\.(dense(\.\d+)?|dense_4h_to_h)\.weight", 1, 1),
    ),
)


def coglm(config: CogLMConfig) -> Table:
    """The model of 6 billion parameters, or one of its modules of other sizes."""
    attention = _attention("", f"{_THEIRS}.attention.query_key_value", f"{_THEIRS}.attention.dense")
    return (*_around(), *attention)


def direct(config: EnlargerConfig) -> Table:
    """Direct super-resolution: CogLM, and beside it projections of the large codes' own."""
    plus = "mixins.attention_plus"
    return (
        *_around(),
        *_attention("/base", f"{_THEIRS}.attention.query_key_value", f"{_THEIRS}.attention.dense"),
        *_attention("/fine", f"{plus}.query_key_value.{{layer}}", f"{plus}.dense.{{layer}}"),
        *_fine(config),
    )


def iterative(config: RefinerConfig) -> Table:
    """Iterative super-resolution: CogLM's layers, trained further."""
    beside = "the direct stage's projections, which its code does not read"
    return (*coglm(config), *_fine(config), Ignored(r"mixins\.attention_plus\..*", beside))


def _fine(config: EnlargerConfig | RefinerConfig) -> Table:
    """The large codes' positions.

    Raises:
      UserError: ours are not a table alone.
    """
    require(
        config.own_positions,
        "config.model.own_positions is False and the large codes of these weights have a table of "
        "positions of their own; set it to True, in a run of ours before it is trained",
    )
    theirs = "mixins.extra_position_embedding.position_embeddings.weight"
    return (Row("fine/table", theirs),)


def _around() -> Table:
    """All but attention."""
    return (
        Row(
            "embed/table",
            "transformer.word_embeddings.weight",
            exchanged=(CODES, CODES + ICETK_PAD),
        ),
        Row("places/table", "transformer.position_embeddings.weight"),
        *_norm(f"{_BLOCK}/attention_norm", f"{_THEIRS}.input_layernorm"),
        *_norm(f"{_BLOCK}/attention_norm_after", f"{_THEIRS}.third_layernorm"),
        *_norm(f"{_BLOCK}/ffn_norm", f"{_THEIRS}.post_attention_layernorm"),
        *_norm(f"{_BLOCK}/ffn_norm_after", f"{_THEIRS}.fourth_layernorm"),
        *_linear(f"{_BLOCK}/ffn/up", f"{_THEIRS}.mlp.dense_h_to_4h"),
        *_linear(f"{_BLOCK}/ffn/down", f"{_THEIRS}.mlp.dense_4h_to_h"),
        *_norm("norm", "transformer.final_layernorm"),
    )


def _attention(stream: str, heads: str, out: str) -> Table:
    ours = f"{_BLOCK}/attention{stream}"
    three = f"{ours}/{{query,key,value}}"
    return (
        Row(f"{three}/weight", f"{heads}.weight", "(3 n h) d -> 3 d n h"),
        Row(f"{three}/bias", f"{heads}.bias", "(3 n h) -> 3 n h"),
        Row(f"{ours}/out/weight", f"{out}.weight", "d (n h) -> n h d"),
        Row(f"{ours}/out/bias", f"{out}.bias"),
    )


def _linear(ours: str, theirs: str) -> Table:
    weight = Row(f"{ours}/weight", f"{theirs}.weight", "o i -> i o")
    return (weight, Row(f"{ours}/bias", f"{theirs}.bias"))


def _norm(ours: str, theirs: str) -> Table:
    return (Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias"))
