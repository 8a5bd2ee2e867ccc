"""Direct super-resolution by codes, as in CogView2 (Ding et al., 2022, section 3.3, and its code).

Codes of a small picture to those of a large one in one pass. A base, trained on small pictures,
goes on seeing the text and the small codes as it does; the large codes are a second stream through
the same blocks that has projections of attention of its own and looks at windows of the small grid
and of its own. The base does not change.
"""

import dataclasses
import functools
from typing import Any

import jax

from babeldraw.config import require
from babeldraw.layers.block import self_attention
from babeldraw.layers.local_attention import EnlargingAttention
from babeldraw.layers.windows import Window, require_odd
from babeldraw.models.code_upscaler import (
    CodeUpscaler,
    CodeUpscalerConfig,
    CodeUpscalerGenerator,
    split,
    text_slots,
)
from babeldraw.models.condition import Condition
from babeldraw.tokenizers.base import Codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnlargerConfig(CodeUpscalerConfig):
    """Direct super-resolution.

    Attributes:
      across: rows and columns of the window of the small grid, 5 x 5 in CogView2.
      frozen_base: only the large codes' own projections and positions learn.
    """

    across: tuple[int, int] = (5, 5)
    frozen_base: bool = True
    kind: str = "enlarger"

    def __post_init__(self):
        super().__post_init__()
        require_odd(self.across, "config.model.across")


class Enlarger(CodeUpscaler):
    """The direct one; see `EnlargerConfig`."""

    @property
    def grid(self) -> tuple[int, int]:
        return split(self.condition)[1].codes.shape

    def attention(self, prefix: int) -> Any:
        config = self.config
        return functools.partial(
            EnlargingAttention,
            self_attention(config.decoder, bias=config.decoder.bias),
            prefix,
            Window(self.grid, config.across, self.factor),
            Window(self.codes.shape, config.around),
        )


@dataclasses.dataclass(frozen=True)
class EnlargerGenerator(CodeUpscalerGenerator):
    """Direct super-resolution; see `Generator` and `Masked`."""

    config: EnlargerConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> Enlarger:
        return Enlarger(self.config, self.condition, self.codes)

    def check(self) -> None:
        _, small = split(self.condition)
        parts = len(self.condition.parts) if self.condition.kind == "several" else 1
        require(
            small is not None and parts <= 2,
            f"config.model.kind=enlarger and config.condition.kind={self.condition.kind}; it draws "
            "from codes, alone or with a text: kind=several with a part of kind=codes",
        )
        super().check()
        (h, w), (height, width) = small.codes.shape, self.codes.shape
        factor = height // h
        require(
            factor >= 1 and (height, width) == (factor * h, factor * w),
            f"config.level has a grid of {height} x {width} codes and config.condition's level one "
            f"of {h} x {w}, which does not divide it by one factor; choose levels that do",
        )
        require(
            small.codes.vocab == self.codes.vocab,
            f"config.level has codes of {self.codes.vocab} and config.condition's level of "
            f"{small.codes.vocab}; both are of one codebook",
        )

    def masked_nll(
        self,
        params: Any,
        condition: Any,
        codes: jax.Array,
        known: jax.Array,
        keys: jax.Array | None = None,
        smoothing: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """As `Masked.masked_nll`; nothing but what is the large codes' own has a gradient."""
        params = held(params) if self.config.frozen_base else params
        return super().masked_nll(params, condition, codes, known, keys, smoothing)

    @property
    def small_cells(self) -> int:
        return split(self.condition)[1].codes.length

    @property
    def slots(self) -> int:
        return text_slots(self.condition) + self.small_cells + self.codes.length

    @property
    def looked(self) -> int:
        config = self.config
        return config.across[0] * config.across[1] + config.around[0] * config.around[1]


def held(params: Any) -> Any:
    """`params` of an enlarger, those of the base as constants."""

    def one(path, leaf):
        names = [getattr(key, "key", None) for key in path]
        return leaf if "fine" in names else jax.lax.stop_gradient(leaf)

    return jax.tree_util.tree_map_with_path(one, params)
