"""The evaluators on a finished run give the figures that training left."""

import json
import shutil

import pytest


@pytest.fixture
def report(tokenizer_run):
    """The figures of the tokenizer's run."""
    figures = json.loads((tokenizer_run / "report.json").read_text())
    return {name: value for name, value in figures.items() if name != "seconds"}


def test_the_figures_are_those_of_the_report(cli, tokenizer_run, report):
    status, printed, _ = cli("evaluate", f"--workdir={tokenizer_run}")
    assert status == 0
    assert json.loads(printed) == pytest.approx(report, rel=1e-5)


def test_the_figures_go_to_a_file(cli, tokenizer_run, report, tmp_path):
    out = tmp_path / "new" / "figures.json"
    status, printed, _ = cli("evaluate", f"--workdir={tokenizer_run}", f"--out={out}")
    assert (status, printed) == (0, "")
    assert json.loads(out.read_text()).keys() == report.keys()


@pytest.mark.slow
def test_a_step_may_be_named(cli, tokenizer_run):
    steps = sorted(int(path.name) for path in (tokenizer_run / "checkpoints").iterdir())
    words = ["evaluate", "--evaluators=reconstruction"]
    status, printed, _ = cli(*words, f"--workdir={tokenizer_run}@{steps[0]}")
    assert status == 0 and json.loads(printed)["step"] == steps[0]
    status, _, said = cli(*words, f"--workdir={tokenizer_run}@999")
    there = ", ".join(map(str, steps))
    assert status == 2 and f"holds no checkpoint of step 999; there are {there}" in said


@pytest.mark.slow
def test_only_the_named_evaluators_run(cli, generator_run):
    words = [f"--workdir={generator_run}", "--evaluators=validation_loss"]
    status, printed, _ = cli("evaluate", *words)
    figures, report = json.loads(printed), json.loads((generator_run / "report.json").read_text())
    assert status == 0 and figures.keys() == {"step", "validation/loss"}
    assert figures["validation/loss"] == pytest.approx(report["validation/loss"], rel=1e-5)


@pytest.mark.slow
def test_a_run_of_a_mesh_that_is_not_here_is_evaluated_all_the_same(cli, tokenizer_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tokenizer_run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["mesh"].update(model=512, rules="in_layer")
    (folder / "config.json").write_text(json.dumps(config))
    status, out, err = cli("evaluate", f"--workdir={folder}")
    assert status == 0 and "rules=fsdp over 8 devices: config.mesh needs" in out + err
    expected = json.loads((tokenizer_run / "report.json").read_text())
    got = json.loads(out[out.index("{") :])
    name = "reconstruction/psnr_db"
    assert abs(got[name] - expected[name]) < 1e-3


@pytest.mark.slow
def test_what_a_config_leaves_out_may_be_asked(cli, vim_run):
    config = json.loads((vim_run / "config.json").read_text())
    assert config["evaluators"]["linear_probe"] is None
    status, printed, said = cli("evaluate", f"--workdir={vim_run}", "--evaluators=samples")
    assert status == 0 and json.loads(printed).keys() == {"step"}
    assert [*(vim_run / "samples").glob("samples_grid_*.png")], said
    for name, line in (
        ("class_accuracy", "class_accuracy and its field classifier_run is empty; set it"),
        ("prompts", "config.evaluators.prompts judges the texts of the shapes world only"),
        ("fid", "evaluators names fid; those of generator are validation_loss, samples, prompts"),
    ):
        status, _, said = cli("evaluate", f"--workdir={vim_run}", f"--evaluators={name}")
        assert status == 2 and line in said.splitlines()[-1]


def test_an_average_is_asked_of_a_run_without_in_vain(cli, vim_run):
    status, _, said = cli("evaluate", f"--workdir={vim_run}", "--weights=ema")
    assert status == 2 and "weights is 'ema' and the run keeps no average of its weights" in said


@pytest.mark.slow
def test_a_result_says_how_it_came_about(cli, vim_run, tmp_path):
    folder = tmp_path / "run"
    # Without the results of other tests of the run.
    shutil.copytree(vim_run, folder, ignore=shutil.ignore_patterns("evaluations"))
    words = [f"--workdir={folder}", "--evaluators=validation_loss,samples"]
    fields = "samples.num=3,samples.each=1,samples.sampling.guidance=2"
    assert cli("evaluate", *words, f"--set={fields}")[0] == 0
    loss, samples = (
        json.loads(next((folder / "evaluations").glob(f"{name}_*.json")).read_text())
        for name in ("validation", "samples")
    )
    (figure,) = loss["figures"].values()
    assert figure["interval"][0] <= figure["value"] <= figure["interval"][1] and figure["n"] == 8
    pictures = loss["protocol"]["pictures"]
    assert (pictures["n"], pictures["split"]) == (8, "test")
    assert pictures["resize"]["filter"] == "bilinear"
    assert loss["weights"] == "params" and loss["step"] == 4 and loss["parameters"] > 1000
    assert {"babeldraw", "jax", "numpy"} <= loss["versions"].keys()
    drawing = samples["protocol"]
    assert drawing["guidance"] == [2.0] and drawing["seeds"]["last"] == 2
    assert drawing["conditions"] == {"n": 3, "different": 3, "first": ["#0", "#1", "#2"]}


@pytest.mark.slow
def test_several_runs_make_a_table(cli, tokenizer_run, tmp_path):
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        shutil.copytree(tokenizer_run, run)
    words = [f"--workdir={runs[0]},{runs[1]}", "--evaluators=reconstruction"]
    status, _, said = cli("evaluate", *words)
    assert status == 2 and "--out is missing; name a folder for the table of 2 runs" in said
    out = tmp_path / "table"
    more = ["--set=reconstruction.num_examples=4", f"--out={out}"]
    assert cli("evaluate", *words, *more)[0] == 0
    row = next(line for line in (out / "table.md").read_text().splitlines() if "/ssim" in line)
    first, second = row.split("|")[2:4]
    assert first == second and "[" in first
    assert (out / "index.html").read_text().count("data:image/png") == 3
    # What cannot be is said before any run takes its time.
    for wrong, line in (
        ("--set=reconstruction.colour=4", "config.evaluators.reconstruction.colour is not a field"),
        ("--set=outlines.num_examples=4", "fields are set of outlines, which evaluators does not"),
    ):
        status, _, said = cli("evaluate", *words, wrong, f"--out={out}")
        assert status == 2 and line in said.splitlines()[-1]
    status, _, said = cli("evaluate", f"--workdir={runs[0]},{tmp_path}/c", f"--out={out}")
    assert status == 2 and "does not exist" in said


def test_a_folder_is_no_file_for_the_json(cli, tokenizer_run, tmp_path):
    for words in (
        [f"--workdir={tokenizer_run}"],
        ["--samples=a.npz", "--reference=b.npz"],
        ["--geneval=a.jsonl", "--results=b.jsonl"],
    ):
        status, _, said = cli("evaluate", *words, f"--out={tmp_path}")
        assert status == 2 and "is a folder; name a file for the JSON" in said.splitlines()[-1]
