"""Names and shapes of the published generators at full size are those that our tables write.

one_d_tokenizer.json has them as the authors' modules have them, built by their own code: {config:
{name: [shape, numbers]}}; "{}" in a name stands for each number from the first to before the last.
"""

import json
from pathlib import Path

import pytest

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import shapes
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.networks import abstract_params

PUBLISHED = json.loads((Path(__file__).parent / "one_d_tokenizer.json").read_text())


def written_out(record):
    """{name: shape} of all layers."""
    found = {}
    for name, (shape, *numbers) in record.items():
        for number in range(*numbers[0]) if numbers else ("",):
            found[name.replace("{}", str(number))] = tuple(shape)
    return found


@pytest.mark.parametrize("config", PUBLISHED)
def test_the_tensors_are_the_published_ones(config):
    file, _, argument = config.partition(":")
    experiment = parse(load_config(f"configs/{file}.py", "pyproject.toml", argument))
    layouts = NETWORKS[experiment.model.kind].layouts
    table = layouts["flax" if "google" in argument else "torch"].table(experiment.model)
    expected = written_out(PUBLISHED[config])
    assert shapes(table, abstract_params(experiment.generator)) == expected
