"""What config files share: all fields open to the command line, and the `runlocal` variant."""

import importlib.util
import pathlib
from collections.abc import Mapping
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


def choose(variant: str, rows: Mapping[str, Any]) -> tuple[Any, str]:
    """What a config file of several published rows makes of its argument.

    Args:
      variant: the argument: a row, or nothing for the first; and `runlocal`, after a comma where a
        row is named too (`l32,runlocal`).
      rows: what each row sets.

    Returns:
      The row's, and the variant for `complete`.

    Raises:
      UserError: there is no such row.
    """
    name, _, rest = variant.partition(",")
    if name in ("", "runlocal") and not rest:
        return next(iter(rows.values())), name
    if name not in rows or rest not in ("", "runlocal"):
        raise UserError(
            f"the config's argument is {variant!r}; it may be {', '.join(rows)}, nothing for the "
            "first, or runlocal, also after a row and a comma"
        )
    return rows[name], rest


def tiny(experiment: Experiment) -> Experiment:
    """The same recipe on the shapes world, a few steps of it; each section knows its own."""
    small = {field.name: _small(getattr(experiment, field.name)) for field in fields(experiment)}
    evaluators = experiment.evaluators
    each = {field.name: _small(getattr(evaluators, field.name)) for field in fields(evaluators)}
    # What learns classes, or nothing, has the world that has them; its pictures have captions too.
    classes = experiment.num_classes or (
        hasattr(experiment, "condition") and not experiment.text_length
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
