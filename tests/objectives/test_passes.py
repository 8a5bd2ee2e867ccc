"""Forward and backward pass of every recipe, by themselves, are those of its update."""

import jax
import numpy as np
import pytest

from babeldraw.train.experiment import parse
from babeldraw.train.random_batch import random_batch
from babeldraw.train.start import whole_objective

# An update and both passes, compiled.
pytestmark = pytest.mark.budget(10)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields", "after"),
    [
        ("demo/tokenizer.py", {"ema": {}}, ("optimizer", "restarts", "average")),
        slow("demo/tokenizer_gan.py", {}, ("optimizer", "discriminator", "restarts")),
        slow("demo/text_to_image.py", {"accumulation": 2}, ("optimizer",)),
        slow("demo/classifier.py", {}, ("optimizer",)),
        slow("demo/coca.py", {}, ("optimizer",)),
        slow("demo/text_encoder.py", {}, ("optimizer",)),
        slow("demo/super_resolution.py", {}, ("optimizer",)),
    ],
)
def test_they_are_those_of_the_update(runlocal, name, fields, after):
    config = runlocal(name).to_dict()
    config["train"] |= fields
    experiment = parse(config)
    objective = whole_objective(experiment)
    assert objective.after_gradients == after

    @jax.jit
    def passes(key, batch):
        state = objective.init(key)
        forward = objective.forward(state, batch, key)
        _, backward = objective.gradients(state, batch, key)
        return forward, backward, objective.update(state, batch, key)[1]

    batch = random_batch(experiment, objective.batch_spec())
    forward, backward, update = jax.device_get(passes(jax.random.key(0), batch))
    assert set(forward) <= set(backward) <= set(update)
    for metrics in (forward, backward):
        for name, value in metrics.items():
            np.testing.assert_allclose(value, update[name], rtol=1e-5, atol=1e-5, err_msg=name)
