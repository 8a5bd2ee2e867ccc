"""Configs with classes: what does not go together is refused, what has seen labels is said."""

import json

import pytest

from babeldraw.errors import UserError
from babeldraw.train.experiment import parse


@pytest.fixture
def config(runlocal):
    return runlocal("digits/vim.py")


def test_a_perceptual_tokenizer_is_said_to_have_seen_labels(config, tmp_path):
    config.tokenizer_run = str(tmp_path)

    def said():
        return parse(config).what_saw_labels()

    assert len(said()) == 2
    assert "trained with classes" in said()[0] and "cannot be told" in said()[1]
    config.model.num_classes, config.loss.class_dropout = 0, 0.0
    for perceptual, sentences in ((0.1, 1), (0.0, 0)):
        run = {"objective": "image_tokenizer", "loss": {"perceptual": perceptual}}
        (tmp_path / "config.json").write_text(json.dumps(run))
        assert len(said()) == sentences
        assert not sentences or "had a perceptual loss" in said()[0]


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("model.num_classes", 0, "config.loss.class_dropout is 0.1 and config.model.num_classes 0"),
        ("loss.class_dropout", 0.0, "sampling.guidance is 2.0, which needs a model trained with"),
        ("evaluators.samples.classes", (48, 49), "samples.classes holds 49; the model knows 0 to"),
        ("evaluators.samples.num", 0, "config.evaluators.samples.num is 0; at least 1"),
        ("evaluators.class_accuracy.acceptance", 0.0, "class_accuracy.acceptance is 0.0; a share"),
    ],
)
def test_what_does_not_go_together_is_refused(config, path, value, line):
    config.sampling.guidance = 2.0
    parse(config)
    with config.unlocked():
        section, _, name = path.rpartition(".")
        target = config
        for part in section.split("."):
            target = target[part]
        target[name] = value
    with pytest.raises(UserError) as told:
        parse(config)
    assert line in str(told.value)
