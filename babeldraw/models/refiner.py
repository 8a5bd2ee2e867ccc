"""Iterative super-resolution by codes, as in CogView2 (Ding et al., 2022, section 3.3, and code).

The codes of the large picture alone, each seeing the text and a window around it; the whole network
learns. There are 3,600 codes where the CogLM that it begins from has 400.
"""

import dataclasses
import functools
from typing import Any

from babeldraw.config import require
from babeldraw.layers.block import self_attention
from babeldraw.layers.local_attention import LocalAttention
from babeldraw.layers.windows import Window
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
class RefinerConfig(CodeUpscalerConfig):
    """Iterative super-resolution.

    Attributes:
      factor: how many times as high and wide the grid is as the small one.
    """

    factor: int = 3
    kind: str = "refiner"

    def __post_init__(self):
        super().__post_init__()
        require(self.factor >= 1, f"config.model.factor is {self.factor}; at least 1 is needed")


class Refiner(CodeUpscaler):
    """The iterative one; see `RefinerConfig`."""

    @property
    def grid(self) -> tuple[int, int]:
        return tuple(side // self.config.factor for side in self.codes.shape)

    def attention(self, prefix: int) -> Any:
        decoder = self.config.decoder
        return functools.partial(
            LocalAttention,
            **self_attention(decoder, bias=decoder.bias).keywords,
            prefix=prefix,
            window=Window(self.codes.shape, self.config.around),
        )


@dataclasses.dataclass(frozen=True)
class RefinerGenerator(CodeUpscalerGenerator):
    """Iterative super-resolution; see `Generator` and `Masked`."""

    config: RefinerConfig
    condition: Condition
    codes: Codes

    @property
    def network(self) -> Refiner:
        return Refiner(self.config, self.condition, self.codes)

    def check(self) -> None:
        require(
            split(self.condition)[1] is None and self.condition.kind != "several",
            f"config.model.kind=refiner and config.condition.kind={self.condition.kind}; it draws "
            "from a text, and codes that are given in drawing",
        )
        super().check()
        factor, shape = self.config.factor, self.codes.shape
        require(
            not any(side % factor for side in shape),
            f"config.model.factor is {factor}, which does not divide the grid of {shape[0]} x "
            f"{shape[1]} codes; choose a divisor of both",
        )

    @property
    def small_cells(self) -> int:
        return self.codes.length // self.config.factor**2

    @property
    def slots(self) -> int:
        return text_slots(self.condition) + self.codes.length

    @property
    def looked(self) -> int:
        return text_slots(self.condition) + self.config.around[0] * self.config.around[1]
