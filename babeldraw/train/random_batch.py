"""A batch of random pictures, texts and codes, for measuring: nothing is read."""

from typing import Any

import jax
import numpy as np

from babeldraw.data.records import NO_LEVEL
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.base_experiment import Experiment


def random_batch(
    experiment: Experiment, spec: dict[str, jax.ShapeDtypeStruct], seed: int = 0
) -> dict[str, np.ndarray]:
    """Each array of a batch, all values such as data could have.

    Texts fill their whole length, without padding.

    Args:
      experiment: says how many pieces, classes and codes there are.
      spec: of `Objective.batch_spec`.
      seed: of the values.
    """
    rng, ranges = np.random.default_rng(seed), _ranges(experiment, spec)

    def draw(name: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if name not in ranges:
            # Continuous codes: latents are near a normal distribution.
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        low, high = ranges[name]
        return rng.integers(low, high, leaf.shape, dtype=leaf.dtype)

    return {name: draw(name, leaf) for name, leaf in spec.items()}


def _ranges(experiment: Experiment, spec: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    """By name, the lowest value and what all are below; of codes for each factor."""
    found: dict[str, tuple[int, Any]] = {
        "image": (0, 256),
        # 0 is padding.
        "text": (1, experiment.vocab_size),
        "masked_text": (1, experiment.vocab_size),
        "label": (0, experiment.num_classes),
        # Said of none, so each is drawn.
        "level": (NO_LEVEL, NO_LEVEL + 1),
    }
    if "count" in spec:
        found["count"] = (1, spec["states"].shape[1] + 1)
    if "tokens" in spec:
        vocab = make_tokenizer(experiment.tokenizer).codes.vocab
        if vocab:
            found["tokens"] = (0, vocab[0] if len(vocab) == 1 else np.array(vocab))
    return found
