"""Stage 2 on continuous codes: which codes training reads, and how often its condition is taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.objectives.base import TrainState
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.prediction.base import Prediction
from tests.prediction.denoisers import CODES, Known

B = 4000


@dataclasses.dataclass(frozen=True)
class Looking(Prediction):
    """Learns nothing and tells what it is given."""

    sampled: bool = False

    def loss(self, generator, params, condition, codes, keys, step):
        nothing = jnp.mean(condition == generator.condition.num_classes)
        return jnp.float32(0), {"nothing": nothing, "codes": codes}


MEANS, DRAWS = Looking(), Looking(sampled=True)


class Noted:
    """A tokenizer whose means are 2 and whose draws are not."""

    codes, image_size = CODES, (4, 4)

    def encode(self, params, images):
        return jnp.full((images.shape[0], *CODES.each), 2.0)

    def sampled(self, params, images, key):
        return jax.random.normal(key, (images.shape[0], *CODES.each))


def metrics(batch, key, prediction=MEANS):
    rows = batch["label"].shape[0]
    objective = GeneratorObjective(Known(None), prediction, Noted(), None, rows)
    state = TrainState(jnp.int32(0), {}, None, {"tokenizer": {}}, {})
    return objective.forward(state, batch, jax.random.key(key))


def test_the_condition_is_dropped_at_its_share():
    batch = {"label": jnp.zeros(B, jnp.int32), "tokens": jnp.zeros((B, *CODES.each))}
    shares = [float(metrics(batch, key)["nothing"]) for key in range(3)]
    # Four deviations of a share of 0.1 in so many.
    assert shares == pytest.approx([0.1] * 3, abs=4 * (0.09 / B) ** 0.5)
    assert len({*shares}) == 3


def test_training_reads_means_or_draws_anew_each_step():
    batch = {"label": jnp.zeros(2, jnp.int32), "image": jnp.zeros((2, 4, 4, 3))}
    assert (metrics(batch, 0)["codes"] == 2).all()
    first, again, other = (np.asarray(metrics(batch, key, DRAWS)["codes"]) for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
