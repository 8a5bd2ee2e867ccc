"""A config to typed sections and back; what is wrong in it is said before anything is made."""

import json

import jax
import pytest

from babeldraw.config import to_dict
from babeldraw.errors import UserError
from babeldraw.evaluation import feature_sets
from babeldraw.evaluation.base import Context
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.experiment import parse
from babeldraw.train.generator_experiment import GeneratorExperiment
from babeldraw.train.tokenizer_experiment import TokenizerExperiment

STACK = {"blocks": 1, "heads": 2, "dim": 16, "hidden": 32}
TOKENIZER = {
    "objective": "image_tokenizer",
    "train": {"steps": 3, "batch_size": 4},
    "data": {},
    "optimizer": {},
    "tokenizer": {"kind": "vit_vqgan", "encoder": STACK, "decoder": STACK, "image_size": [16, 24]},
}
GENERATOR = {
    **TOKENIZER,
    "objective": "generator",
    "condition": {"kind": "text"},
    "model": {"kind": "babeldraw", "encoder": STACK, "decoder": STACK},
}


def changed(config, path, value):
    """A copy of `config` with one field set."""
    config = json.loads(json.dumps(config))
    *sections, name = path.split(".")
    section = config
    for part in sections:
        section = section.setdefault(part, {})
    section[name] = value
    return config


def names(config):
    experiment = parse(config)
    size = experiment.tokenizer.image_size
    context = Context(experiment.data, size, seed=0, mesh=make_mesh(experiment.mesh))
    return [*experiment.make_evaluators(experiment.make_objective(), context)]


@pytest.mark.parametrize(
    ("config", "kind", "objective"),
    [
        (TOKENIZER, TokenizerExperiment, ImageTokenizerObjective),
        (GENERATOR, GeneratorExperiment, GeneratorObjective),
    ],
)
def test_the_objective_s_name_decides_the_sections(config, kind, objective):
    experiment = parse(config)
    assert type(experiment) is kind
    assert type(experiment.make_objective()) is objective
    assert experiment.tokenizer.image_size == (16, 24)
    assert experiment.make_objective().batch_spec()["image"].shape == (4, 16, 24, 3)


@pytest.mark.parametrize("config", [TOKENIZER, GENERATOR])
def test_what_config_json_holds_is_the_same_experiment(config):
    experiment = parse(config)
    assert parse(json.loads(json.dumps(to_dict(experiment)))) == experiment


def test_defaults_are_written_out():
    written = to_dict(parse(GENERATOR))
    assert written["train"]["checkpoint_every"] == 1000
    assert written["model"]["encoder"] == {**written["model"]["encoder"], **STACK, "dropout": 0.0}
    assert written["sampling"]["guidance"] == 1.0


@pytest.mark.parametrize(
    ("config", "path", "value", "message"),
    [
        (TOKENIZER, "objective", "painter", "config.objective is 'painter'; the objectives are"),
        (TOKENIZER, "model", {}, "config.model is not a field; the fields are"),
        (TOKENIZER, "train.step", 3, 'config.train.step is not a field; did you mean "steps"?'),
        (TOKENIZER, "train.steps", 0, "config.train.steps is 0; at least 1 is needed"),
        (TOKENIZER, "train.steps", 1.5, "config.train.steps is 1.5; a value of type int is needed"),
        (TOKENIZER, "train.seed", -1, "config.train.seed is -1; at least 0 is needed"),
        (TOKENIZER, "mesh.rules", "fdsp", "config.mesh.rules is 'fdsp'; the tables are"),
        (
            TOKENIZER,
            "evaluators.reconstruction.num_examples",
            0,
            "config.evaluators.reconstruction.num_examples is 0; at least 1 is needed",
        ),
        (
            TOKENIZER,
            "mesh.model",
            2,
            "config.mesh.model is 2 and config.mesh.rules=data_parallel splits nothing",
        ),
        (GENERATOR, "loss", {}, "config.loss is not a field; the fields are"),
        (
            GENERATOR,
            "model.kind",
            "vmi",
            "config.model.kind is 'vmi'; the kinds are babeldraw, ",
        ),
        (GENERATOR, "condition.kind", "x", "config.condition.kind is 'x'; the kinds are text, cla"),
        (
            GENERATOR,
            "condition.kind",
            "nothing",
            "config.condition.kind is 'nothing' and config.mo",
        ),
        (
            GENERATOR,
            "prediction",
            {"kind": "x"},
            "config.prediction.kind is 'x'; the kinds are nex",
        ),
        (
            GENERATOR,
            "sampling.top_q",
            1,
            'config.sampling.top_q is not a field; did you mean "top_',
        ),
        (
            changed(GENERATOR, "condition.dropout", 0.0),
            "evaluators.samples.sampling.guidance",
            2.0,
            "config.evaluators.samples.sampling.guidance is 2.0 and config.condition.dropout 0",
        ),
        (GENERATOR, "evaluators.samples.num", 0, "config.evaluators.samples.num is 0; at least 1"),
    ],
)
def test_a_mistake_is_named_by_its_full_path(config, path, value, message):
    with pytest.raises(UserError) as error:
        parse(changed(config, path, value))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_config_without_objective_is_refused():
    with pytest.raises(UserError, match="config.objective is None; the objectives are"):
        parse({"train": {}})


def test_prompts_of_shapes_judge_no_other_data():
    config = changed(changed(GENERATOR, "evaluators.prompts", {}), "data.source", "folder")
    with pytest.raises(
        UserError, match="judges the texts of the shapes world only and config.data.source"
    ):
        parse(config)


def test_evaluators_are_those_that_are_not_none():
    assert names(TOKENIZER) == ["reconstruction"]
    assert names(changed(TOKENIZER, "evaluators.reconstruction", None)) == []
    assert names(GENERATOR) == ["validation", "samples"]
    assert names(changed(GENERATOR, "evaluators.prompts", {})) == [
        "validation",
        "samples",
        "prompts",
    ]
    assert names(changed(GENERATOR, "evaluators.samples", None)) == ["validation"]


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    experiment = parse(changed(TOKENIZER, "mesh.data", 3))
    with pytest.raises(UserError, match=f"but there are {jax.device_count()}; choose sizes"):
        make_mesh(experiment.mesh)


@pytest.mark.parametrize(("config", "name"), [(TOKENIZER, "rfd"), (GENERATOR, "fd")])
def test_sets_are_compared_where_a_network_s_file_is_named(config, name, monkeypatch):
    assert name not in names(changed(config, f"evaluators.{name}", {}))
    there = changed(config, f"evaluators.{name}", {"file": "vgg.safetensors"})
    with pytest.raises(UserError, match=f"config.evaluators.{name}: file=vgg.safetensors is not"):
        names(there)
    features = jax.tree_util.Partial(lambda images: images.mean(axis=(1, 2)))
    monkeypatch.setattr(feature_sets, "network", lambda network, file: features)
    assert name in names(there)
    bad = changed(there, f"evaluators.{name}.batch_size", 0)
    with pytest.raises(UserError, match=f"config.evaluators.{name}.batch_size is 0; at least 1 is"):
        parse(bad)
