"""The judge: learns two colours apart, and names sizes that do not fit."""

import jax
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.judges.classifier import ClassifierConfig
from babeldraw.objectives.image_classifier import ImageClassifierObjective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig

CONFIG = ClassifierConfig(num_classes=3, image_size=(8, 8), channels=4, stages=2)


@pytest.mark.slow
def test_it_learns_colours_apart():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 32).astype(np.int32)
    colours = 255 * np.eye(3, dtype=np.uint8)[label]
    image = np.broadcast_to(colours[:, None, None], (32, 8, 8, 3))
    optimizer = OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), "adamw")
    objective = ImageClassifierObjective(model=CONFIG, optimizer=optimizer, batch_size=32)
    state, update = objective.init(jax.random.key(0)), jax.jit(objective.update)
    batch = {"image": image, "label": label}
    for _ in range(40):
        state, metrics = update(state, batch, jax.random.key(1))
    assert metrics["accuracy"] == 1 and metrics["loss"] < 0.1
    logits = objective.predict_fns()["classify"](state, batch)
    assert logits.shape == (32, 3)
    np.testing.assert_array_equal(logits.argmax(axis=-1), label)


def test_pictures_without_a_label_train_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    label = np.array([0, -1, 2, -1, 1, 3], np.int32)
    known = (label >= 0) & (label < 3)
    optimizer = OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), "adamw")
    mixed, alone = (
        ImageClassifierObjective(model=CONFIG, optimizer=optimizer, batch_size=n) for n in (6, 3)
    )
    state, update = jax.jit(mixed.init)(jax.random.key(0)), jax.jit(mixed.update)
    found, metrics = update(state, {"image": image, "label": label}, jax.random.key(1))
    batch = {"image": image[known], "label": label[known]}
    expected, wanted = jax.jit(alone.update)(state, batch, jax.random.key(1))
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, expected.params
    )
    nothing = {"image": image, "label": np.full(6, -1, np.int32)}
    _, metrics = update(state, nothing, jax.random.key(1))
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0


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
