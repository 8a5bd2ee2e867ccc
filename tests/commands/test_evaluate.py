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


def test_only_the_named_evaluators_run(cli, generator_run):
    words = [f"--workdir={generator_run}", "--evaluators=validation_loss"]
    status, printed, _ = cli("evaluate", *words)
    figures, report = json.loads(printed), json.loads((generator_run / "report.json").read_text())
    assert status == 0 and figures.keys() == {"step", "validation/loss"}
    assert figures["validation/loss"] == pytest.approx(report["validation/loss"], rel=1e-5)


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


def test_what_a_config_leaves_out_may_be_asked(cli, vim_run):
    config = json.loads((vim_run / "config.json").read_text())
    assert config["evaluators"]["linear_probe"] is None
    status, printed, said = cli("evaluate", f"--workdir={vim_run}", "--evaluators=samples")
    assert status == 0 and json.loads(printed).keys() == {"step"}
    assert [*(vim_run / "samples").glob("samples_grid_*.png")], said
    for name, line in (
        ("class_accuracy", "evaluators names class_accuracy, which has nothing to go by in this"),
        ("prompts", "config.evaluators.prompts judges the texts of the shapes world only"),
        ("fid", "evaluators names fid; those of generator are validation_loss, samples, prompts"),
    ):
        status, _, said = cli("evaluate", f"--workdir={vim_run}", f"--evaluators={name}")
        assert status == 2 and line in said.splitlines()[-1]


def test_an_average_is_asked_of_a_run_without_in_vain(cli, vim_run):
    status, _, said = cli("evaluate", f"--workdir={vim_run}", "--weights=ema")
    assert status == 2 and "weights is 'ema' and the run keeps no average of its weights" in said
