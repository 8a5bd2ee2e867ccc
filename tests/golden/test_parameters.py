"""Names, shapes and logical axes of published models: what checkpoints and rule tables rely on.

After a change that is meant, write the files anew and look at the difference:

    python -m pytest tests/golden --rewrite
"""

import json
import re
from pathlib import Path

import jax
import pytest

from babeldraw.sharding.constraint import is_names
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"


def parameters(config):
    """{"encoder/norm/scale": "512 embed", ...}, in the order of the tree."""
    objective = parse(config).make_objective()
    params = jax.eval_shape(objective.init, jax.random.key(0)).params
    leaves = jax.tree_util.tree_leaves_with_path(params)
    axes = jax.tree.leaves(objective.axes().params, is_leaf=is_names)
    return {
        "/".join(key.key for key in path): ", ".join(
            f"{size} {name or '-'}" for size, name in zip(leaf.shape, names, strict=True)
        )
        for (path, leaf), names in zip(leaves, axes, strict=True)
    }


NAMES = [
    "vit_vqgan/small",
    "babeldraw/350m",
    "super_resolution/1024",
    "coca/base",
    "vim/base",
    "rar",
    "dit",
    "text_encoder",
    "titok:b64,stage2",
    "maskgit_vqgan",
    "maskgit:titok_l32",
    "maskgit:titok_s128",
    "maskgit:google_256",
    "maskgen:l,features",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_on_record(name, request):
    file, _, argument = name.partition(":")
    found = parameters(load_config(f"{file}.py", CONFIGS / "README", argument))
    record = HERE / f"{re.sub('[/:,]', '_', name)}.json"
    if request.config.getoption("rewrite"):
        record.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(record.read_text())
