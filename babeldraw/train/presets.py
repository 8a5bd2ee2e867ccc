"""What config files share: all fields open to the command line, and the `runlocal` variant."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from babeldraw.config import to_dict
from babeldraw.data.shapes import PAIRS
from babeldraw.errors import UserError
from babeldraw.tokenizers.kinds import read_tokenizer
from babeldraw.train.experiment import parse

_TINY_EVALUATORS = {
    "reconstruction": {"num_examples": 8, "batch_size": 8},
    "validation_loss": {"num_examples": 8, "batch_size": 8},
    "prompts": {"num_prompts": 8, "batch_size": 8},
    "samples": {"num": 2},
    # No classifier is asked of a first run.
    "class_accuracy": {"classifier_run": ""},
    "upscaling": {"num_examples": 8, "batch_size": 8},
    "classification": {"num_examples": 8, "batch_size": 8},
    "linear_probe": {"num_train": 16, "num_test": 8, "epochs": 1, "batch_size": 8},
    "retrieval": {"num_examples": 8, "batch_size": 8},
}
_TINY = {"blocks": 1, "heads": 2, "dim": 32, "hidden": 64}


def complete(config: Mapping[str, Any], variant: str = "") -> ConfigDict:
    """The config with every default written out, so that each field can be overridden.

    Args:
      config: what a config file sets.
      variant: the file's argument, after the colon: empty, or `runlocal` for a version of the same
        recipe that trains a few steps in seconds on any machine.

    Raises:
      UserError: an unknown variant, or what `parse` finds wrong.
    """
    full = to_dict(parse(config))
    if variant == "runlocal":
        full = to_dict(parse(_run_local(full)))
    elif variant:
        raise UserError(f"the config's argument is {variant!r}; it may be runlocal, or nothing")
    return ConfigDict(_tuples(full)).lock()


def _run_local(config: dict[str, Any]) -> dict[str, Any]:
    model = config["model"] if "model" in config else {}
    for side in ("encoder", "decoder", "image_encoder", "unimodal", "multimodal"):
        if side in model:
            model[side].update(_TINY)
    if "tokenizer" in config:
        config["tokenizer"] = to_dict(read_tokenizer(config).config.tiny())
    config["train"].update(steps=4, batch_size=8, accumulation=1, log_every=2, checkpoint_every=2)
    config["data"] = {"source": "shapes", "num_examples": 1000}
    config["mesh"] = {}
    config["optimizer"]["schedule"].update(warmup_steps=1, decay_start=2, decay_end=4)
    for name, evaluator in config["evaluators"].items():
        if evaluator is not None:
            evaluator.update(_TINY_EVALUATORS[name])
    if "discriminator" in config:
        # The adversarial term stays as it is; the perceptual one would need a file of weights.
        config["loss"]["perceptual"] = 0.0
        config["discriminator"].update(channels=8, max_channels=16)
        config["discriminator_optimizer"]["schedule"].update(
            warmup_steps=1, decay_start=2, decay_end=4
        )
    if "super_resolution" in config:
        config["super_resolution"].update(blocks=1, channels=8, expansion=2)
    if "text_length" in model:
        model.update(text_vocab_size=100, text_length=32)
    if "num_classes" in model:
        _with_pairs(config)
    if "queries" in model:
        model.update(image_size=[32, 32], patch_size=8, queries=4, embedding_dim=16)
    return config


def _with_pairs(config: dict[str, Any]) -> None:
    """Classes are those of the shapes world; an unconditional model stays one."""
    config["data"]["source"] = "shape_pairs"
    if config["model"]["num_classes"]:
        config["model"]["num_classes"] = len(PAIRS)
    if "channels" in config["model"]:
        config["model"].update(image_size=[32, 32], channels=4)


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
