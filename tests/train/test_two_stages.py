"""TiTok's two stages: on another tokenizer's codes, then through that one's decoder to pixels."""

import copy
import shutil

import jax
import numpy as np
import pytest

from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import flatten
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars
from babeldraw.train.presets import complete
from babeldraw.train.start import initial_state
from babeldraw.train.step import state_shardings

# Whole runs of two stages.
pytestmark = pytest.mark.budget(15)

STACK = {"blocks": 1, "heads": 2, "dim": 32, "hidden": 64, "activation": "gelu_exact", "bias": True}
STACK = {**STACK, "compute": {"scan": False}}
TITOK = {
    "kind": "titok",
    "encoder": STACK,
    "decoder": STACK,
    "tokens": 6,
    "image_size": (32, 32),
    "patch_size": 8,
    "quantizer": {"kind": "vq", "codebook_size": 64, "code_dim": 8},
}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def first(runlocal, tokenizer_run):
    """The config of stage 1, on the codes of the session's tokenizer."""
    config = runlocal("demo/tokenizer.py").to_dict()
    config["tokenizer"] = {**TITOK, "proxy": config["tokenizer"]}
    config["loss"] |= {"l2": 0.0, "restart_below": 0.0}
    config["train"] |= {"steps": 4, "log_every": 1}
    return config | {"proxy_run": str(tokenizer_run)}


@pytest.fixture(scope="module")
def first_run(first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "first"
    train(complete(first), str(folder))
    return folder


@pytest.fixture(scope="module")
def second(first, first_run):
    """The config of stage 2, on the first."""
    config = copy.deepcopy(first)
    config["tokenizer"]["through_proxy"] = True
    config["loss"]["l2"] = 1.0
    groups = {"train_groups": ("decoder",), "start_groups": ("decoder",)}
    return config | {**groups, "proxy_run": "", "tokenizer_run": str(first_run)}


@pytest.fixture(scope="module")
def second_run(second, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "second"
    train(complete(second), str(folder))
    return folder


def of_second(change, line):
    """Behind a run of the first stage, which takes a while."""
    return pytest.param("second", change, line, marks=pytest.mark.slow)


def changed(config, **more):
    """With fields set, or a section's fields where a value is a dict."""
    made = copy.deepcopy(config)
    for name, value in more.items():
        made[name] = {**made[name], **value} if isinstance(value, dict) else value
    return made


def params(folder):
    return flatten(TokenizerRun.open(str(folder)).params)


@pytest.mark.slow
def test_the_first_stage_learns_codes_and_is_judged_by_the_proxy_s_pictures(
    first_run, tokenizer_run
):
    lines = read_scalars(RunFolder.of(str(first_run)))
    losses = [line["train/proxy"] for line in lines if "train/proxy" in line]
    assert losses[-1] < losses[0] < 1.5 * np.log(64)
    assert not any({"train/l2", "train/psnr_db"} & {*line} for line in lines)
    assert any(line.get("reconstruction/psnr_db", 0) > 0 for line in lines)
    # The frozen tokenizer is as it was.
    _, state = restore_parts(RunFolder.of(str(first_run)).checkpoints, ("frozen",))
    before = params(tokenizer_run)
    for name, array in flatten(state["frozen"]["proxy"]).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.slow
def test_the_second_stage_tunes_both_decoders_and_leaves_the_codes(first_run, second_run):
    one, other = (TokenizerRun.open(str(folder)) for folder in (first_run, second_run))
    assert one.identity == other.identity
    np.testing.assert_array_equal(one.encode(IMAGES), other.encode(IMAGES))
    before, after = flatten(one.params), flatten(other.params)
    moved = {name.split("/")[0] for name in before if np.any(before[name] != after[name])}
    assert moved == {*one.tokenizer.groups["decoder"]}
    assert other.reconstruct(IMAGES)[0].shape == IMAGES.shape


@pytest.mark.slow
@pytest.mark.parametrize("of", ["first_run", "second_run"])
def test_a_second_stage_begins_where_the_run_before_it_ended(of, second, tokenizer_run, request):
    before = request.getfixturevalue(of)
    experiment = parse(complete(changed(second, tokenizer_run=str(before))))
    objective = experiment.make_objective()
    places = state_shardings(objective, make_layout(experiment.mesh, make_mesh(experiment.mesh)))
    found = flatten(initial_state(experiment, objective, jax.random.key(0), places).params)
    expected, proxy = params(before), params(tokenizer_run)
    if of == "first_run":
        # The pixels' decoder is as the proxy's run left it.
        assert not any(name.startswith("pixels/") for name in expected)
        names = [name for name in found if name.startswith("pixels/")]
        expected |= {name: proxy[name.removeprefix("pixels/")] for name in names}
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.slow
def test_what_the_first_stage_cannot_do_is_told(first_run, runlocal, cli, tmp_path):
    words = [f"--workdir={first_run}", f"--out={tmp_path / 'page'}", "--num=2"]
    status, _, said = cli("reconstruct", *words)
    assert status == 2 and said.count("\n") == 1
    assert "trained on a proxy's codes and draws no pictures; train its second stage" in said
    config = runlocal("demo/text_to_image.py").to_dict()
    config["tokenizer"] = RunFolder.of(str(first_run)).read_config()["tokenizer"]
    with pytest.raises(UserError, match="draws no pictures, trained as it was on another one's co"):
        train(config | {"tokenizer_run": str(first_run)}, str(tmp_path / "generator"))


@pytest.mark.parametrize(
    ("stage", "change", "line"),
    [
        ("first", {"proxy_run": ""}, "config.proxy_run is empty; name the run folder of a trained"),
        ("first", {"proxy_run": "/nowhere"}, "/nowhere"),
        ("first", {"loss": {"l2": 1.0}}, "config.loss.l2 has a weight and config.tokenizer, whose"),
        of_second({"proxy_run": "runs/x"}, "proxy_run is 'runs/x' and config.tokenizer needs no"),
        of_second(
            {"train_groups": ("encoder", "quantizer", "decoder"), "start_groups": ()}
            | {"tokenizer_run": ""},
            "through_proxy is True and nothing begins from the first stage",
        ),
        of_second({"tokenizer": {"tokens": 5}}, "config.tokenizer.tokens is 5 but .* with 6; set"),
    ],
)
def test_a_mistake_is_one_line(stage, change, line, tmp_path, request):
    config = changed(request.getfixturevalue(stage), **change)
    with pytest.raises(UserError, match=line):
        train(complete(config), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_proxy_of_other_sizes_is_refused(first, tmp_path):
    config = copy.deepcopy(first)
    config["tokenizer"]["proxy"]["quantizer"]["codebook_size"] = 32
    line = "config.tokenizer.proxy.quantizer.codebook_size is 32 but .* was trained with 64; set 64"
    with pytest.raises(UserError, match=line):
        train(complete(config), str(tmp_path / "run"))


@pytest.mark.slow
def test_a_proxy_that_moved_is_looked_at(first, first_run, tokenizer_run, tmp_path):
    """A run goes on where its proxy lies elsewhere, not with another one's codes."""
    config, run = changed(first, train={"steps": 6}), tmp_path / "run"
    others = jax.tree.map(lambda a: np.asarray(a) + 1, TokenizerRun.open(str(tokenizer_run)).params)
    write_run(str(tmp_path / "other"), RunFolder.of(str(tokenizer_run)).read_config(), others)
    shutil.copytree(first_run, run)
    line = "config.proxy_run = .* and the tokenizer of .* is another; set it back"
    with pytest.raises(UserError, match=line):
        train(complete(config | {"proxy_run": str(tmp_path / "other")}), str(run))
    shutil.copytree(tokenizer_run, tmp_path / "same")
    figures = train(complete(config | {"proxy_run": str(tmp_path / "same")}), str(run))
    assert figures["reconstruction/psnr_db"] > 0
