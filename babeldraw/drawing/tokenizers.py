"""Reads a trained tokenizer, to draw its tokens."""

from typing import Any

import flax.linen as nn
import jax

from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import on_first_device, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.tokenizers.base import Tokenizer, identity
from babeldraw.tokenizers.kinds import read_tokenizer


def open_tokenizer(workdir: str) -> tuple[Tokenizer, Any, str]:
    """Network, parameters of the newest checkpoint, and identity of the tokens, of a run folder.

    Raises:
      UserError: no such folder, not one of a tokenizer, or no checkpoint yet.
    """
    folder = RunFolder.of(workdir)
    config = folder.read_config()
    if config["objective"] != "image_tokenizer":
        raise UserError(
            f"{workdir} is a run of {config['objective']}; name one that trained a tokenizer"
        )
    tokenizer = read_tokenizer(config)
    shapes = nn.unbox(jax.eval_shape(tokenizer.init, jax.random.key(0)))
    weights = weights_in(config)
    _, state = restore_subset(folder.checkpoints, {weights: on_first_device(shapes)})
    return tokenizer, state[weights], identity(tokenizer, state[weights])


def other_decoder(workdir: str, tokens: str) -> tuple[Tokenizer, Any]:
    """Network and parameters of a tokenizer that may draw the tokens of another.

    Args:
      workdir: the run folder, such as one of configs/vit_vqgan/decoder.py.
      tokens: identity of the tokenizer that the tokens are of.

    Raises:
      UserError: as `open_tokenizer`; or its encoder or codebook is another.
    """
    tokenizer, params, own = open_tokenizer(workdir)
    if own != tokens:
        raise UserError(
            f"--tokenizer_run={workdir} has the encoder and codebook {own} and the generator was "
            f"trained on {tokens}; name a run whose decoder was trained for the same"
        )
    return tokenizer, params
