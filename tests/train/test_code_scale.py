"""Shift and scale of continuous codes: measured on a run's data, kept with it, the same when it
goes on.
"""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.data.records import Record
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import write_run
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.code_scale import measured, with_code_scale
from babeldraw.train.experiment import parse
from babeldraw.train.start import check_resume, open_train_source


@pytest.fixture(scope="module")
def tokenizer_run(runlocal, tmp_path_factory):
    """A run folder of a tokenizer with continuous codes that nobody trained."""
    config = runlocal("demo/titok.py").to_dict()
    config["tokenizer"] = runlocal("demo/dit.py").to_dict()["tokenizer"]
    config["loss"] |= {"restart_below": 0.0}
    tokenizer = make_tokenizer(parse(config).tokenizer)
    params = jax.jit(lambda key: nn.unbox(tokenizer.init(key)))(jax.random.key(0))
    folder = tmp_path_factory.mktemp("tokenizer") / "run"
    write_run(str(folder), to_dict(parse(config)), jax.device_get(params), source="nobody")
    return folder


@pytest.fixture
def experiment(runlocal, tokenizer_run):
    config = runlocal("demo/dit.py")
    config.tokenizer_run = str(tokenizer_run)
    config.prediction.sampled = False
    return parse(config)


@pytest.mark.slow
def test_they_are_those_of_the_data(experiment, tokenizer_run):
    source = open_train_source(experiment)
    found = measured(experiment, source)
    indices = np.linspace(0, len(source) - 1, 16).astype(int)
    images = np.stack([source[int(i)].image for i in indices])
    codes = np.asarray(TokenizerRun.open(str(tokenizer_run)).encode(images), np.float64)
    np.testing.assert_allclose(found["shift"], codes.mean((0, 1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["scale"], 1 / codes.std((0, 1)), rtol=1e-4)
    assert found["pictures"] == 16


def test_what_a_run_draws_spreads_wider_than_the_means(experiment):
    source = open_train_source(experiment)
    sampled = dataclasses.replace(experiment.prediction, sampled=True)
    drawn = measured(dataclasses.replace(experiment, prediction=sampled), source)
    assert np.all(np.array(drawn["scale"]) < measured(experiment, source)["scale"])


def test_a_run_that_goes_on_keeps_them(experiment, tmp_path):
    folder, source = RunFolder.of(str(tmp_path / "run")), open_train_source(experiment)
    first = with_code_scale(experiment, folder, source)
    assert len(first.prediction.scale) == 4 and not first.prediction.measures
    folder.write_config(to_dict(first))
    # Nothing is measured again: there is no data to look at.
    again = with_code_scale(experiment, folder, None)
    assert again == first
    check_resume(folder, experiment)
    other = dataclasses.replace(first.prediction, scale=(1.0,), shift=(0.0,))
    with pytest.raises(UserError, match="prediction.shift = .* and now it is"):
        check_resume(folder, dataclasses.replace(experiment, prediction=other))
    folder.codes_file.write_text("[]")
    with pytest.raises(UserError, match="codes.json holds no shift and scale"):
        with_code_scale(experiment, folder, None)


def test_given_ones_are_not_measured(experiment, tmp_path):
    given = dataclasses.replace(experiment.prediction, shift=(0.0,), scale=(0.18215,))
    experiment = dataclasses.replace(experiment, prediction=given)
    folder = RunFolder.of(str(tmp_path / "run"))
    assert with_code_scale(experiment, folder, None) == experiment
    assert not folder.codes_file.exists()


class Stored:
    """Stored codes."""

    name = "stored"

    def __init__(self, codes):
        self._codes = codes

    def __len__(self):
        return len(self._codes)

    def __getitem__(self, index):
        return Record(np.zeros((0, 0, 3), np.uint8), "", -1, self._codes[index])


def test_stored_codes_are_read_as_they_are(experiment):
    data = dataclasses.replace(experiment.data, source="tokens")
    judges = dataclasses.replace(experiment.evaluators, prompts=None)
    experiment = dataclasses.replace(experiment, data=data, evaluators=judges)
    codes = np.random.default_rng(0).normal(2, 3, (16, 16, 4)).astype(np.float32)
    found = measured(experiment, Stored(codes))
    np.testing.assert_allclose(found["shift"], codes.mean((0, 1)), rtol=1e-4)
    codes[:, :, 1] = np.nan
    with pytest.raises(UserError, match="tokenizer are not finite"):
        measured(experiment, Stored(codes))


def test_a_file_holds_what_people_can_read(experiment, tmp_path):
    folder = RunFolder.of(str(tmp_path / "run"))
    with_code_scale(experiment, folder, open_train_source(experiment))
    kept = json.loads(folder.codes_file.read_text())
    assert {*kept} == {"shift", "scale", "pictures", "sampled"}
