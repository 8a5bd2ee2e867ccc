"""Run folders of random weights, for tests of drawing: nothing is trained."""

import functools

import jax
from ml_collections import ConfigDict

from babeldraw.config import to_dict
from babeldraw.data.text import train_vocabulary
from babeldraw.runs.opened import write_run
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.experiment import parse
from tests.networks import random_params


def vocabulary(texts, folder):
    """The content of `text.model` of some texts, which is made in the folder."""
    train_vocabulary(texts, folder / "text.model", 60)
    return (folder / "text.model").read_bytes()


@functools.cache
def tokenizer_params(tokenizer):
    return jax.device_get(random_params(tokenizer))


def write_generator(folder, config, words):
    """A run of a generator; of equal sections `tokenizer` are equal tokenizers.

    Args:
      folder: where to.
      config: of a config file.
      words: content of `text.model`.
    """
    experiment = parse(ConfigDict(config))
    frozen = {"tokenizer": tokenizer_params(make_tokenizer(experiment.tokenizer))}
    params = jax.device_get(random_params(experiment.generator, 1))
    made = {"frozen": frozen, "vocabulary": words, "step": 7}
    write_run(str(folder), to_dict(experiment), params, **made)
    return str(folder)
