"""The recipes there are, by the config's field `objective`."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from babeldraw.config import build, to_dict
from babeldraw.errors import UserError
from babeldraw.runs.folder import check_format
from babeldraw.sharding.layout import check_mesh
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.captioner_experiment import ContrastiveCaptionerExperiment
from babeldraw.train.classifier_experiment import ClassifierExperiment
from babeldraw.train.generator_experiment import GeneratorExperiment
from babeldraw.train.text_experiment import TextEncoderExperiment
from babeldraw.train.tokenizer_experiment import TokenizerExperiment
from babeldraw.train.upscaler_experiment import SuperResolutionExperiment

EXPERIMENTS: dict[str, type[Experiment]] = {
    "image_tokenizer": TokenizerExperiment,
    "generator": GeneratorExperiment,
    "image_classifier": ClassifierExperiment,
    "super_resolution": SuperResolutionExperiment,
    "contrastive_captioner": ContrastiveCaptionerExperiment,
    "text_encoder": TextEncoderExperiment,
}


def parse(config: Mapping[str, Any]) -> Experiment:
    """A config, as `get_config` makes or config.json holds it, to its typed sections.

    Raises:
      UserError: what `babeldraw.config.build` finds wrong, or an objective that does not exist.
    """
    config = check_format(config, "the config")
    objective = config["objective"] if "objective" in config else None
    if objective not in EXPERIMENTS:
        raise UserError(
            f"config.objective is {objective!r}; the objectives are {', '.join(EXPERIMENTS)}"
        )
    experiment = build(EXPERIMENTS[objective], config)
    check_mesh(experiment.mesh)
    return experiment


def default_section(config: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The defaults of an optional section, such as evaluators.samples, of a config's objective.

    Raises:
      KeyError: there is no such section, or it has no defaults.
    """
    section: Any = EXPERIMENTS[config["objective"]]
    for name in path:
        hints = typing.get_type_hints(section)
        if name not in hints:
            raise KeyError(f"'{name}'")
        kinds = typing.get_args(hints[name]) or (hints[name],)
        section = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if section is None:
            raise KeyError(f"'{name}'")
    return to_dict(section())


def switch_kind(config: ConfigDict, path: Sequence[str], kind: str) -> None:
    """Makes a section of a config one of another kind, in place.

    It keeps the fields that both kinds have; the others are as by default. Where a prediction is
    switched, what says how it draws is forgotten too.

    Raises:
      UserError: there is no such kind.
    """
    hint: Any = EXPERIMENTS[config["objective"]]
    for depth, name in enumerate(path):
        if typing.get_origin(hint) is typing.Annotated:
            hint = hint.__metadata__[0].table[_at(config, path[:depth])["kind"]][0]
        hint = next((k for k in typing.get_args(hint) if dataclasses.is_dataclass(k)), hint)
        hint = typing.get_type_hints(hint, include_extras=True)[name]
    if typing.get_origin(hint) is not typing.Annotated:
        # A field of that name that decides nothing about the others.
        _at(config, path)["kind"] = kind
        return
    (table,) = hint.__metadata__
    where = f"config.{'.'.join(path)}"
    section = table.table[kind][0] if kind in table.table else table.build({"kind": kind}, where)
    old = _at(config, path).to_dict()
    made = {
        field.name: to_dict(old[field.name] if field.name in old else field.default)
        for field in dataclasses.fields(section)
        if field.name in old or field.default is not dataclasses.MISSING
    }
    parent = _at(config, path[:-1])
    with parent.unlocked(), parent.ignore_type():
        parent[path[-1]] = ConfigDict({**made, "kind": kind})
        if tuple(path) == ("prediction",):
            config["sampling"] = None
            for evaluator in config["evaluators"].values():
                if evaluator is not None and "sampling" in evaluator:
                    with evaluator.ignore_type():
                        evaluator["sampling"] = None


def _at(config: ConfigDict, path: Sequence[str]) -> ConfigDict:
    for name in path:
        config = config[name]
    return config
