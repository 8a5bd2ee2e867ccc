"""`import` and `export` of whole networks that a config describes."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.config import to_dict
from babeldraw.convert.files import sha256, write_flax
from babeldraw.convert.hub import check_beside, described_beside
from babeldraw.convert.networks import NETWORKS
from babeldraw.errors import UserError
from babeldraw.objectives.base import TrainState
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import write_weights
from babeldraw.say import say
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.built_on import check_frozen_tokenizers
from babeldraw.train.experiment import parse
from babeldraw.train.starts import begun
from babeldraw.train.words import vocabulary_beside

# How Flax's files end.
FLAX = ".msgpack"


def import_network(name: str, values: flags.FlagValues, files: dict[str, str]) -> None:
    """Makes a run folder, without an optimizer, of a config and of others' weights.

    Args:
      name: of NETWORKS.
      values: of all flags; --config and --workdir are read.
      files: by flag; one.

    Raises:
      UserError: a flag is missing, or weights and config do not belong together.
    """
    experiment = parse(required(values, "config"))
    workdir = required(values, "workdir")
    flag, file = _only(name, files)
    network = NETWORKS[name]
    section = network.of(experiment, flag)
    beside = check_beside(file, flag, network.hub, experiment)
    vocabulary = vocabulary_beside(experiment)
    objective = experiment.make_objective()
    abstract = jax.eval_shape(lambda key: nn.unbox(objective.init(key)), jax.random.key(0))
    params, spare, buffers = network.read(flag, file, section, abstract.params)
    frozen = _frozen(experiment, abstract.frozen)
    source = f"{file}, sha256 {sha256(file)}"
    write_run(
        workdir,
        to_dict(experiment),
        params,
        frozen=frozen,
        extra=buffers,
        source=source,
        vocabulary=vocabulary,
    )
    if beside:
        say(f"{beside} describes the same network as --config")
    for why, keys in spare.items():
        say(f"--{flag}: {len(keys)} arrays left out: {why}")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{workdir}: {name}, {count:,} parameters of {source}; a run without an optimizer")


def export_network(name: str, values: flags.FlagValues, outs: dict[str, Path]) -> None:
    """Writes a run's newest weights as others name and lay them out.

    Args:
      name: of NETWORKS.
      values: of all flags; --workdir and --weights are read.
      outs: the files to write, by flag: .safetensors, or Flax's .msgpack.

    Raises:
      UserError: no run there, or one of another network.
    """
    run, network = RunFolder.to_read(required(values, "workdir")), NETWORKS[name]
    config = run.read_config()
    experiment = parse(config)
    held = weights_in(config, values.weights or "")
    sections = {flag: network.of(experiment, flag) for flag in outs}
    step, state = restore_parts(run.checkpoints, (held, "extra"), run.step)
    for flag, out in outs.items():
        tensors = network.write(flag, sections[flag], state[held], state.get("extra"))
        make_folder(out.parent, f"--{flag}={out}")
        beside = described_beside(out, network.hub, experiment)
        if out.suffix == FLAX:
            write_flax(out, tensors, network.layouts[flag].inside)
        else:
            write_weights(out, tensors, {"kind": name, "step": str(step), "weights": held})
        say(f"sha256 {sha256(str(out))}  --{flag}={out}: {len(tensors)} arrays")
        # After the weights, which may find no place.
        if beside is not None:
            path, text = beside
            path.write_text(text)
            say(f"{path}: what {out.name} is, for from_pretrained of 1d-tokenizer's classes")


def _only(name: str, files: dict[str, str]) -> tuple[str, str]:
    takes = ", ".join(f"--{flag}" for flag in NETWORKS[name].layouts)
    if len(files) != 1:
        raise UserError(f"--kind={name} takes one of {takes}; {len(files)} of them are given")
    return next(iter(files.items()))


def _frozen(experiment: Experiment, abstract: Any) -> Any:
    """The networks that the run builds on, from where its config has them."""
    if not abstract:
        return {}
    if experiment.uses_perceptual and not experiment.perceptual.file:
        raise UserError(
            "config.perceptual.file is empty and config.loss.perceptual is "
            f"{experiment.loss.perceptual}: a run holds the network of its losses; name the file, "
            "or set the weight to 0"
        )
    check_frozen_tokenizers(experiment)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    state = TrainState(jnp.int32(0), {}, None, empty, {})
    for start in experiment.frozen_starts:
        state = begun(state, start, quiet=True)
    return state.frozen
