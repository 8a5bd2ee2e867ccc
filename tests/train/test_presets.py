"""What config files share: every field is open, and `runlocal` is the same recipe, small."""

import pytest

from babeldraw.errors import UserError
from babeldraw.train.experiment import parse
from babeldraw.train.presets import complete, load_config

STACK = {"blocks": 12, "heads": 4, "dim": 64, "hidden": 128, "dropout": 0.1}
STACK["compute"] = {"remat": "full"}
HALF = {"dtype": "bfloat16", "remat": "full"}
CONFIG = {
    "objective": "generator",
    "condition": {"kind": "text"},
    "train": {"steps": 450_000, "batch_size": 8192},
    "data": {"source": "tfds", "path": "coco_captions", "split": "train[:90%]"},
    "tokenizer": {"kind": "vit_vqgan", "encoder": STACK, "decoder": STACK},
    "model": {"kind": "babeldraw", "encoder": {**STACK, "compute": HALF}, "decoder": STACK},
    "optimizer": {"moment_dtype": "bfloat16"},
    "mesh": {"rules": "fsdp", "data": 64},
    "evaluators": {"samples": None},
}


def test_every_field_can_be_set_afterwards():
    config = complete(CONFIG)
    config.optimizer.schedule.peak = 1e-3
    config.model.encoder.dropout = 0.2
    config.tokenizer.image_size = (128, 64)
    experiment = parse(config)
    assert experiment.optimizer.schedule.peak == 1e-3
    assert experiment.model.encoder.dropout == 0.2
    assert experiment.tokenizer.image_size == (128, 64)


def test_a_field_that_does_not_exist_cannot_be_set():
    config = complete(CONFIG)
    with pytest.raises(AttributeError, match="droput"):
        config.model.encoder.droput = 0.2


def test_nothing_else_changes_without_a_variant():
    assert parse(complete(CONFIG)) == parse(CONFIG)


def test_runlocal_is_the_same_recipe_with_other_sizes():
    small, whole = parse(complete(CONFIG, "runlocal")), parse(CONFIG)
    for stack in (small.tokenizer.encoder, small.model.encoder, small.model.decoder):
        assert (stack.blocks, stack.heads, stack.dim, stack.hidden) == (1, 2, 32, 64)
        assert (stack.dropout, stack.compute.remat) == (0.1, "full")
    assert small.model.encoder.compute.dtype == "bfloat16"
    assert small.optimizer.moment_dtype == whole.optimizer.moment_dtype
    assert small.prediction == whole.prediction
    assert small.condition.dropout == whole.condition.dropout
    assert small.evaluators.samples is None
    assert (small.data.source, small.mesh.data, small.mesh.rules) == ("shapes", -1, "data_parallel")
    assert small.train.steps < 10 and small.optimizer.schedule.decay_end <= small.train.steps


def test_another_variant_is_refused():
    with pytest.raises(UserError, match="the config's argument is 'large'; it may be runlocal"):
        complete(CONFIG, "large")


def test_what_a_config_file_gets_wrong_is_said_when_it_is_loaded():
    with pytest.raises(UserError, match='config.trian is not a field; did you mean "train"'):
        complete({**CONFIG, "trian": {}})


def test_a_config_file_reads_the_one_beside_it(tmp_path):
    text = "def get_config(variant=''):\n    return {'variant': variant, 'file': __file__}\n"
    (tmp_path / "one.py").write_text(text)
    found = load_config("one.py", beside=tmp_path / "other.py", variant="runlocal")
    assert found == {"variant": "runlocal", "file": str(tmp_path / "one.py")}
