"""A text encoder's features on a task with GLUE's features: read by name, linear, never hidden."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from babeldraw.data.config import DataConfig  # noqa: E402
from babeldraw.data.text import Vocabulary, train_vocabulary  # noqa: E402
from babeldraw.errors import UserError  # noqa: E402
from babeldraw.evaluation.base import Context  # noqa: E402
from babeldraw.evaluation.text_probe import TextProbe, TextProbeConfig, matthews  # noqa: E402
from babeldraw.models.text_encoder import mean_over_pieces  # noqa: E402
from babeldraw.sharding.mesh import MeshConfig, make_mesh  # noqa: E402
from babeldraw.train.evaluation import evaluate_run  # noqa: E402

GOOD, BAD = ("fine", "lovely", "great"), ("dull", "awful", "poor")
LENGTH = 12


def sentences(count, seed):
    """What a word says is the label; two in three are good."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        label = int(rng.random() < 2 / 3)
        word = rng.choice(GOOD if label else BAD)
        yield f"a {word} film about {rng.choice(['a ship', 'nothing', 'two dogs'])}", label


class BabeldrawGlue(tfds.core.GeneratorBasedBuilder):
    """Sentences with the features of `glue/sst2` and `glue/cola`; `test` hides its labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "sentence": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["negative", "positive"]),
            "idx": np.int32,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        sizes = {"train": 200, "validation": 100, "test": 10}
        return {name: self._generate_examples(name, size) for name, size in sizes.items()}

    def _generate_examples(self, split, size):
        for index, (sentence, label) in enumerate(sentences(size, len(split))):
            label = -1 if split == "test" else label
            yield index, {"sentence": sentence, "label": label, "idx": index}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    tfds.disable_progress_bar()
    BabeldrawGlue(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "text.model"
    train_vocabulary((text for text, _ in sentences(100, 9)), path, 120)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    return Context(
        data=DataConfig(),
        image_size=(8, 8),
        seed=0,
        mesh=mesh,
        vocabulary=Vocabulary(path),
        text_length=LENGTH,
    )


def test_what_is_linear_is_found_and_told_beside_the_more_frequent_class(data_dir, context):
    size = context.vocabulary.size

    def counts(state, batch):
        assert set(batch) == {"text"} and batch["text"].shape == (32, LENGTH)
        return jnp.sum(jax.nn.one_hot(batch["text"], size), axis=1)

    asked = {"path": "babeldraw_glue", "data_dir": data_dir, "batch_size": 32}
    config = TextProbeConfig(**asked, learning_rate=0.05)
    probe = TextProbe(counts, config, context)
    probe.check()
    found = dict(probe.run(None))
    labels = np.array([label for _, label in sentences(100, len("validation"))])
    assert found["accuracy"] > 0.97 and found["accuracy"].num == 100
    assert found["matthews"] > 0.93 and found["matthews"].interval.high <= 1
    assert found["majority"] == pytest.approx(labels.mean()) and found["cut"] == 0.0
    assert probe.protocol()["features"] == "mean of the output over pieces"
    # Of features that tell nothing.
    plain = TextProbe(lambda state, batch: jnp.zeros((32, 2)), config, context)
    nothing = dict(plain.run(None))
    assert nothing["accuracy"] == nothing["majority"] and nothing["matthews"] == 0


def test_matthews_is_that_of_the_four_counts():
    rng = np.random.default_rng(0)
    found, label = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    right, wrong = found == label, found != label
    tp, tn = np.sum(right & (found == 1)), np.sum(right & (found == 0))
    fp, fn = np.sum(wrong & (found == 1)), np.sum(wrong & (found == 0))
    root = np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert matthews(found, label) == pytest.approx((tp * tn - fp * fn) / root, abs=1e-12)
    assert matthews(label, label) == pytest.approx(1) and matthews(1 - label, label) < -0.999
    assert matthews(np.ones(5), np.array([0, 1, 1, 0, 1])) == 0.0


def test_the_mean_leaves_padding_out():
    states = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    text = jnp.array([[5, 6, 0, 0], [7, 7, 7, 7], [0, 0, 0, 0]], jnp.int32)
    expected = [states[0, :2].mean(axis=0), states[1].mean(axis=0), np.zeros(2)]
    np.testing.assert_allclose(mean_over_pieces(states, text), np.stack(expected), atol=1e-6)


def test_what_a_task_does_not_have_is_one_line(data_dir, context):
    config = TextProbeConfig(path="babeldraw_glue", data_dir=data_dir)
    for field, value, line in (
        ("text", "premise", r"text_probe.text names 'premise', which no record of babeldraw_glue"),
        ("split", "dev", r"text_probe.split='dev' is not a split of babeldraw_glue; use one of"),
        (
            "eval_split",
            "dev",
            r"text_probe.eval_split='dev' is not a split of babeldraw_glue; use one of",
        ),
        ("path", "no_such_task", r"text_probe.path='no_such_task' is no TFDS dataset"),
    ):
        other = dataclasses.replace(config, **{field: value})
        with pytest.raises(UserError, match=line):
            TextProbe(lambda state, batch: None, other, context).check()
    hidden = dataclasses.replace(config, eval_split="test", num_train=40, epochs=1)
    features = lambda state, batch: jnp.zeros((128, 2))  # noqa: E731
    with pytest.raises(UserError, match="no text of tfds/.*test has a label; name another split"):
        list(TextProbe(features, hidden, context).run(None))


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("learning_rate", 0.0), ("optimizer", "lbfgs")]
)
def test_a_setting_that_is_none_is_named(field, value):
    with pytest.raises(UserError, match=f"{field} is {value!r}"):
        TextProbeConfig(**{field: value})


# A run's encoder, compiled.
@pytest.mark.slow
@pytest.mark.budget(20)
def test_a_generator_s_encoder_is_asked_by_its_run_folder(generator_run, data_dir):
    fields = {"path": "babeldraw_glue", "data_dir": data_dir, "epochs": 2, "num_train": 64}
    found = evaluate_run(str(generator_run), ["text_probe"], fields={"text_probe": fields})
    assert 0 <= found["text_probe/accuracy"] <= 1 and "text_probe/matthews" in found
