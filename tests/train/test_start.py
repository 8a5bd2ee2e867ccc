"""Going on in a run folder: older than some field, with data or a tokenizer that have moved."""

import os
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
from etils import epath

from babeldraw.config import to_dict
from babeldraw.data.image import save_png
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.lease import Lease
from babeldraw.runs.opened import write_run
from babeldraw.tokenizers.base import identity
from babeldraw.tokenizers.kinds import read_tokenizer
from babeldraw.train.built_on import check_tokenizers, take_tokenizer
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config
from babeldraw.train.start import check_moved, check_resume, open_batches


def folder_of(tmp_path, experiment, without=()):
    folder = RunFolder.of(str(tmp_path / "run"))
    config = to_dict(experiment)
    for name in without:
        del config["data"][name]
    folder.path.mkdir()
    folder.write_config(config)
    return folder


def test_a_field_younger_than_the_folder_has_its_default_there(tmp_path, runlocal):
    experiment = parse(runlocal("demo/tokenizer.py"))
    folder = folder_of(tmp_path, experiment, without=["crop", "mixture"])
    check_resume(folder, experiment)


def test_another_crop_is_refused(tmp_path, runlocal):
    config = runlocal("demo/tokenizer.py")
    folder = folder_of(tmp_path, parse(config), without=["crop", "mixture"])
    config.data.crop = "dalle_tokenizer"
    with pytest.raises(UserError, match="config.data.crop = 'random' and now it is 'dalle_token"):
        check_resume(folder, parse(config))


def test_a_field_younger_than_the_folder_has_its_default_in_every_section(tmp_path, runlocal):
    experiment = parse(runlocal("demo/tokenizer.py"))
    folder = folder_of(tmp_path, experiment)
    config = folder.read_config()
    for section, name in (("train", "keep_every"), ("optimizer", "clip_norm"), ("mesh", "rules")):
        del config[section][name]
    for name in ("compute", "activation"):
        del config["tokenizer"]["encoder"][name]
    del config["tokenizer"]["quantizer"]["l2_normalized"]
    folder.write_config(config)
    check_resume(folder, experiment)


def test_how_often_a_condition_is_dropped_may_change(tmp_path, runlocal):
    config = runlocal("digits/vim.py")
    config.tokenizer_run = "somewhere"
    folder = folder_of(tmp_path, parse(config))
    config.condition.dropout = 0.3
    check_resume(folder, parse(config))
    config.condition.num_classes = 9
    with pytest.raises(UserError, match="with config.condition.num_classes = 48 and now it is 9"):
        check_resume(folder, parse(config))


def test_how_a_network_is_computed_may_change(tmp_path, runlocal):
    config = runlocal("demo/tokenizer.py")
    folder = folder_of(tmp_path, parse(config))
    compute = {"scan": False, "remat": "full", "kernel": "plain", "dtype": "bfloat16"}
    config.tokenizer.encoder.compute.update(compute)
    check_resume(folder, parse(config))
    config.tokenizer.encoder.hidden = 65
    with pytest.raises(UserError, match="config.tokenizer.encoder.hidden = 64 and now it is 65"):
        check_resume(folder, parse(config))


def test_whether_rows_are_packed_may_change_and_no_level(tmp_path):
    config = load_config("configs/emoji/cat_dit.py", "pyproject.toml", "all,runlocal")
    folder = folder_of(tmp_path, parse(config))
    config.levels.packed = False
    check_resume(folder, parse(config))
    config.levels.counts = (2, 1, 1)
    with pytest.raises(UserError, match=r"config.levels.counts = \[1, 2, 1\] and now it is \[2"):
        check_resume(folder, parse(config))


# ------------------------------------------------------------------ runs that move


@pytest.fixture
def pictures(tmp_path):
    """A folder of twelve captioned pictures."""
    for number in range(12):
        image = np.full((32, 32, 3), 20 * number, np.uint8)
        save_png(tmp_path / "pictures" / f"{number}.png", image)
        (tmp_path / "pictures" / f"{number}.txt").write_text(f"a box, number {number}")
    return tmp_path / "pictures"


def on_pictures(runlocal, name, path, **fields):
    config = runlocal(name)
    config.data.source, config.data.path = "folder", str(path)
    config.data.eval_split = config.data.split = "all"
    config.update(fields)
    for evaluator in config.evaluators:
        config.evaluators[evaluator] = None
    return config


# Three runs.
@pytest.mark.slow
@pytest.mark.budget(20)
def test_data_that_moved_are_the_same_data(runlocal, pictures, tmp_path, capsys):
    config = on_pictures(runlocal, "demo/tokenizer.py", pictures)
    config.train.steps = 2
    train(config, str(tmp_path / "run"))
    moved = pictures.rename(tmp_path / "elsewhere")
    config.data.path, config.train.steps = f"{moved}/", 3
    train(config, str(tmp_path / "run"))
    assert "are the same at" in capsys.readouterr().err
    (moved / "0.png").unlink()
    shutil.copytree(moved, tmp_path / "others")
    config.data.path, config.train.steps = str(tmp_path / "others"), 4
    with pytest.raises(UserError, match="data.path = .* and the data at .* are others"):
        train(config, str(tmp_path / "run"))


def test_the_parts_of_a_mixture_may_move_too(runlocal, pictures, tmp_path):
    config = on_pictures(runlocal, "demo/tokenizer.py", "")
    config.data.source = "mixture"
    parts = [{"source": "folder", "path": str(pictures), "weight": 1.0}]
    parts += [{"source": "shape_pairs", "path": "", "weight": 1.0}]
    config.data.mixture = tuple(parts)
    experiment, folder = parse(config), RunFolder.of(str(tmp_path / "run"))
    folder.write_config(to_dict(experiment))
    progress = {"batches": open_batches(experiment, None).state()}
    parts[0]["path"] = str(pictures.rename(tmp_path / "elsewhere"))
    config.data.mixture = tuple(parts)
    now = parse(config)
    check_resume(folder, now)
    check_moved(folder, now, open_batches(now, None), progress, None)
    (tmp_path / "elsewhere" / "0.png").unlink()
    with pytest.raises(UserError, match="pictures', '' and .*elsewhere', '' are others"):
        check_moved(folder, now, open_batches(now, None), progress, None)


# A run that goes on.
@pytest.mark.slow
@pytest.mark.budget(15)
def test_a_tokenizer_that_moved_is_the_same_one(
    runlocal, tokenizer_run, generator_run, tmp_path, capsys
):
    config = runlocal("demo/text_to_image.py")
    for evaluator in config.evaluators:
        config.evaluators[evaluator] = None
    config.train.steps += 1
    others = jax.tree.map(lambda a: np.asarray(a) + 1, TokenizerRun.open(str(tokenizer_run)).params)
    write_run(str(tmp_path / "other"), RunFolder.of(str(tokenizer_run)).read_config(), others)
    shutil.copytree(tokenizer_run, tmp_path / "same")
    shutil.copytree(generator_run, tmp_path / "run")
    config.tokenizer_run = str(tmp_path / "other")
    with pytest.raises(UserError, match="the tokenizer of .* is another"):
        train(config, str(tmp_path / "run"))
    config.tokenizer_run = str(tmp_path / "same")
    train(config, str(tmp_path / "run"))
    assert "the tokenizer of" in capsys.readouterr().err


@pytest.mark.slow
def test_what_an_evaluator_cannot_open_is_said_before_the_first_step(runlocal, pictures, tmp_path):
    config = on_pictures(runlocal, "demo/tokenizer.py", pictures)
    config.evaluators.reconstruction = {"num_examples": 8, "batch_size": 8}
    config.data.eval_split = "tset"
    with pytest.raises(UserError, match="data.eval_split='tset'"):
        train(config, str(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/[0-9]*"))


def test_a_second_process_is_refused_while_one_trains(runlocal, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lease = Lease(epath.Path(folder), beat=0.1)
    lease._own["process"] = os.getppid()
    lease.take()
    with pytest.raises(UserError, match="is training in .*another --workdir"):
        train(runlocal("demo/tokenizer.py"), str(folder))
    lease.release()
    assert not list(folder.iterdir())


# ------------------------------------------------------------------ the identity of tokens


def test_the_identity_of_tokens_hangs_on_what_makes_them(tokenizer_run):
    run = TokenizerRun.open(str(tokenizer_run))
    tokenizer, params, found = run.tokenizer, run.params, run.identity
    config = to_dict(tokenizer.config)

    def of(section, params):
        return identity(read_tokenizer({"tokenizer": section}), params)

    slow = {"remat": "full", "scan": False, "kernel": "plain"}
    for name, value in (("compute", slow), ("dropout", 0.3)):
        changed = {**config, "encoder": {**config["encoder"], name: value}}
        assert of(changed, params) == found, name
    older = {side: {**config[side]} for side in ("encoder", "quantizer")}
    del older["encoder"]["compute"], older["encoder"]["bias"], older["quantizer"]["l2_normalized"]
    older = {**config, **older}
    assert of(older, params) == found
    assert of({**config, "output": "logit_laplace"}, params) == found
    for changed in (
        {**config, "quantizer": {**config["quantizer"], "l2_normalized": False}},
        {**config, "encoder": {**config["encoder"], "activation": "gelu"}},
    ):
        assert of(changed, params) != found
    other = {**params, "codebook": jax.tree.map(lambda x: x + 1, params["codebook"])}
    assert of(config, other) != found


def test_a_generator_takes_its_tokenizer_as_that_was_trained(runlocal, tmp_path):
    before, run = runlocal("emoji/ibq.py"), tmp_path / "ibq"
    params = jax.eval_shape(read_tokenizer(before.to_dict()).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), nn.unbox(params))
    write_run(str(run), before.to_dict(), zeros)
    config = runlocal("demo/llama.py").unlock()
    config.tokenizer_run, config.tokenizer = str(run), None
    take_tokenizer(config)
    assert parse(config).tokenizer == parse(before).tokenizer
    check_tokenizers(parse(config))
    # What a loss alone reads of the codes decides nothing about a trained one.
    config.tokenizer.quantizer.beta_on = "commitment"
    check_tokenizers(parse(config))
    config.tokenizer.quantizer.codebook_size = 2048
    line = "codebook_size is 2048 but .* set 64, or all as there, by --config.tokenizer=None$"
    with pytest.raises(UserError, match=line):
        check_tokenizers(parse(config))
    config.tokenizer = runlocal("demo/llama.py").tokenizer
    with pytest.raises(UserError, match=r"set 'vqgan', or all as there, by"):
        check_tokenizers(parse(config))
