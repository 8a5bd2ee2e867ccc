"""Configs of generators: what does not go together is refused, what has seen labels is said."""

import json

import pytest

from babeldraw.errors import UserError
from babeldraw.runs.folder import FORMAT
from babeldraw.train.experiment import parse


@pytest.fixture
def config(runlocal):
    return runlocal("digits/vim.py")


def test_a_perceptual_tokenizer_is_said_to_have_seen_labels(config, tmp_path):
    config.tokenizer_run = str(tmp_path)

    def said():
        return parse(config).what_saw_labels()

    assert len(said()) == 2
    assert "trained from a class" in said()[0] and "cannot be told" in said()[1]
    with config.unlocked():
        config.condition = {"kind": "nothing"}
        config.evaluators.class_accuracy = None
    for perceptual, kind, sentences in (
        (0.1, "none", ["had a perceptual loss"]),
        (0.0, "projected", ["had a discriminator on a network that has seen labels"]),
        (0.0, "patchgan", []),
    ):
        run = {"objective": "image_tokenizer", "loss": {"perceptual": perceptual}, "format": FORMAT}
        (tmp_path / "config.json").write_text(json.dumps({**run, "discriminator": {"kind": kind}}))
        assert len(said()) == len(sentences)
        assert all(words in told for words, told in zip(sentences, said(), strict=True))


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("condition.num_classes", 0, "config.condition.num_classes is 0; at least 1 is needed"),
        (
            "condition.dropout",
            0.0,
            "config.sampling.guidance is 2.0 and config.condition.dropout 0",
        ),
        ("evaluators.samples.num", 0, "config.evaluators.samples.num is 0; at least 1"),
        ("evaluators.samples.each", 0, "config.evaluators.samples.each is 0; at least 1"),
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
