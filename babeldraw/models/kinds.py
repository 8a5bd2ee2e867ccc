"""The conditions and networks there are: a new one is its own file and a line here."""

from collections.abc import Mapping
from typing import Annotated, Any

from babeldraw.config import OfKind, require
from babeldraw.models.babeldraw import BabeldrawConfig, BabeldrawGenerator
from babeldraw.models.base import Generator
from babeldraw.models.coglm import CogLMConfig, CogLMGenerator
from babeldraw.models.condition import Condition
from babeldraw.models.conditions import SINGLE
from babeldraw.models.dit import DiTConfig, DiTGenerator
from babeldraw.models.enlarger import EnlargerConfig, EnlargerGenerator
from babeldraw.models.levels import LevelGroup, read_levels
from babeldraw.models.llama import LlamaConfig, LlamaGenerator
from babeldraw.models.maskgen import MaskGenConfig, MaskGenGenerator
from babeldraw.models.maskgit import MaskGITConfig, MaskGITGenerator
from babeldraw.models.rar import RARConfig, RARGenerator
from babeldraw.models.refiner import RefinerConfig, RefinerGenerator
from babeldraw.models.several import SeveralConditions
from babeldraw.models.uvit import UViTConfig, UViTGenerator
from babeldraw.models.vim import VIMConfig, VIMGenerator
from babeldraw.tokenizers.base import Codes, Tokenizer
from babeldraw.tokenizers.kinds import read_tokenizer

# By the field `kind` of the section `condition`.
CONDITIONS: dict[str, tuple[type[Condition]]] = {**SINGLE, "several": (SeveralConditions,)}
# The type of a section `condition`, whichever kind it is of.
ConditionConfig = Annotated[Any, OfKind(CONDITIONS)]
# By the field `kind` of the section: the section's dataclass and the network over it.
NETWORKS: dict[str, tuple[type, type[Generator]]] = {
    "babeldraw": (BabeldrawConfig, BabeldrawGenerator),
    "coglm": (CogLMConfig, CogLMGenerator),
    "dit": (DiTConfig, DiTGenerator),
    "enlarger": (EnlargerConfig, EnlargerGenerator),
    "llama": (LlamaConfig, LlamaGenerator),
    "maskgen": (MaskGenConfig, MaskGenGenerator),
    "maskgit": (MaskGITConfig, MaskGITGenerator),
    "uvit": (UViTConfig, UViTGenerator),
    "vim": (VIMConfig, VIMGenerator),
    "refiner": (RefinerConfig, RefinerGenerator),
    "rar": (RARConfig, RARGenerator),
}
# The type of a section `model`, whichever kind it is of.
NetworkConfig = Annotated[Any, OfKind(NETWORKS)]


def make_generator(
    config: Any, condition: Condition, codes: Codes, levels: LevelGroup | None = None
) -> Generator:
    """The network that a section describes.

    Args:
      config: the section.
      condition: what it draws from.
      codes: what it predicts; of one of the levels.
      levels: into which it draws; None: that one.

    Raises:
      UserError: it cannot take these.
    """
    network = NETWORKS[config.kind][1]
    require(
        levels is None or network.takes_levels,
        f"config.levels is set and config.model.kind={config.kind} draws into one level; name that "
        "by config.level, or take kind=dit",
    )
    given = {} if levels is None else {"levels": levels}
    generator = network(config, condition, codes, **given)
    generator.check()
    return generator


def read_condition(config: Mapping[str, Any]) -> Condition:
    """The condition of a run's config, as config.json holds it."""
    condition = OfKind(CONDITIONS).build(config["condition"], "config.condition")
    return condition.bound(lambda: read_tokenizer(config))


def read_generator(config: Mapping[str, Any], tokenizer: Tokenizer) -> Generator:
    """The network of a run's config, as config.json holds it, of codes of a tokenizer."""
    section = OfKind(NETWORKS).build(config["model"], "config.model")
    levels = read_levels(config, tokenizer)
    return make_generator(section, read_condition(config), tokenizer.codes, levels)
