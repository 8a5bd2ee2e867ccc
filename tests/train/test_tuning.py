"""A trained run is trained on: its sizes, words and weights; what stays frozen; what misfits."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import flatten
from babeldraw.train.evaluation import TrainedRun
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from babeldraw.train.starts import StartConfig, begun, check_fits
from babeldraw.train.tuning import named_run, slower

GENERATORS = ("folder/tune_generator.py", "babeldraw/tune_guidance.py", "babeldraw/tune_coco.py")


ROOT = Path(__file__).parents[2]


def config_for(name, run, *words):
    return load_config(f"configs/{name}", ROOT / "pyproject.toml", ",".join((run, *words)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of one's own, with words that the runs have never read."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(24):
        save_png(folder / f"{number}.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
        (folder / f"{number}.txt").write_text(f"a fox 🦊 number {number}", encoding="utf-8")
    return folder


# ------------------------------------------------------------------ the config of a run


@pytest.mark.parametrize("name", ["emoji/enlarger.py", "emoji/refiner.py"])
def test_super_resolution_by_codes_goes_on_from_coglm_alone(name, runlocal, tmp_path):
    RunFolder.of(str(tmp_path)).write_config(runlocal("emoji/text_to_image.py").to_dict())
    with pytest.raises(UserError, match="is a run of config.model.kind=babeldraw .* one of coglm"):
        config_for(name, str(tmp_path))


@pytest.mark.parametrize(("name", "count"), [("direct", 3), ("iterative", 1)])
def test_cogview2_s_stages_begin_with_the_run_of_coglm_that_is_named(name, count, tmp_path):
    starts = config_for(f"cogview2/{name}.py", str(tmp_path)).starts
    assert len(starts) == count and {start["run"] for start in starts} == {str(tmp_path)}
    assert not config_for(f"cogview2/{name}.py", "").starts


@pytest.mark.parametrize("name", GENERATORS)
def test_the_run_s_sizes_tokenizer_and_words_are_taken(name, generator_run):
    before = RunFolder.of(str(generator_run)).read_config()
    trained, found = parse(before), parse(config_for(name, str(generator_run)))
    for part in (
        "tokenizer",
        "tokenizer_run",
        "level",
        "levels",
        "model",
        "prediction",
        "sampling",
    ):
        assert getattr(found, part) == getattr(trained, part)
    same = dataclasses.replace(found.condition, dropout=trained.condition.dropout)
    assert same == trained.condition
    assert found.starts == (StartConfig(run=str(generator_run)),)
    # Slower than the run, by the same optimizer.
    before, now = trained.optimizer, found.optimizer
    assert now.schedule.peak < before.schedule.peak and now.name == before.name
    assert now.schedule.decay_end == found.train.steps


def test_a_tokenizer_s_losses_are_taken_and_all_of_it_begins_there(tokenizer_run):
    trained = parse(RunFolder.of(str(tokenizer_run)).read_config())
    found = parse(config_for("folder/tune_tokenizer.py", str(tokenizer_run)))
    assert (found.tokenizer, found.loss) == (trained.tokenizer, trained.loss)
    assert found.tokenizer_run == str(tokenizer_run)
    assert set(found.taken) == {"encoder", "quantizer", "decoder"} == set(found.train_groups)


def test_the_decoder_alone_learns_of_a_tokenizer_that_moves_its_codes(tokenizer_run, tmp_path):
    config = json.loads((tokenizer_run / "config.json").read_text())
    config["loss"]["restart_below"] = 0.05
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = parse(config_for("folder/tune_tokenizer.py", str(tmp_path), "decoder"))
    assert found.train_groups == found.start_groups == ("decoder",)
    trained = parse(RunFolder.of(str(tmp_path)).read_config())
    assert found.loss == dataclasses.replace(trained.loss, restart_below=0.0) != trained.loss


def test_the_published_steps_and_a_share_without_words():
    guided = parse(load_config("configs/babeldraw/tune_guidance.py", ROOT / "README.md"))
    assert (guided.train.steps, guided.condition.dropout) == (100_000, 0.1)
    assert guided.starts == (StartConfig(run="runs/babeldraw_350m"),)
    coco = parse(load_config("configs/babeldraw/tune_coco.py", ROOT / "README.md"))
    assert (coco.data.path, coco.data.captions) == ("coco_captions", "random")


def test_a_slower_schedule_ends_with_the_steps():
    optimizer = {"name": "muon", "schedule": {"peak": 2e-3, "kind": "exponential"}}
    found = slower(optimizer, 300, 0.25)
    assert (found["name"], found["schedule"]["peak"]) == ("muon", 5e-4)
    assert (found["schedule"]["warmup_steps"], found["schedule"]["decay_end"]) == (30, 300)


@pytest.mark.parametrize("name", [*GENERATORS, "folder/tune_tokenizer.py"])
def test_a_run_of_another_kind_is_one_line(name, coca_run):
    kind = "image_tokenizer" if "tokenizer" in name else "generator"
    line = f"is a run of contrastive_captioner and this config goes on from one of {kind}; name"
    with pytest.raises(UserError, match=line):
        config_for(name, str(coca_run))


def test_what_is_no_run_is_one_line(tmp_path, generator_run):
    with pytest.raises(UserError, match="is not a run folder: it holds no config.json"):
        config_for("folder/tune_generator.py", str(tmp_path))
    with pytest.raises(UserError, match="with ,kept behind it, and there is no folder of that"):
        config_for("babeldraw/tune_guidance.py", "nowhere")
    assert named_run(f"{generator_run},kept", "kept") == (str(generator_run), "kept")
    assert named_run("", "kept") == ("", "") and named_run("runlocal") == ("", "runlocal")


# ------------------------------------------------------------------ what it begins with


def filled(abstract, seed):
    """Weights by a seed; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(seed)
    made = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), abstract)
    return jax.device_put(made)


@pytest.mark.slow
def test_guidance_begins_bit_for_bit_with_the_optimizer_kept(generator_run, capsys):
    experiment = parse(config_for("babeldraw/tune_guidance.py", str(generator_run), "kept"))
    abstract = jax.eval_shape(experiment.make_objective().init, jax.random.key(0))
    state = filled(abstract, 5)
    assert [start.into for start in experiment.starts] == ["opt_state", "params"]
    for start in experiment.starts:
        state = begun(state, start)
    folder = RunFolder.of(str(generator_run))
    step, stored = restore_parts(folder.checkpoints, ("params", "opt_state"))
    for part in ("params", "opt_state"):
        ours, theirs = (jax.tree.leaves(tree) for tree in (getattr(state, part), stored[part]))
        assert sum(map(np.size, ours)) == sum(map(np.size, theirs)) > 0
        # As a dict, whose order is that of names, Orbax gives a tuple back.
        ours, theirs = (
            sorted(np.asarray(a).tobytes() for a in leaves) for leaves in (ours, theirs)
        )
        assert ours == theirs
    # The schedule goes on by the count of the run's steps, and is the run's.
    counts = {int(leaf) for leaf in jax.tree.leaves(state.opt_state) if np.ndim(leaf) == 0}
    assert counts == {step}
    trained = parse(folder.read_config())
    assert experiment.optimizer == trained.optimizer
    assert f"the optimizer goes on as in {generator_run}" in capsys.readouterr().err


def test_its_share_of_prompts_is_padding(generator_run):
    experiment = parse(config_for("babeldraw/tune_guidance.py", str(generator_run)))
    condition = experiment.condition
    text = jnp.ones((4000, condition.length), jnp.int32)
    found = np.asarray(condition.dropped(text, jax.random.key(1)))
    gone = (found == 0).all(axis=1)
    assert (found[~gone] == 1).all()
    # Four standard deviations of a share of 0.1 among 4,000 are 0.019.
    assert abs(gone.mean() - experiment.condition.dropout) < 0.019


def test_another_optimizer_or_none_is_one_line(generator_run, tmp_path):
    experiment = parse(config_for("babeldraw/tune_guidance.py", str(generator_run), "kept"))
    other = dataclasses.replace(experiment.optimizer, name="adamw")
    other = dataclasses.replace(experiment, optimizer=other)
    start = experiment.starts[0]
    state = filled(jax.eval_shape(other.make_objective().init, jax.random.key(0)), 0)
    with pytest.raises(UserError, match=f"optimizer of {generator_run}, which is another one"):
        begun(state, start)
    # Before anything is compiled.
    with pytest.raises(UserError, match="its state has no .*; take config.optimizer and config."):
        check_fits(jax.eval_shape(other.make_objective().init, jax.random.key(0)), start)
    imported = tmp_path / "imported"
    write_run(str(imported), to_dict(experiment), {"a": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match="has no opt_state, which config.starts.into names"):
        begun(state, dataclasses.replace(start, run=str(imported)))


# ------------------------------------------------------------------ runs


# A run.
@pytest.mark.slow
@pytest.mark.budget(20)
def test_a_part_stays_as_it_was_and_the_words_are_the_run_s(cli, generator_run, pictures, tmp_path):
    config = f"--config=configs/folder/tune_generator.py:{generator_run}"
    fields = {
        "data.path": pictures,
        "train.steps": 2,
        "train.batch_size": 8,
        "optimizer.groups": "({'names': 'text_encoder', 'rate': 0.0},)",
        "evaluators.samples": None,
        "evaluators.validation_loss": None,
    }
    run = tmp_path / "run"
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    status, _, said = cli("train", config, *words, f"--workdir={run}")
    assert status == 0, said
    assert "vocabulary has no piece for" in said and "🦊" in said
    assert (run / "text.model").read_bytes() == (generator_run / "text.model").read_bytes()
    before, after = (
        flatten(TrainedRun.open(str(folder)).state.params) for folder in (generator_run, run)
    )
    for name, leaf in before.items():
        assert (np.asarray(leaf) == np.asarray(after[name])).all() == name.startswith("text_")


def test_another_vocabulary_is_refused_at_once(cli, generator_run, pictures, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    cli("vocabulary", f"--path={pictures}", "--size=100", f"--out={run / 'text.model'}")
    config = f"--config=configs/folder/tune_generator.py:{generator_run}"
    words = ["train", config, f"--config.data.path={pictures}", f"--workdir={run}"]
    status, _, said = cli(*words)
    assert status == 2 and said.count("\n") == 1
    assert "is another vocabulary than" in said and "piece by piece they would be others" in said
