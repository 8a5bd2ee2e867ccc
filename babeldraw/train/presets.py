"""What config files share: all fields open to the command line, and the `runlocal` variant."""

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ml_collections import ConfigDict

from babeldraw.config import to_dict
from babeldraw.data.config import DataConfig
from babeldraw.errors import UserError
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.experiment import parse


def complete(config: Mapping[str, Any], variant: str = "") -> ConfigDict:
    """The config with every default written out, so that each field can be overridden.

    Args:
      config: what a config file sets.
      variant: the file's argument, after the colon: empty, or `runlocal` for a version of the same
        recipe that trains a few steps in seconds on any machine.

    Raises:
      UserError: an unknown variant, or what `parse` finds wrong.
    """
    experiment = parse(config)
    if variant == "runlocal":
        experiment = tiny(experiment)
    elif variant:
        raise UserError(f"the config's argument is {variant!r}; it may be runlocal, or nothing")
    return ConfigDict(_tuples(to_dict(experiment))).lock()


def chosen(argument: str, **choices: Sequence[str]) -> dict[str, str]:
    """What a config's argument says, such as `l32,stage2,runlocal`, in any order.

    Args:
      argument: words with commas between them.
      choices: by name, the words of which one may stand there; the first where none does.

    Returns:
      The word of each name, and `variant` for `complete`.

    Raises:
      UserError: a word that is none of them, or a second one of the same name.
    """
    words = [word for word in argument.split(",") if word]
    found = {name: [w for w in words if w in of] for name, of in choices.items()}
    found["variant"] = [word for word in words if word == "runlocal"]
    lists = ", and one of ".join(", ".join(of) for of in choices.values())
    if sum(map(len, found.values())) < len(words) or max(map(len, found.values())) > 1:
        raise UserError(
            f"the config's argument is {argument!r}; it may be runlocal, and one of {lists}, with "
            "commas between them"
        )
    first = {**{name: of[0] for name, of in choices.items()}, "variant": ""}
    return {name: (*given, first[name])[0] for name, given in found.items()}


def tiny(experiment: Experiment) -> Experiment:
    """The same recipe on the shapes world, a few steps of it; each section knows its own."""
    small = {field.name: _small(getattr(experiment, field.name)) for field in fields(experiment)}
    evaluators = experiment.evaluators
    each = {field.name: _small(getattr(evaluators, field.name)) for field in fields(evaluators)}
    # What learns classes, or nothing, has the world that has them; its pictures have captions too.
    classes = experiment.num_classes or (
        hasattr(experiment, "prediction") and not experiment.text_length
    )
    small["data"] = DataConfig(source="shape_pairs" if classes else "shapes", num_examples=1000)
    small["mesh"] = MeshConfig()
    small["evaluators"] = replace(evaluators, **each)
    return replace(experiment, **small)


def _small(section: Any) -> Any:
    return section.tiny() if hasattr(section, "tiny") else section


def _tuples(value: Any) -> Any:
    """Lists to tuples, which ml_collections can override."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


def load_config(name: str, beside: str | pathlib.Path, variant: str = "") -> ConfigDict:
    """The config of another file in the folder of the file `beside` (its `__file__`)."""
    path = pathlib.Path(beside).resolve().parent / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)
