"""The kinds of tokenizers there are: a new one is its own file and a line here, or in `proxies`."""

from collections.abc import Mapping
from typing import Annotated, Any

from babeldraw.config import OfKind
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.hierarchy import HierarchyConfig, HierarchyTokenizer
from babeldraw.tokenizers.nested_vae import NestedVAEConfig, NestedVAETokenizer
from babeldraw.tokenizers.proxies import PROXIES
from babeldraw.tokenizers.titok import TiTokConfig, TiTokTokenizer

# By the field `kind` of the section: the section's dataclass and the tokenizer over it.
TOKENIZERS: dict[str, tuple[type, type[Tokenizer]]] = {
    **PROXIES,
    "titok": (TiTokConfig, TiTokTokenizer),
    "nested_vae": (NestedVAEConfig, NestedVAETokenizer),
    "hierarchy": (HierarchyConfig, HierarchyTokenizer),
}
# The type of a section `tokenizer`, whichever kind it is of.
TokenizerConfig = Annotated[Any, OfKind(TOKENIZERS)]


def make_tokenizer(config: Any, level: str = "") -> Tokenizer:
    """The tokenizer that a section describes, at one of its levels; empty: the first.

    Raises:
      UserError: there is no such level.
    """
    return TOKENIZERS[config.kind][1](config).at(level)


def read_tokenizer(config: Mapping[str, Any], level: str = "") -> Tokenizer:
    """The tokenizer of a run's config, as config.json holds it.

    Args:
      config: of the run.
      level: empty: that of the config, or the first.

    Raises:
      UserError: the section `tokenizer` is none that this program knows, or there is no such level.
    """
    section = OfKind(TOKENIZERS).build(config["tokenizer"], "config.tokenizer")
    return make_tokenizer(section, level or (config["level"] if "level" in config else ""))
