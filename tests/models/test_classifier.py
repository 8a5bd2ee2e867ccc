"""The judge: learns two colours apart, and names sizes that do not fit."""

import jax
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.models.classifier import ClassifierConfig
from babeldraw.objectives.image_classifier import ImageClassifierObjective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig

CONFIG = ClassifierConfig(num_classes=3, image_size=(8, 8), channels=4, stages=2)


def test_it_learns_colours_apart():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 32).astype(np.int32)
    colours = 255 * np.eye(3, dtype=np.uint8)[label]
    image = np.broadcast_to(colours[:, None, None], (32, 8, 8, 3))
    optimizer = OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), "adamw")
    objective = ImageClassifierObjective(CONFIG, optimizer, 32)
    state, update = objective.init(jax.random.key(0)), jax.jit(objective.update)
    batch = {"image": image, "label": label}
    for _ in range(40):
        state, metrics = update(state, batch, jax.random.key(1))
    assert metrics["accuracy"] == 1 and metrics["loss"] < 0.1
    logits = objective.predict_fns()["classify"](state, batch)
    assert logits.shape == (32, 3)
    np.testing.assert_array_equal(logits.argmax(axis=-1), label)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_classes": 1}, "model.num_classes is 1; at least 2"),
        ({"image_size": (2, 8)}, r"model.image_size is \(2, 8\), which model.stages=2 halve"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, said):
    with pytest.raises(UserError, match=said):
        ClassifierConfig(**{"num_classes": 3, "image_size": (8, 8), "stages": 2, **sizes})
