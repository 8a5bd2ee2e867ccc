"""Evaluators of a tokenizer of several levels: one for each, by its codes and its own half-done."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, HalfDone
from babeldraw.sharding.mesh import make_mesh
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train import tokenizer_experiment
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

NETWORK = {"channels": 4, "groups": 2, "multipliers": (1, 1, 2), "latent_channels": 3}
TOKENIZER = {"kind": "nested_vae", "strides": (2, 4), "image_size": (8, 12), "network": NETWORK}
CONFIG = {
    "objective": "image_tokenizer",
    "train": {"steps": 1, "batch_size": 2},
    "data": {"source": "shapes"},
    "tokenizer": TOKENIZER,
    "optimizer": {
        "name": "adamw",
        "schedule": {"peak": 1e-3, "warmup_steps": 0, "decay_start": 0, "decay_end": 1},
    },
    "evaluators": {"rfd": {"file": "here"}},
}


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The evaluators by name; of `rfd` what it was given."""
    given = lambda *given: given  # noqa: E731
    monkeypatch.setattr(tokenizer_experiment, "ReconstructionDistance", given)
    monkeypatch.setattr(tokenizer_experiment, "open_features", lambda config: None)
    experiment = parse(CONFIG)
    size, mesh = experiment.tokenizer.image_size, make_mesh(experiment.mesh)
    context = Context(experiment.data, size, 0, mesh, half_done=HalfDone(tmp_path, "step 3"))
    return experiment.make_evaluators(experiment.make_objective(), context)


def test_there_is_one_for_each_level(made):
    assert [*made] == ["reconstruction", "rfd", "reconstruction_4", "rfd_4"]
    kept = [made[name][2].half_done.identity for name in ("rfd", "rfd_4")]
    # What one level has gathered is not gone on from by another.
    assert kept == ["step 3", "step 3 4"]


@pytest.mark.slow
def test_each_gives_pictures_back_at_its_level(made):
    experiment = parse(CONFIG)
    objective, tokenizer = experiment.make_objective(), make_tokenizer(experiment.tokenizer)
    params = jax.jit(lambda key: nn.unbox(tokenizer.init(key)))(jax.random.key(0))
    images = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)
    state = jax.eval_shape(objective.init, jax.random.key(0))

    def given(name):
        reconstruct = made[name][0]
        return lambda params: reconstruct(state.replace(params=params), {"image": images})

    _, first = jax.eval_shape(given("rfd"), params)
    assert first.shape == (2, 4, 6, 3)
    found, codes = jax.jit(given("rfd_4"))(params)
    expected, same = jax.jit(tokenizer.at("4").reconstruct)(params, images)
    assert codes.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(codes, same, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("argument", "stored", "message"),
    [
        ("all", (), "one level and config.levels is set; .* --level=all`"),
        ("16", ("8", "16", "32"), "all levels and config.levels is not set; .* --level=16`"),
    ],
)
def test_stored_codes_are_those_of_the_levels_that_are_drawn_into(argument, stored, message):
    config = load_config("configs/emoji/cat_dit.py", "pyproject.toml", f"{argument},runlocal")
    config.data.source, config.data.path = "tokens", "codes"
    config.prediction.sampled = False
    experiment = parse(config)
    with pytest.raises(UserError, match=message):
        experiment.check_data(SimpleNamespace(name="tokens:x", stored_levels=stored))
    own = ("8", "16", "32") if argument == "all" else ()
    experiment.check_data(SimpleNamespace(name="tokens:x", stored_levels=own))
