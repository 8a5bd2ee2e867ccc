"""Trained super-resolution, to be appended to what draws pictures."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import build
from babeldraw.errors import UserError
from babeldraw.models.super_resolution import SuperResolutionConfig, Upscaler
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.tokenizers.base import MAKES_CODES, identity
from babeldraw.tokenizers.kinds import read_tokenizer


@dataclasses.dataclass(frozen=True)
class SuperResolutionRun:
    """Attributes:
    upscaler: the network.
    params: of the newest checkpoint.
    tokenizer: identity of the tokenizer whose pictures it was trained on.
    """

    upscaler: Upscaler
    params: Any
    tokenizer: str

    @classmethod
    def open(cls, workdir: str) -> "SuperResolutionRun":
        """Reads a run folder. Raises `UserError` when it is none of super-resolution."""
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] != "super_resolution":
            raise UserError(
                f"{workdir} is a run of {config['objective']}; name one of super_resolution"
            )
        section = build(
            SuperResolutionConfig, config["super_resolution"], "config.super_resolution"
        )
        upscaler = Upscaler(section)
        tokenizer = read_tokenizer(config)
        key = jax.random.key(0)
        whole = nn.unbox(jax.eval_shape(tokenizer.init, key))
        weights = weights_in(config)
        abstract = {
            weights: nn.unbox(jax.eval_shape(upscaler.init, key)),
            # Of the tokenizer, what its identity hangs on.
            "frozen": {"tokenizer": tokenizer.part(whole, MAKES_CODES)},
        }
        _, state = restore_subset(folder.checkpoints, on_first_device(abstract))
        made_by = identity(tokenizer, state["frozen"]["tokenizer"])
        return cls(upscaler, state[weights], made_by)

    def upscale(self, images: jax.Array | np.ndarray) -> jax.Array:
        """float32 [B, h, w, 3] in [0, 1] -> [B, factor h, factor w, 3], one after the other."""
        return self._upscale(self.params, images)

    @functools.cached_property
    def _upscale(self):
        return jax.jit(self.upscaler.upscale_one_by_one)
