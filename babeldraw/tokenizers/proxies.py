"""The kinds of tokenizers that stand alone, on whose codes and decoder another kind may build.

Apart from `babeldraw.tokenizers.kinds`, whose further kinds take theirs from here.
"""

from typing import Annotated, Any

from babeldraw.config import OfKind
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer
from babeldraw.tokenizers.vqgan import VQGANConfig, VQGANTokenizer

# As `kinds.TOKENIZERS`, of which they are a part.
PROXIES: dict[str, tuple[type, type[Tokenizer]]] = {
    "vit_vqgan": (ViTVQGANConfig, ViTVQGANTokenizer),
    "vqgan": (VQGANConfig, VQGANTokenizer),
}
# The type of a section that describes one.
ProxyConfig = Annotated[Any, OfKind(PROXIES)]


def make_proxy(config: Any) -> Tokenizer:
    """The tokenizer that such a section describes."""
    return PROXIES[config.kind][1](config)
