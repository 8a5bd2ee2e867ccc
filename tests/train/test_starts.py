"""Weights from elsewhere: they come bit for bit, both sides are told, misfits are named."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from babeldraw.convert.run import export_run
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.weights import flatten, write_weights
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.evaluation import TrainedRun
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.start import check_resume
from babeldraw.train.starts import StartConfig, begun
from babeldraw.train.step import state_shardings

DECODER = r"image_decoder/.*"


@pytest.fixture(scope="module")
def trained(generator_run):
    return TrainedRun.open(str(generator_run))


@pytest.fixture(scope="module")
def fresh(trained):
    """The same sizes, other weights: an experiment of another seed."""
    experiment = trained.experiment
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, seed=5))


def fresh_state(experiment, mesh=None):
    """Other weights than the run's; to compile `init` would take longer than a whole test."""
    objective = experiment.make_objective()
    mesh = mesh or MeshConfig(data=1)
    devices = jax.devices()[: mesh.stage * mesh.model * max(mesh.data, 1)]
    layout = make_layout(mesh, make_mesh(mesh, devices))
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    state = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), abstract)
    places = state_shardings(objective, layout)
    return jax.device_put(state, places), places


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [None, MeshConfig(rules="fsdp", data=2)], ids=["one device", "split"]
)
def test_a_part_begins_as_it_is_there_and_the_rest_is_fresh(
    trained, fresh, generator_run, capsys, mesh
):
    start = StartConfig(run=str(generator_run), names=DECODER)
    plain, places = fresh_state(fresh, mesh)
    state = begun(plain, start)
    said = capsys.readouterr().err
    found, before, there = (
        flatten(tree) for tree in (state.params, plain.params, trained.state.params)
    )
    for name, leaf in found.items():
        expected = there if re.fullmatch(DECODER, name) else before
        np.testing.assert_array_equal(leaf, expected[name])
    assert jax.tree.map(lambda a: a.sharding, state.params) == places.params
    count = sum(bool(re.fullmatch(DECODER, name)) for name in found)
    assert (
        f"params: {count} of {len(found)} parameters begin as in {generator_run}; fresh: " in said
    )
    assert "; not taken: text_encoder/" in said
    assert state.frozen is plain.frozen


@pytest.mark.slow
def test_a_file_and_another_name_will_do(trained, fresh, generator_run, tmp_path):
    export_run(str(generator_run), tmp_path / "files")
    file = tmp_path / "files" / "weights.safetensors"
    state, _ = fresh_state(fresh)
    # Of a file, `part` is how its names begin.
    begin = {"file": str(file), "part": "frozen/tokenizer", "into": "frozen/tokenizer"}
    found = begun(state, StartConfig(**begin), quiet=True).frozen
    jax.tree.map(np.testing.assert_array_equal, found, trained.state.frozen)
    encoder = r"text_encoder/stack/(.*/)ffn_norm/(.*)"
    start = StartConfig(file=str(file), part="params", names=encoder, theirs=r"x/\1\2")
    arrays = {
        f"x/{name.split('stack/')[1].replace('ffn_norm/', '')}": np.full(leaf.shape, 7, np.float32)
        for name, leaf in flatten(state.params).items()
        if re.fullmatch(encoder, name)
    }
    write_weights(file, arrays, {})
    moved = flatten(begun(state, start, quiet=True).params)
    for name, leaf in moved.items():
        assert bool((np.asarray(leaf) == 7).all()) == bool(re.fullmatch(encoder, name))


# A run.
@pytest.mark.slow
@pytest.mark.budget(20)
def test_a_run_begins_from_another_and_goes_on_by_itself(
    runlocal, generator_run, tokenizer_run, trained, tmp_path
):
    config = runlocal("demo/text_to_image.py")
    config.tokenizer_run, config.train.steps = str(tokenizer_run), 1
    # Nothing moves, so that what it began from can be seen.
    config.optimizer.schedule.peak = 1e-30
    config.train.ema = {"decay": 0.5}
    config.evaluators.validation_loss = config.evaluators.prompts = None
    config.starts = ({"run": str(generator_run), "names": DECODER},)
    train(config, str(tmp_path / "run"))
    for weights in ("params", "ema"):
        found = TrainedRun.open(str(tmp_path / "run"), weights).state
        ours, there = (s.params["image_decoder"] for s in (found, trained.state))
        jax.tree.map(np.testing.assert_array_equal, ours, there)
        jax.tree.map(np.testing.assert_array_equal, found.frozen, trained.state.frozen)
    # What it began from may be gone, and may be left out.
    config.starts, config.train.steps = (), 4
    check_resume(RunFolder.of(str(tmp_path / "run")), parse(config))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"run": "RUN", "names": "decoder/.*"}, "names is 'decoder/.*', which matches none of the"),
        (
            {"run": "RUN", "into": "frozen/vgg"},
            "into is 'frozen/vgg'; the run has tokenizer",
        ),
        ({"run": "RUN", "part": "frozen/vgg"}, "has no frozen/vgg, which config.starts.part names"),
        ({"run": "RUN", "part": "frozen/tokenizer"}, "has no image_decoder/"),
        (
            {"run": "RUN", "names": "(.*)norm/scale", "theirs": r"\1norm/bias"},
            "",
        ),
        (
            {"run": "RUN", "names": "(.*)/ffn/up/weight", "theirs": r"\1/ffn/down/weight"},
            "has the shape",
        ),
        (
            {"run": "RUN", "names": DECODER, "theirs": r"x/\1"},
            "theirs is 'x/\\\\1', which does not go",
        ),
        (
            {"run": "RUN", "names": "image_decoder/norm/.*", "theirs": "image_decoder/norm/bias"},
            "makes several parameters begin as image_decoder/norm/bias; write a start for each",
        ),
        ({"file": "nowhere.safetensors"}, "config.starts.file=nowhere.safetensors is not there"),
    ],
)
def test_what_does_not_fit_is_named(fresh, generator_run, fields, line):
    fields = {k: v.replace("RUN", str(generator_run)) for k, v in fields.items()}
    state, _ = fresh_state(fresh)
    if not line:
        begun(state, StartConfig(**fields))
        return
    with pytest.raises(UserError) as told:
        begun(state, StartConfig(**fields))
    assert line in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "config.starts has run='' and file=''; one of them is needed"),
        ({"run": "a", "file": "b"}, "config.starts has run='a' and file='b'; one of them"),
        ({"run": "a", "into": "opt"}, "config.starts.into is 'opt'; params, or frozen"),
        (
            {"file": "a", "into": "opt_state"},
            "config.starts.into is 'opt_state', which comes whole",
        ),
        ({"run": "a", "part": "opt_state"}, "config.starts.part is 'opt_state'; params, or"),
        ({"run": "a", "names": "("}, "config.starts.names is '(', no regular expression"),
    ],
)
def test_a_section_that_says_nothing_is_refused(fields, line):
    with pytest.raises(UserError, match=re.escape(line)):
        StartConfig(**fields)


def test_a_source_that_is_not_there_is_told_before_anything_is_made(fresh, tmp_path):
    start = StartConfig(run=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere does not exist"):
        check_resume(
            RunFolder.of(str(tmp_path / "run")), dataclasses.replace(fresh, starts=(start,))
        )
