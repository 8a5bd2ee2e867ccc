"""Tuning of every family: RAR in raster order, generators of other classes, TiTok, discriminators.

On runs of random weights, which nobody trained.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from babeldraw.config import OfKind, to_dict
from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.kinds import NETWORKS, make_generator
from babeldraw.models.several import SeveralConditions
from babeldraw.runs.checkpoints import Checkpoints
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import flatten
from babeldraw.tokenizers.base import PARTS, Codes
from babeldraw.train.evaluation import TrainedRun
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from babeldraw.train.starts import StartConfig, begun, check_fits
from tests.networks import abstract_params

ROOT = Path(__file__).parents[2]
STACK = {"blocks": 1, "heads": 2, "dim": 8, "hidden": 16, "compute": {"scan": False}}
GOOGLE = {"style": "bert", "head": "mlm", "mask_is_no_class": True}
MODELS = {
    "dit": {"kind": "dit", "stack": STACK},
    "llama": {"kind": "llama", "decoder": STACK},
    "maskgit": {"kind": "maskgit", "stack": STACK},
    "google": {"kind": "maskgit", "stack": STACK, **GOOGLE},
    "rar": {"kind": "rar", "decoder": STACK},
    "uvit": {"kind": "uvit", "stack": {**STACK, "blocks": 3}},
    "vim": {"kind": "vim", "decoder": STACK},
}
ANNEALED = {"kind": "permuted_next_token", "anneal_start": 100, "anneal_end": 200}
CLASSES = {"kind": "class", "num_classes": 6, "dropout": 0.1}
TEXT = {"kind": "text", "length": 16, "vocab_size": 100}


def load(name, argument=""):
    return load_config(f"configs/{name}", ROOT / "pyproject.toml", argument)


def tuned(name, run, *words, **sections):
    """A config that goes on from a run, with sections as the command line leaves them."""
    return parse(load(name, ",".join((str(run), *words))).to_dict() | sections)


def drawn(abstract, seed=0):
    """Random weights in place of shapes, of NumPy: nothing is compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: np.asarray(rng.normal(size=a.shape), a.dtype), abstract)


def abstract_state(experiment):
    return jax.eval_shape(experiment.make_objective().init, jax.random.key(0))


def written(folder, config):
    """An import of random weights: a run that has nothing else, at step 0."""
    experiment = parse(config)
    state = drawn(abstract_state(experiment))
    write_run(str(folder), to_dict(experiment), state.params, frozen=state.frozen)
    return str(folder)


# ------------------------------------------------------------------ generators


def generator_config(model, prediction, condition):
    """The demo's smallest generator with another network, from something else."""
    config = load("demo/text_to_image.py", "runlocal").to_dict()
    return config | {
        "condition": condition,
        "model": MODELS[model],
        "prediction": prediction,
        "sampling": None,
        "data": {"source": "shape_pairs"},
        "evaluators": {"samples": None},
    }


@pytest.fixture(scope="module")
def rar_run(tmp_path_factory):
    """RAR by class, stopped before its annealing was done."""
    config = generator_config("rar", ANNEALED, CLASSES)
    return written(tmp_path_factory.mktemp("rar") / "run", config)


@pytest.fixture(scope="module")
def google_run(tmp_path_factory):
    """MaskGIT as Google's: its biases and its mask go by the classes too."""
    config = generator_config("google", {"kind": "masked"}, CLASSES)
    return written(tmp_path_factory.mktemp("maskgit") / "run", config)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder/tune_generator.py", ()),
        ("babeldraw/tune_guidance.py", ()),
        ("babeldraw/tune_guidance.py", ("kept",)),
    ],
)
def test_rar_goes_on_in_raster_order(name, words, rar_run):
    trained, found = parse(RunFolder.of(rar_run).read_config()), tuned(name, rar_run, *words)
    assert float(trained.prediction.random_share(np.int32(150))) == 0.5
    assert (found.prediction.kind, found.model) == (trained.prediction.kind, trained.model)
    for step in (0, 1, 150, 10_000):
        assert float(found.prediction.random_share(np.int32(step))) == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_what_has_a_row_for_each_class_is_known(name):
    section = OfKind(NETWORKS).build(MODELS[name], "config.model")
    codes = Codes((2, 2), channels=4) if name == "dit" else Codes((2, 2), (16,))

    def shapes(condition):
        generator = make_generator(section, condition, codes)
        found = {n: leaf.shape for n, leaf in flatten(abstract_params(generator)).items()}
        return generator.class_rows, found

    def several(count):
        parts = {"what": {"kind": "class", "num_classes": count}, "words": TEXT}
        return SeveralConditions(parts)

    makers = [lambda count: ClassCondition(num_classes=count)]
    if name == "maskgit":
        makers.append(several)
    for make in makers:
        (few, before), (more, after) = shapes(make(6)), shapes(make(9))
        differ = {n for n in before if before[n] != after[n]}
        assert differ == set(few) == set(more) and differ
        assert set(few.values()) == {7} and set(more.values()) == {10}
        for each in differ:
            assert after[each] == (before[each][0] + 3, *before[each][1:])


def test_of_other_classes_the_rows_are_fresh_but_for_that_of_none(google_run, capsys):
    condition = {**CLASSES, "num_classes": 4}
    experiment = tuned("folder/tune_generator.py", google_run, condition=condition)
    check_fits(abstract_state(experiment), experiment.starts[0], experiment.class_rows)
    fresh = jax.device_put(drawn(abstract_state(experiment), 1))
    found = begun(fresh, experiment.starts[0], experiment.class_rows)
    found, fresh = (jax.device_get(flatten(state.params)) for state in (found, fresh))
    there = flatten(drawn(abstract_state(parse(RunFolder.of(google_run).read_config()))).params)
    assert found.keys() == there.keys()
    by_class = {"prefix/embed/table": 0, "head/bias": experiment.tokenizer.quantizer.codebook_size}
    for name, array in found.items():
        if name in by_class:
            shared = by_class[name]
            parts = there[name][:shared], fresh[name][shared : shared + 4], there[name][-1:]
            np.testing.assert_array_equal(array, np.concatenate(parts))
        else:
            np.testing.assert_array_equal(array, there[name])
    said = capsys.readouterr().err
    assert "; other classes, so their rows are fresh: " in said and said.count("\n") == 1


def test_of_as_many_classes_all_is_taken(rar_run):
    experiment = tuned("folder/tune_generator.py", rar_run)
    found = begun(
        jax.device_put(drawn(abstract_state(experiment), 1)),
        experiment.starts[0],
        experiment.class_rows,
    )
    there = drawn(abstract_state(parse(RunFolder.of(rar_run).read_config())))
    jax.tree.map(np.testing.assert_array_equal, found.params, there.params)


def test_captions_are_no_classes_nor_classes_captions(rar_run, tmp_path):
    told = written(tmp_path / "told", generator_config("rar", {"kind": "next_token"}, TEXT))
    for run, condition in ((rar_run, TEXT), (told, CLASSES)):
        experiment = tuned("folder/tune_generator.py", run, condition=condition)
        with pytest.raises(UserError, match="/table has the shape") as refused:
            check_fits(abstract_state(experiment), experiment.starts[0], experiment.class_rows)
        assert "\n" not in str(refused.value)


# ------------------------------------------------------------------ discriminators


START, HEAD = 400, 100


@pytest.fixture
def gan_run(tmp_path):
    """`gan_run(steps)`: the demo's tokenizer with a discriminator, after so many steps."""
    config = load("demo/tokenizer_gan.py", "runlocal")
    config.adversarial.update(start_step=START, head_start=HEAD, lecam=0.1)
    experiment = parse(config)

    def make(steps):
        folder = RunFolder.of(str(tmp_path / f"run{steps}"))
        state = jax.device_put(drawn(abstract_state(experiment)))
        checkpoints = Checkpoints(folder.checkpoints, keep=1)
        checkpoints.save_surely(steps, state, {"step": steps})
        checkpoints.close()
        folder.write_config(to_dict(experiment))
        return str(folder.path), state

    return make


def test_a_discriminator_goes_on_and_its_term_is_on_at_once(gan_run, capsys):
    run, there = gan_run(START + HEAD)
    for words in ((), ("decoder",)):
        experiment = tuned("folder/tune_tokenizer.py", run, *words)
        trained = parse(RunFolder.of(run).read_config())
        section = experiment.adversarial
        assert (section.start_step, section.head_start) == (0, 0)
        assert (section.lecam, section.loss) == (0.1, trained.adversarial.loss)
        # As slow as what it judges, which is trained too.
        peaks = [e.discriminator_optimizer.schedule.peak for e in (experiment, trained)]
        np.testing.assert_allclose(peaks[0], 0.2 * peaks[1])
        assert experiment.starts == (StartConfig(run=run, into="extra/discriminator"),)
    assert "adversarial term" not in capsys.readouterr().err
    check_fits(abstract_state(experiment), experiment.starts[0])
    fresh = jax.device_put(drawn(abstract_state(experiment), 1))
    state = begun(fresh, experiment.starts[0])
    found, before = (s.extra["discriminator"] for s in (state, there))
    assert before.keys() == found.keys() == {"params", "lecam", "opt_state"}
    for name in ("params", "lecam"):
        jax.tree.map(np.testing.assert_array_equal, found[name], before[name])
    assert found["opt_state"] is fresh.extra["discriminator"]["opt_state"]
    assert state.extra["code_share"] is fresh.extra["code_share"]


@pytest.mark.parametrize(
    ("steps", "alone", "begins"),
    [(START, 250, False), (START + 40, HEAD - 40, True), (0, 250, False)],
    ids=["not begun", "between", "import"],
)
def test_a_discriminator_that_knows_too_little_learns_alone_first(
    steps, alone, begins, gan_run, capsys
):
    run, _ = gan_run(steps)
    experiment = tuned("folder/tune_tokenizer.py", run)
    section = experiment.adversarial
    assert (section.start_step, section.head_start) == (0, alone)
    assert [start.into for start in experiment.starts] == ["extra/discriminator"] * begins
    said = capsys.readouterr().err
    assert f"the adversarial term comes on after {alone} steps" in said and said.count("\n") == 1


def test_a_discriminator_is_of_a_run_that_has_one(tokenizer_run):
    with pytest.raises(UserError, match="which comes of a run; name one in place of file='a'"):
        StartConfig(file="a", into="extra/discriminator")
    experiment = parse(load("demo/tokenizer_gan.py", "runlocal"))
    start = StartConfig(run=str(tokenizer_run), into="extra/discriminator")
    with pytest.raises(UserError, match="has no extra/discriminator, which config.starts.into"):
        check_fits(abstract_state(experiment), start)
    trained = parse(RunFolder.of(str(tokenizer_run)).read_config())
    with pytest.raises(UserError, match="into is 'extra/discriminator'; the run has code_share"):
        check_fits(abstract_state(trained), start)


# ------------------------------------------------------------------ TiTok


@pytest.fixture(scope="module")
def second_stage(tmp_path_factory):
    """The config of TiTok's second stage, small, as a run's."""
    config = load("titok.py", "s128,stage2,runlocal")
    config.loss.perceptual = 0.0
    config.tokenizer_run = "elsewhere"
    folder = tmp_path_factory.mktemp("titok") / "run"
    experiment = parse(config)
    RunFolder.of(str(folder)).write_config(to_dict(experiment))
    return str(folder), experiment


def test_what_learned_learns_on(second_stage, capsys):
    run, trained = second_stage
    found = tuned("folder/tune_tokenizer.py", run)
    assert found.train_groups == found.start_groups == trained.train_groups == ("decoder",)
    assert (found.loss, found.tokenizer) == (trained.loss, trained.tokenizer)
    assert found.loss.commitment == 0
    assert found.tokenizer_run == run and set(found.taken) == set(PARTS)
    line = f"{run} trained its decoder alone, and so does its tuning; with ,all behind the run all"
    assert line in capsys.readouterr().err
    tuned("folder/tune_tokenizer.py", run, "decoder")
    assert line not in capsys.readouterr().err


def test_all_of_it_learns_where_that_is_asked_for(second_stage):
    run, _ = second_stage
    found = tuned("folder/tune_tokenizer.py", run, "all")
    assert set(found.train_groups) == set(found.start_groups) == set(PARTS)
    # What holds encoder and codes together, which that run did not need.
    assert found.loss.commitment == 0.25


# ------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A folder of pictures of three classes."""
    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    for name in ("cat", "dog", "fox"):
        (folder / name).mkdir()
        for number in range(8):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            save_png(folder / name / f"{number}.png", pixels)
    return folder


# Runs.
@pytest.mark.slow
@pytest.mark.budget(30)
@pytest.mark.parametrize("name", ["rar", "google"])
def test_a_generator_learns_the_classes_of_one_s_own_folder(
    name, cli, kinds, tokenizer_run, tmp_path
):
    prediction = ANNEALED if name == "rar" else {"kind": "masked"}
    config = generator_config(name, prediction, CLASSES) | {"tokenizer_run": str(tokenizer_run)}
    before = written(tmp_path / "before", config)
    run = tmp_path / "run"
    fields = {
        "data.path": kinds,
        "train.steps": 2,
        "train.batch_size": 8,
        "evaluators.samples": None,
        "evaluators.validation_loss": None,
    }
    words = ["train", f"--config=configs/folder/tune_generator.py:{before}", f"--workdir={run}"]
    words += [f"--config.{field}={value}" for field, value in fields.items()]
    status, _, said = cli(*words)
    assert status == 2 and said.count("\n") == 1
    assert "config.condition.num_classes is 6" in said and "has 3 classes; set 3" in said
    status, _, said = cli(*words, "--config.condition.num_classes=3")
    assert status == 0, said
    assert "other classes, so their rows are fresh: " in said
    assert RunFolder.of(str(run)).read_classes() == ("cat", "dog", "fox")
    table = TrainedRun.open(str(run)).state.params["prefix"]["embed"]["table"]
    assert table.shape == (4, 8)


# A run.
@pytest.mark.slow
@pytest.mark.budget(60)
def test_a_titok_goes_on_with_its_discriminator(cli, kinds, tmp_path):
    config = load("demo/titok.py", "runlocal").to_dict()
    adversarial = load("demo/tokenizer_gan.py", "runlocal").to_dict()
    for name in ("discriminator", "adversarial", "discriminator_optimizer"):
        config[name] = adversarial[name]
    config["loss"]["adversarial"] = 0.1
    before = written(tmp_path / "before", config)
    run = tmp_path / "run"
    fields = {
        "data.path": kinds,
        "train.steps": 2,
        "train.batch_size": 8,
        "train.log_every": 1,
        "adversarial.head_start": 1,
        "evaluators.reconstruction": None,
    }
    words = ["train", f"--config=configs/folder/tune_tokenizer.py:{before}", f"--workdir={run}"]
    words += [f"--config.{field}={value}" for field, value in fields.items()]
    status, _, said = cli(*words)
    assert status == 0, said
    assert "has learned nothing: the adversarial term comes on after 250 steps" in said
    # That run has learned, by two steps, and is gone on from.
    words[1:3] = [
        f"--config=configs/folder/tune_tokenizer.py:{run}",
        f"--workdir={tmp_path / 'again'}",
    ]
    status, _, said = cli(*words)
    assert status == 0, said
    assert f"parameters begin as in {run}" in said and "extra/discriminator: " in said
