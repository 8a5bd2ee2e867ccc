"""A whole network of others becomes a run, and a run theirs again, by the commands."""

from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

from babeldraw.commands import import_network
from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import shapes
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.runs.opened import open_part
from babeldraw.tokenizers.kinds import make_tokenizer, read_tokenizer
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.convert.test_torch_file import state as as_torch
from tests.convert.test_torch_file import write as write_torch
from tests.convert.test_vqgan import abstract
from tests.statements import random_tensors
from tests.tokenizers.convolutions import drawn

CONFIG = "configs/maskgit_vqgan.py:runlocal"
WORDS = ("import", "--kind=maskgit_vqgan", f"--config={CONFIG}")


def tensors(flag):
    """Random ones of the config's sizes, as a layout names them."""
    section = parse(load_config("configs/maskgit_vqgan.py", "pyproject.toml", "runlocal")).tokenizer
    table = NETWORKS["maskgit_vqgan"].layouts[flag].table(section)
    return drawn(shapes(table, abstract(section)))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of torch."""
    held = tensors("torch")
    arrays = {str(i): array for i, array in enumerate(held.values())}
    path = tmp_path_factory.mktemp("theirs") / "vqgan.bin"
    return write_torch(path, lambda torch: as_torch(torch, held), arrays)


@pytest.fixture
def imported(cli, file, tmp_path):
    status, said, _ = cli(*WORDS, f"--torch={file}", f"--workdir={tmp_path / 'run'}")
    assert status == 0, said
    return tmp_path / "run"


@pytest.mark.slow
def test_there_and_back_are_the_same_bytes(cli, imported, tmp_path):
    for flag in ("torch", "flax"):
        out = tmp_path / f"{flag}.safetensors"
        words = ["--kind=maskgit_vqgan", f"--workdir={imported}", f"--{flag}={out}"]
        assert cli("export", *words)[0] == 0
        found = load_file(out)
        assert found.keys() == tensors(flag).keys()
        if flag == "torch":
            for key, array in tensors(flag).items():
                assert found[key].tobytes() == array.tobytes()
    # Google's tree, of the same numbers, is the same tokenizer.
    tree = {"params": unflatten_dict(found, sep="/")}
    (tmp_path / "tree.msgpack").write_bytes(msgpack_serialize(tree))
    words = [f"--flax={tmp_path / 'tree.msgpack'}", f"--workdir={tmp_path / 'second'}"]
    assert cli(*WORDS, *words)[0] == 0
    words = [f"--flax={tmp_path / 'again.msgpack'}", f"--workdir={tmp_path / 'second'}"]
    assert cli("export", "--kind=maskgit_vqgan", *words)[0] == 0
    written = (tmp_path / "again.msgpack").read_bytes()
    assert written == (tmp_path / "tree.msgpack").read_bytes()
    first, second = (
        open_part(str(folder), ("image_tokenizer",), read_tokenizer).params
        for folder in (imported, tmp_path / "second")
    )
    table = first["codebook"]["table"], second["codebook"]["table"]
    np.testing.assert_array_equal(*table)
    last = (params["decoder"]["last"]["weight"] for params in (first, second))
    np.testing.assert_array_equal(*last)


def test_how_much_codes_were_used_goes_through_a_run(cli, tmp_path):
    """TA-TiTok's buffer, without which its authors' code refuses a file."""
    config = load_config("configs/titok.py", "pyproject.toml", "tatitok_bl32,runlocal")
    section = parse(config).tokenizer
    table, size = NETWORKS["titok"].layouts["torch"].table(section), section.quantizer.codebook_size
    params = jax.eval_shape(make_tokenizer(section).init, jax.random.key(0))
    theirs = random_tensors(shapes(table, nn.unbox(params)))
    theirs["quantize.embed_prob"] = np.linspace(0, 2 / size, size, dtype=np.float32)
    save_file(theirs, tmp_path / "theirs.safetensors")
    words = [f"--torch={tmp_path / 'theirs.safetensors'}", f"--workdir={tmp_path / 'run'}"]
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    words += [f"--config.condition.words={tmp_path / 'merges.txt'}"]
    config = "--config=configs/titok.py:tatitok_bl32,runlocal"
    status, _, said = cli("import", "--kind=titok", config, *words)
    assert status == 0, said
    words = [f"--torch={tmp_path / 'ours.safetensors'}", f"--workdir={tmp_path / 'run'}"]
    assert cli("export", "--kind=titok", *words)[0] == 0
    found = load_file(tmp_path / "ours.safetensors")
    assert found.keys() == theirs.keys()
    assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in theirs.items())


def test_an_import_is_a_run_like_others(imported):
    run = TokenizerRun.open(str(imported))
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    codes = run.encode(images)
    assert codes.shape == (2, 64) and run.decode(codes).shape == (2, 32, 32, 3)


def test_weights_that_find_no_place_leave_no_config_beside(cli, imported, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    beside = tmp_path / "config.json"
    monkeypatch.setattr(import_network, "described_beside", lambda *_: (beside, "{}"))
    words = [f"--workdir={imported}", f"--torch={tmp_path / 'model.safetensors'}"]
    with monkeypatch.context() as disk:
        disk.setattr(import_network, "write_weights", full)
        status, _, said = cli("export", "--kind=maskgit_vqgan", *words)
        assert status == 2 and "no space left" in said
    assert not beside.exists()
    assert cli("export", "--kind=maskgit_vqgan", *words)[0] == 0 and beside.read_text() == "{}"


@pytest.mark.parametrize(
    ("kind", "flag", "config", "line"),
    [
        ("ibq", "torch", "emoji/ibq.py:vq,8k", "tokenizer.quantizer.kind is 'vq', .* of 'ibq'"),
        ("taming_vqgan", "ema", "emoji/ibq.py:ibq,8k", "kind is 'ibq', whose .* they are of 'vq'"),
        ("ibq", "torch", "emoji/ibq.py:lfq,8k", "kind is 'lfq', whose weights these are not"),
        ("llamagen_vq", "ema", "emoji/ibq.py:vq,8k", "l2_normalized is False, .* they are of True"),
        ("llamagen", "text", "llamagen.py:b", "condition.kind is 'class', .* 'features' or 't5'"),
        ("llamagen", "torch", "ibq_generator.py:b", "model.adaptive is True, .* they are of False"),
        ("open_magvit2_generator", "bare", "ibq_generator.py:b", "model.adaptive is True, whose"),
        ("open_magvit2_generator", "torch", "llamagen.py:b", "model.intra is None, .* some blocks"),
        ("maskgit_vqgan", "flax", "titok.py:l32,single", "tokenizer.kind is 'titok', .* 'vqgan'"),
    ],
)
def test_weights_of_another_network_of_that_kind_are_one_line(kind, flag, config, line):
    file, argument = config.split(":")
    config = load_config(f"configs/{file}", "pyproject.toml", f"{argument},runlocal")
    with pytest.raises(UserError, match=line):
        NETWORKS[kind].of(parse(config), flag)


@pytest.mark.slow
def test_what_does_not_belong_together_is_one_line(cli, file, tmp_path):
    short = tmp_path / "short.bin"
    short.write_bytes(Path(file).read_bytes()[:5000])
    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(2, np.float32)}, other)
    torch, to = f"--torch={file}", f"--workdir={tmp_path / 'run'}"
    demo = "--config=configs/demo/tokenizer.py"
    for words, line in {
        (*WORDS, f"--torch={short}", to): f"--torch={short} is no file of tensors alone: it is not",
        (*WORDS, f"--torch={other}", to): f"--torch={other} holds no ",
        (*WORDS, to): "--kind=maskgit_vqgan takes one of --torch, --flax; 0 of them are given",
        (*WORDS, torch): "--workdir is missing",
        (*WORDS, torch, to, "--folder=x"): "--folder does not go with --kind=maskgit_vqgan",
        (*WORDS, torch, to, "--out=x"): "--out does not go with --kind=maskgit_vqgan",
        (*WORDS[:2], torch, to): "--config is missing",
        (*WORDS[:2], torch, to, demo): "config.tokenizer.kind is 'vit_vqgan', whose weights these",
        (*WORDS[:2], torch, to, "--config=configs/maskgit_vqgan.py"): f"{torch} holds no encoder.",
    }.items():
        status, _, said = cli(*words)
        assert status == 2 and line in said and said.count("\n") == 1, said
    assert not (tmp_path / "run").exists()
