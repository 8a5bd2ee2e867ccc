"""A section becomes one of another kind on the command line; what both have stays."""

import pytest
from absl import flags

from babeldraw.cli import _parse
from babeldraw.commands import train
from babeldraw.errors import UserError
from babeldraw.models.condition import Lexicon
from babeldraw.train.experiment import parse
from babeldraw.train.presets import complete, load_config


def parsed(name, *words):
    words = [f"--config=configs/{name}.py", *(f"--config.{word}" for word in words)]
    return parse(_parse("train", train, words)["config"].value)


def test_a_condition_becomes_another():
    found = parsed("vim/base", "condition.kind=nothing")
    assert found.condition.kind == "nothing" and found.model.kind == "vim"
    found = parsed(
        "demo/decoder_only",
        "evaluators.prompts=None",
        "condition.kind=class",
        "condition.num_classes=7",
        "data.source=shape_pairs",
    )
    # Both have a dropout, which stays; the words come after the kind wherever they stand.
    assert (found.condition.num_classes, found.condition.dropout) == (7, 0.1)
    found = parsed("vim/base", "condition.length=9", "condition.kind=text")
    assert (found.condition.kind, found.condition.length, found.condition.dropout) == (
        "text",
        9,
        0.0,
    )


def test_evaluators_draw_as_the_run_does_but_for_what_they_name():
    words = ["sampling.guidance=3", "evaluators.prompts.sampling.temperature=0.25"]
    found = parsed("demo/text_to_image", *words)
    own = found._drawing("prompts").sampling
    assert (own.guidance, own.temperature) == (3.0, 0.25)
    assert (found.sampling.guidance, found.sampling.temperature) == (3.0, 0.5)
    found = parsed("demo/vim", "sampling.temperature=0.7")
    own = found._drawing("class_accuracy").sampling
    assert (own.guidance, own.temperature) == (2.0, 0.7)
    found = parsed("demo/vim", "evaluators.class_accuracy.sampling.top_k=3")
    own = found._drawing("class_accuracy").sampling
    assert (own.guidance, own.top_k) == (2.0, 3)
    with pytest.raises(UserError, match="config.evaluators.samples.sampling.topk is not a field"):
        parsed("demo/vim", "evaluators.samples.sampling.topk=3")


def test_several_conditions_have_a_first_run_and_say_where_their_fields_are():
    parts = {"words": {"kind": "text"}, "label": {"kind": "class", "num_classes": 5}}
    config = load_config("configs/demo/decoder_only.py", "pyproject.toml").to_dict()
    config["condition"] = {"kind": "several", "parts": parts}
    config["evaluators"]["prompts"] = None
    small = parse(complete(config, "runlocal"))
    assert small.num_classes == 48 and small.data.source == "shape_pairs"
    whole = parse(config)
    assert whole.text_in == "condition.parts.words.length"
    assert whole.classes_in == "condition.parts.label.num_classes"
    with pytest.raises(UserError, match="say each by name: words, label"):
        whole.condition.ask("words label", Lexicon())


def test_the_same_kind_changes_nothing():
    assert parsed("vim/base", "condition.kind=class") == parsed("vim/base")


def test_a_kind_that_is_only_a_field_is_set():
    found = parsed("vit_vqgan/small", "discriminator.kind=patchgan")
    assert found.discriminator.kind == "patchgan"
    found = parsed("demo/tokenizer", "optimizer.schedule.kind=constant")
    assert found.optimizer.schedule.kind == "constant"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["condition.kind=words"], "config.condition.kind is 'words'; the kinds are text, class"),
        (
            ["condition.kind=nothing", "condition.num_classes=3"],
            "config.condition.num_classes is",
        ),
        (["model.kind=babeldraw"], "config.model.encoder is missing"),
    ],
)
def test_what_does_not_go_is_told(words, line):
    with pytest.raises((UserError, flags.Error)) as told:
        parsed("vim/base", *words)
    assert line in str(told.value)
