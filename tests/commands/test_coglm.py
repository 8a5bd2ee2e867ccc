"""`clusters`, `sample` and `caption` on a run of CogLM, of random weights; what they refuse."""

import json

import numpy as np
import pytest

from babeldraw.data.image import save_png
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.errors import UserError
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.runs.folder import RunFolder
from tests.random_runs import vocabulary, write_generator

WORDS = ["a small red thing", "a large blue thing"]


@pytest.fixture(scope="module")
def runs(runlocal, tmp_path_factory):
    """By the name of its config a run on the hierarchy: one that tells, and one that does not."""
    place = tmp_path_factory.mktemp("coglm")
    words = vocabulary(WORDS, place)
    tokenizer = runlocal("emoji/hierarchy.py").tokenizer.to_dict()

    def write(name):
        config = {**runlocal(f"emoji/{name}.py").to_dict(), "tokenizer": tokenizer}
        return write_generator(place / name, config, words)

    return {name: write(name) for name in ("coglm", "refiner")}


@pytest.fixture(scope="module")
def codes(runs):
    """How many there are."""
    config = RunFolder.to_read(runs["coglm"]).read_config()
    return config["tokenizer"]["quantizer"]["codebook_size"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------ clusters, and drawing by them


@pytest.mark.slow
def test_clusters_are_found_kept_and_drawn_by(cli, runs, tmp_path):
    words = [f"--workdir={runs['coglm']}", f"--prompt={WORDS[0]}", f"--out={tmp_path}"]
    status, _, said = cli("clusters", f"--workdir={runs['coglm']}", "--count=6")
    assert status == 0 and "6 clusters of " in said
    labels = np.load(RunFolder.to_read(runs["coglm"]).clusters_file)
    assert set(labels) == set(range(6))
    status, _, said = cli("sample", *words, "--clusters=2", "--text_weight=1.4")
    assert status == 0, said
    (line,) = lines_of(tmp_path)
    assert (line["clusters"], line["text_weight"], line["step"]) == (2, 1.4, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "line"),
    [
        ("0", "--count is 0; at least 1 cluster is needed"),
        ("100000", "--count is 100000, of clusters, and the codebook has {codes} different codes"),
    ],
)
def test_a_count_of_clusters_that_cannot_be_is_refused(cli, runs, codes, count, line):
    status, _, said = cli("clusters", f"--workdir={runs['refiner']}", f"--count={count}")
    assert status == 2 and line.format(codes=codes) in said
    assert not RunFolder.to_read(runs["refiner"]).clusters_file.exists()


def test_clusters_of_no_run_and_of_a_run_without_codes_are_refused(cli, tmp_path):
    status, _, said = cli("clusters", "--count=6")
    assert status == 2 and "--workdir" in said
    RunFolder.of(str(tmp_path)).write_config({"objective": "image_tokenizer"})
    status, _, said = cli("clusters", f"--workdir={tmp_path}", "--count=6")
    assert status == 2 and "is a run of image_tokenizer; name one of generator" in said


def test_a_damaged_file_of_clusters_is_refused(cli, runs, tmp_path):
    file = RunFolder.to_read(runs["refiner"]).clusters_file
    file.write_bytes(b"nothing")
    try:
        words = [f"--workdir={runs['refiner']}", "--prompt=a", f"--out={tmp_path}"]
        status, _, said = cli("sample", *words)
    finally:
        file.unlink()
    assert status == 2 and "clusters.npy does not hold the clusters of the run's" in said


# ------------------------------------------------------------------ captions


@pytest.mark.slow
def test_pictures_are_told_alike_from_python_and_by_the_command(cli, runs, tmp_path):
    captioner = CaptionerRun.open(runs["coglm"])
    size = captioner.tokenizer.image_size
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    for number, image in enumerate(images):
        save_png(tmp_path / f"{number}.png", image)
    told = list(captioner.caption(images, 4, 2, SamplingConfig(temperature=50.0)))
    assert len({one.text for one in told}) > 3 and all(one.score < 0 for one in told)
    words = [f"--workdir={runs['coglm']}", f"--path={tmp_path}", f"--out={tmp_path / 'told.jsonl'}"]
    status, _, said = cli("caption", *words, "--num=4", "--seed=2", "--temperature=50")
    assert status == 0, said
    lines = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    found = [(line["caption"], line["seed"]) for line in lines]
    assert found == [(one.text, one.seed) for one in told]
    scores = [one.score for one in told]
    np.testing.assert_allclose([line["score"] for line in lines], scores, atol=1e-5)


@pytest.mark.slow
def test_a_generator_that_tells_nothing_is_refused(cli, runs, tmp_path):
    with pytest.raises(UserError, match="a run of config.model.kind=refiner, which tells no pict"):
        CaptionerRun.open(runs["refiner"])
    save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    status, _, said = cli("caption", f"--workdir={runs['refiner']}", f"--image={tmp_path}/a.png")
    assert status == 2 and "which tells no pictures; name one of coglm, or of a contrast" in said
