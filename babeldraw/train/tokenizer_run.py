"""A trained tokenizer, read from its run folder."""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import build
from babeldraw.errors import UserError
from babeldraw.objectives.base import to_float
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder
from babeldraw.tokenizers.base import ImageTokens
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerRun:
    """Attributes:
    tokenizer: the network.
    params: of the newest checkpoint.
    identity: of network and weights together; equal identities give equal tokens.
    """

    tokenizer: ViTVQGANTokenizer
    params: Any
    identity: str

    @classmethod
    def open(cls, workdir: str) -> "TokenizerRun":
        """Reads a run folder. Raises `UserError` when it is none of a tokenizer."""
        folder = RunFolder.of(workdir)
        config = folder.read_config()
        if config["objective"] != "image_tokenizer":
            raise UserError(
                f"{workdir} is a run of {config['objective']}; name one that trained a tokenizer"
            )
        tokenizer = ViTVQGANTokenizer(
            build(ViTVQGANConfig, config["tokenizer"], "config.tokenizer")
        )
        shapes = nn.unbox(jax.eval_shape(tokenizer.init, jax.random.key(0)))
        _, state = restore_subset(folder.checkpoints, {"params": on_first_device(shapes)})
        return cls(tokenizer, state["params"], identity(config["tokenizer"], state["params"]))

    @property
    def tokens(self) -> ImageTokens:
        return self.tokenizer.tokens

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tokenizer.image_size

    def encode(self, images: np.ndarray) -> jax.Array:
        """uint8 or float32 in [0, 1], [B, height, width, 3] -> int32 [B, T]."""
        return self._encode(self.params, images)

    @functools.cached_property
    def _encode(self):
        return jax.jit(lambda params, images: self.tokenizer.encode(params, to_float(images)))


def identity(config: dict[str, Any], params: Any) -> str:
    """16 hexadecimal digits of a tokenizer's config and weights."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()[:16]
