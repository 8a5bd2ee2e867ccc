"""A generator that reads texts by a frozen T5: trained, looked at and drawn from."""

import jax
import numpy as np
import pytest
import sentencepiece

from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.models.t5 import FrozenT5, T5Config
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.weights import flatten, write_weights
from babeldraw.sharding.constraint import is_names
from babeldraw.train.evaluation import TrainedRun
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.start import check_resume, initial_state

SIZES = {"blocks": 1, "heads": 2, "head_dim": 8, "dim": 12, "hidden": 16, "vocab_size": 80}


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A folder with random weights of these sizes, and with words that have T5's ids."""
    folder = tmp_path_factory.mktemp("t5")
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=leaf.shape).astype(np.float32)
        for name, leaf in flatten(FrozenT5(T5Config(**SIZES)).shapes()).items()
    }
    write_weights(folder / "t5.safetensors", arrays, {})
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a small red ring on a white background"] * 5),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
            **ids,
        )
    return folder, arrays


@pytest.fixture
def config(runlocal, tokenizer_run, t5):
    config = runlocal("demo/llama.py").to_dict()
    config["tokenizer_run"] = str(tokenizer_run)
    config["condition"] = {
        "kind": "t5",
        "length": 16,
        "encoder": SIZES,
        "weights": str(t5[0] / "t5.safetensors"),
        "words": str(t5[0] / "spiece.model"),
    }
    return config


def test_a_step_learns_no_t5_and_data_give_what_it_reads(config):
    experiment = parse(config)
    objective = experiment.make_objective()
    state = jax.eval_shape(objective.init, jax.random.key(0))
    assert set(state.frozen) == {"tokenizer", "text_encoder"}
    axes = jax.tree.structure(objective.axes().frozen, is_leaf=is_names)
    assert axes == jax.tree.structure(state.frozen)
    spec = objective.batch_spec()
    assert spec["text"].shape == (8, 16) and "states" not in spec
    grads, _ = jax.eval_shape(objective.gradients, state, spec, jax.random.key(0))
    assert jax.tree.structure(grads) == jax.tree.structure(state.params)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors is not there"),
        ({"weights": ""}, "config.condition.weights is empty"),
        ({"words": ""}, "config.condition.words is empty"),
        ({"words": "nowhere.model"}, "vocabulary nowhere.model cannot be read"),
        ({"encoder": {**SIZES, "vocab_size": 400}}, "the weights are of another vocabulary"),
    ],
)
def test_what_is_not_there_or_does_not_go_is_told_at_once(config, tmp_path, fields, line):
    config["condition"] |= fields
    with pytest.raises(UserError, match=line) as told:
        check_resume(RunFolder.of(str(tmp_path / "run")), parse(config))
    assert "\n" not in str(told.value)


def test_weights_of_another_vocabulary_are_told_before_anything_is_compiled(config):
    config["condition"]["encoder"] = {**SIZES, "vocab_size": 90}
    experiment = parse(config)
    line = r"embed/table has the shape \(80, 12\) and frozen/text_encoder/embed/table \(90, 12\)"
    with pytest.raises(UserError, match=line):
        initial_state(experiment, experiment.make_objective(), jax.random.key(0), None)


@pytest.mark.slow
def test_it_is_trained_and_drawn_from_and_t5_stays_as_it_was(config, t5, tmp_path):
    run = tmp_path / "run"
    train(config, str(run))
    assert (run / "text.model").read_bytes() == (t5[0] / "spiece.model").read_bytes()
    frozen = flatten(TrainedRun.open(str(run)).state.frozen["text_encoder"])
    for name, array in t5[1].items():
        np.testing.assert_array_equal(frozen[name], array)
    sampler = Sampler.from_run(str(run))
    words = ["a small red ring", "a white background", ""]
    pictures = [*sampler.sample(words, seed=3)]
    assert [picture.prompt for picture in pictures] == words
    assert "an empty prompt draws without condition" in pictures[2].asked.notes
    (again,) = sampler.sample(words[:1], seed=3)
    np.testing.assert_array_equal(again.tokens, pictures[0].tokens)
