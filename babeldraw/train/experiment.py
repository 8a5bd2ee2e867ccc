"""The recipes there are, by the config's field `objective`."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from babeldraw.config import build, to_dict
from babeldraw.errors import UserError
from babeldraw.runs.folder import check_format
from babeldraw.sharding.layout import check_mesh
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.captioner_experiment import ContrastiveCaptionerExperiment
from babeldraw.train.classifier_experiment import ClassifierExperiment
from babeldraw.train.generator_experiment import GeneratorExperiment
from babeldraw.train.tokenizer_experiment import TokenizerExperiment
from babeldraw.train.upscaler_experiment import SuperResolutionExperiment

EXPERIMENTS: dict[str, type[Experiment]] = {
    "image_tokenizer": TokenizerExperiment,
    "generator": GeneratorExperiment,
    "image_classifier": ClassifierExperiment,
    "super_resolution": SuperResolutionExperiment,
    "contrastive_captioner": ContrastiveCaptionerExperiment,
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
