"""CogView2's files become runs that draw, and theirs again; what is missing is one line."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import shapes
from babeldraw.data.image import decode
from babeldraw.data.text import Vocabulary
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests import icetk_text
from tests.convert.test_swiss_army import abstract
from tests.convert.test_torch_file import state as as_torch
from tests.convert.test_torch_file import write as write_torch
from tests.statements import even_tensors

# What cannot be smaller in their layout.
OWN = (
    "--config.tokenizer.quantizer.codebook_size=20000",
    "--config.tokenizer.network.middle_blocks=2",
)
TOKENIZER = ("--kind=icetk_image", "--config=configs/cogview2/tokenizer.py:runlocal", *OWN)
COGLM = ("--kind=coglm", "--config=configs/coglm.py:runlocal", *OWN)


def section(file, pieces=100):
    config = load_config(file, "pyproject.toml", "runlocal")
    config.tokenizer.quantizer.codebook_size = 20_000
    config.tokenizer.network.middle_blocks = 2
    if "vocab_size" in config.condition:
        config.condition.vocab_size = pieces
    return parse(config)


def theirs(kind, experiment, network):
    """Random tensors of the sizes of a config, under their names."""
    table = NETWORKS[kind].layouts["torch"].table(NETWORKS[kind].of(experiment, "torch"))
    return even_tensors(shapes(table, abstract(network)))


def file_of(path, tensors):
    arrays = {str(i): array for i, array in enumerate(tensors.values())}
    write_torch(path, lambda torch: {"module": as_torch(torch, tensors), "iteration": 3}, arrays)
    return f"--torch={path}"


@pytest.mark.slow
@pytest.mark.budget(40)  # Two networks are made, imported, drawn by and exported.
def test_published_files_become_runs_that_draw_and_theirs_again(cli, tmp_path):
    words = icetk_text.write(tmp_path / "ice_text.model")
    pieces = Vocabulary(words).size
    tokenizer = section("configs/cogview2/tokenizer.py")
    coglm = section("configs/coglm.py", pieces)
    whole = {
        "icetk_image": theirs("icetk_image", tokenizer, make_tokenizer(tokenizer.tokenizer)),
        "coglm": theirs("coglm", coglm, coglm.generator),
    }
    status, _, said = cli(
        "import",
        *TOKENIZER,
        "--config.loss.perceptual=0",
        file_of(tmp_path / "ice_image.pt", whole["icetk_image"]),
        f"--workdir={tmp_path / 'tokenizer'}",
    )
    assert status == 0, said
    status, _, said = cli(
        "import",
        *COGLM,
        f"--config.condition.vocab_size={pieces}",
        f"--config.condition.words={words}",
        f"--config.tokenizer_run={tmp_path / 'tokenizer'}",
        file_of(tmp_path / "mp_rank_00_model_states.pt", whole["coglm"]),
        f"--workdir={tmp_path / 'coglm'}",
    )
    assert status == 0, said
    assert (tmp_path / "coglm/text.model").read_bytes() == Path(words).read_bytes()
    out = tmp_path / "pictures"
    drawn = ["sample", f"--workdir={tmp_path / 'coglm'}", "--prompt=一个红色图形", f"--out={out}"]
    status, _, said = cli(*drawn, "--style=watercolor", "--text_weight=1.4")
    assert status == 0, said
    (picture,) = out.glob("0*.png")
    assert decode(picture).shape == (32, 32, 3)
    for kind, folder in (("icetk_image", "tokenizer"), ("coglm", "coglm")):
        back = tmp_path / f"{kind}.safetensors"
        words = [f"--kind={kind}", f"--workdir={tmp_path / folder}", f"--torch={back}"]
        assert cli("export", *words)[0] == 0
        found = load_file(back)
        assert found.keys() == whole[kind].keys()
        assert all(found[key].tobytes() == array.tobytes() for key, array in whole[kind].items())


def test_what_is_missing_is_one_line(cli, tmp_path):
    words = icetk_text.write(tmp_path / "ice_text.model")
    torch = file_of(tmp_path / "mp_rank_00_model_states.pt", {"x": np.zeros(2, np.float32)})
    to = f"--workdir={tmp_path / 'run'}"
    named = f"--config.condition.words={words}"
    for more, line in {
        (): "config.condition.words is empty and a vocabulary belongs to the weights: name",
        (named,): f"config.condition.words={words} has ",
        (f"{named}.gone",): f"config.condition.words={words}.gone: vocabulary {words}.gone cannot",
    }.items():
        status, _, said = cli("import", *COGLM, torch, to, *more)
        assert status == 2 and line in said and said.count("\n") == 1, said
    size = f"--config.condition.vocab_size={Vocabulary(words).size}"
    status, _, said = cli("import", *COGLM, torch, to, named, size)
    assert status == 2 and "it is of another network" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
