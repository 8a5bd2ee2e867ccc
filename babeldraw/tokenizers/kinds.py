"""The kinds of tokenizers there are: a new one is its own file and a line here."""

from collections.abc import Mapping
from typing import Annotated, Any

from babeldraw.config import OfKind
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer

# By the field `kind` of the section: the section's dataclass and the tokenizer over it.
TOKENIZERS: dict[str, tuple[type, type[Tokenizer]]] = {
    "vit_vqgan": (ViTVQGANConfig, ViTVQGANTokenizer),
}
# The type of a section `tokenizer`, whichever kind it is of.
TokenizerConfig = Annotated[Any, OfKind(TOKENIZERS)]


def make_tokenizer(config: Any) -> Tokenizer:
    """The tokenizer that a section describes."""
    return TOKENIZERS[config.kind][1](config)


def read_tokenizer(config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a run's config, as config.json holds it.

    Raises:
      UserError: the section `tokenizer` is none that this program knows.
    """
    return make_tokenizer(OfKind(TOKENIZERS).build(config["tokenizer"], "config.tokenizer"))
