"""What of a recipe decays is what its authors' rule says of their names, by the import's tables."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import read, shapes
from babeldraw.optim.optimizer import make_optimizer
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.runs.weights import flatten
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

# Of 1d-tokenizer's optimizer: none of these, and no vector. Case matters: adaLN decays.
UNDECAYED = "ln|bias|latent_tokens|mask_token|embedding|norm|gamma|embed"
CONSTANT = ScheduleConfig(peak=0.1, warmup_steps=0, kind="constant")
# The config with its row, the network, some that decay and some that do not.
RECIPES = {
    "titok:tatitok_bl32": ("titok", ["from_text/weight", "head/smooth/weight"], ["codebook/table"]),
    "titok:l32,stage1": ("titok", ["head/logits/weight"], ["from_code/weight", "patches/weight"]),
    "titok:l32,stage2": ("titok", ["pixels/decoder/first/weight"], ["pixels/codebook/table"]),
    "maskgit:titok_l32": ("maskgit", ["head/weight"], ["token_types/table", "slots_norm/scale"]),
    "maskgit:titok_s128": ("uvit", ["head/weight"], ["prefix/embed/table", "positions/table"]),
    "maskgen:l,features": ("maskgen", ["vector/weight"], ["text/weight", "embed/table"]),
    "rar:b": (
        "rar",
        ["start", "stack/blocks/ffn_modulation/weight", "logits/weight"],
        ["norm/modulation/weight", "targets/table", "stack/blocks/attention/query/bias"],
    ),
}


def decays(name, shape):
    return len(shape) >= 2 and not re.search(UNDECAYED, name)


def decayed(optimizer, axes, params):
    """{name: whether it moves where no gradient does}."""
    config = dataclasses.replace(optimizer, schedule=CONSTANT, clip_norm=0.0)
    tx = make_optimizer(config, axes)

    @jax.jit
    def moved():
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, ones), tx.init(ones), ones)
        return jax.tree.map(jnp.any, updates)

    return {name: bool(leaf) for name, leaf in flatten(moved()).items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_decays_is_what_the_authors_names_say(recipe):
    kind, decaying, resting = RECIPES[recipe]
    file, _, argument = recipe.partition(":")
    experiment = parse(load_config(f"configs/{file}.py", "pyproject.toml", f"{argument},runlocal"))
    objective = experiment.make_objective()
    params, axes = jax.eval_shape(objective.init, jax.random.key(0)).params, objective.axes().params
    network = NETWORKS[kind]
    table = network.layouts["torch"].table(network.of(experiment, "torch"))
    theirs = {
        name: np.full(shape, decays(name, shape), np.float32)
        for name, shape in shapes(table, params).items()
    }
    expected = {name: {*np.unique(a)} for name, a in flatten(read(table, theirs, params)).items()}
    found = decayed(experiment.optimizer, axes, params)
    assert {name: {float(decays)} for name, decays in found.items()} == expected
    assert all(found[name] for name in decaying) and not any(found[name] for name in resting)


def test_google_s_recipe_tells_no_rule_and_all_matrices_decay():
    config = load_config("configs/maskgit.py", "pyproject.toml", "google_256,runlocal")
    assert parse(config).optimizer.groups == ()
