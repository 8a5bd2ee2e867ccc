"""A generator of others becomes a run that draws, and theirs again bit for bit, by the commands."""

import json

import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import shapes
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.convert.test_vqgan import abstract
from tests.networks import abstract_params
from tests.statements import random_tensors

CONFIG = "configs/maskgit.py:google_256,runlocal"


def tensors():
    """Google's, of the config's sizes, by `/`."""
    experiment = parse(load_config("configs/maskgit.py", "pyproject.toml", "google_256,runlocal"))
    table = NETWORKS["maskgit"].layouts["flax"].table(experiment.model)
    return random_tensors(shapes(table, abstract_params(experiment.generator)))


@pytest.fixture
def tokenizer(cli, tmp_path):
    """A run of a tokenizer with random weights."""
    config = "configs/maskgit_vqgan.py:runlocal"
    section = parse(load_config("configs/maskgit_vqgan.py", "pyproject.toml", "runlocal")).tokenizer
    table = NETWORKS["maskgit_vqgan"].layouts["torch"].table(section)
    save_file(random_tensors(shapes(table, abstract(section))), tmp_path / "vqgan.safetensors")
    words = [f"--torch={tmp_path / 'vqgan.safetensors'}", f"--workdir={tmp_path / 'tokenizer'}"]
    assert cli("import", "--kind=maskgit_vqgan", f"--config={config}", *words)[0] == 0
    return tmp_path / "tokenizer"


@pytest.mark.slow
@pytest.mark.budget(15)
def test_it_draws_and_is_given_back(cli, tokenizer, tmp_path):
    theirs = tensors()
    tree = {"params": unflatten_dict(theirs, sep="/")}
    (tmp_path / "theirs.msgpack").write_bytes(msgpack_serialize(tree))
    words = [f"--flax={tmp_path / 'theirs.msgpack'}", f"--workdir={tmp_path / 'run'}"]
    words += [f"--config={CONFIG}", f"--config.tokenizer_run={tokenizer}"]
    status, _, said = cli("import", "--kind=maskgit", *words)
    assert status == 0, said
    out = tmp_path / "ours.safetensors"
    words = [f"--workdir={tmp_path / 'run'}", f"--flax={out}"]
    assert cli("export", "--kind=maskgit", *words)[0] == 0
    found = load_file(out)
    assert found.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)

    words = [f"--workdir={tmp_path / 'run'}", "--class=3", f"--out={tmp_path / 'drawn'}"]
    status, _, said = cli("sample", *words)
    assert status == 0, said
    (line,) = (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()
    assert (json.loads(line)["steps"], json.loads(line)["schedule"]) == (2, "cosine")

    # TiTok's has a table of token types and no head of BERT's.
    words = [f"--torch={out}", f"--workdir={tmp_path / 'other'}", f"--config={CONFIG}"]
    status, _, said = cli("import", "--kind=maskgit", *words)
    assert status == 2 and "our network has no token_types/table" in said
