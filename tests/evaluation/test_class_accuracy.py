"""Pictures by class are judged class by class; those that the judge likes are kept; grids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.data.config import DataConfig
from babeldraw.drawing.classifier_judge import ClassifierJudge
from babeldraw.errors import UserError
from babeldraw.evaluation import class_accuracy
from babeldraw.evaluation.base import Context
from babeldraw.evaluation.class_accuracy import ClassAccuracy, ClassAccuracyConfig
from babeldraw.evaluation.samples import Samples, SamplesConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.prediction.logits import SamplingConfig

K = 3
CONTEXT = Context(DataConfig(), (2, 2), 0, None, condition=ClassCondition(K))
SAMPLING = SamplingConfig()


class Judge:
    """Reads the class and how sure to be from the first pixel: red / 10 and green."""

    num_classes, classes = K, ("a", "b", "c")
    check_knows = ClassifierJudge.check_knows

    def probabilities(self, images, batch_size):
        images = np.asarray(images) / 255
        shares = np.full((len(images), K), 0.1, np.float32)
        named = np.round(10 * images[:, 0, 0, 0]).astype(int)
        shares[np.arange(len(images)), named] = 0.5 + images[:, 0, 0, 1] / 2
        return shares


def generate(state, class_B, keys_B, settings, guided):
    """Class 2 is drawn as class 1 by every other seed; the wrong ones are less sure."""
    del state, settings, guided
    odd_B = jax.vmap(jax.random.key_data)(keys_B)[:, -1] % 2 == 1
    wrong_B = odd_B & (class_B == 2)
    pixel = jnp.stack(
        [jnp.where(wrong_B, 1, class_B) / 10, jnp.where(wrong_B, 0.0, 0.8), jnp.zeros(len(odd_B))],
        axis=-1,
    )
    return jnp.broadcast_to(pixel[:, None, None], (len(odd_B), 2, 2, 3))


@pytest.mark.parametrize("batch_size", [4, 7])
def test_the_judge_is_asked_class_by_class(monkeypatch, batch_size):
    monkeypatch.setattr(class_accuracy.ClassifierJudge, "open", lambda workdir: Judge())
    config = ClassAccuracyConfig("judge", 4, batch_size, acceptance=0.5, sampling=SAMPLING)
    figures = dict(ClassAccuracy(generate, config, CONTEXT).run(None))
    # Half of one class in three is wrong; of each class the surer half stays.
    assert figures == {
        "accuracy": pytest.approx(5 / 6),
        "worst_class": 2.0,
        "worst_accuracy": 0.5,
        "accuracy_accepted": 1.0,
    }


def test_a_judge_of_other_classes_is_refused(monkeypatch):
    monkeypatch.setattr(class_accuracy.ClassifierJudge, "open", lambda workdir: Judge())
    four = dataclasses.replace(CONTEXT, condition=ClassCondition(4))
    with pytest.raises(UserError, match="classifier_run=judge knows 3 classes and the model 4; "):
        ClassAccuracy(generate, ClassAccuracyConfig("judge"), four)
    other = dataclasses.replace(CONTEXT, classes=("a", "c", "b"))
    with pytest.raises(UserError, match="judge knows class 1 as 'b' and the model as 'c'; name"):
        ClassAccuracy(generate, ClassAccuracyConfig("judge"), other)


@pytest.mark.parametrize(
    ("num", "acceptance", "drawn"), [(8, 1.0, 8), (8, 0.5, 16), (3, 0.7, 5), (1, 0.05, 20)]
)
def test_enough_are_drawn(num, acceptance, drawn):
    assert ClassAccuracyConfig("judge", num, acceptance=acceptance).drawn == drawn


def test_the_grid_has_a_row_per_class():
    config = SamplesConfig(ask=("0", "#2", "none"), each=2, sampling=SAMPLING)
    ((name, grid),) = Samples(generate, config, CONTEXT).run(None)
    assert name == "grid" and grid.shape == (6, 4, 3)
    # Seeds are 0 to 5: the second picture of class 2 has an odd one.
    np.testing.assert_array_equal(grid[::2, ::2, 0], np.round([[0, 0], [51, 25.5], [76.5, 76.5]]))


def test_without_words_the_first_classes_are_drawn():
    config = SamplesConfig(num=2, sampling=SAMPLING)
    ((_, grid),) = Samples(generate, config, CONTEXT).run(None)
    np.testing.assert_array_equal(grid[0, ::2, 0], np.round([0, 25.5]))


def test_a_class_that_is_not_there_is_named():
    samples = Samples(generate, SamplesConfig(ask=("4",), sampling=SAMPLING), CONTEXT)
    with pytest.raises(UserError, match="class '4' is not there; the model knows 0 to 2, or 3 for"):
        samples.check()
