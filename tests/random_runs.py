"""Run folders of random weights, for tests of drawing: nothing is trained."""

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


def write_generator(folder, config, words, tokenizer_seed=0):
    """A run of a generator.

    Args:
      folder: where to.
      config: of a config file.
      words: content of `text.model`.
      tokenizer_seed: runs of one seed have one tokenizer.
    """
    experiment = parse(ConfigDict(config))
    tokenizer = make_tokenizer(experiment.tokenizer)
    frozen = {"tokenizer": jax.device_get(random_params(tokenizer, tokenizer_seed))}
    params = jax.device_get(random_params(experiment.generator, 1))
    made = {"frozen": frozen, "vocabulary": words, "step": 7}
    write_run(str(folder), to_dict(experiment), params, **made)
    return str(folder)
