"""The CLIP score of drawn pictures: what is drawn, what of a cosine it is, and what is refused."""

import json

import numpy as np
import pytest

from babeldraw.drawing.clip_judge import CLIPJudge
from babeldraw.evaluation.clip_score import ClipScoreConfig, clip_scores
from tests.clip_file import clip_file


class Judge:
    def score(self, images, asked):
        return np.array([0.31, -0.2, 1.0], np.float32)


def test_a_score_is_a_hundred_cosines_and_no_less_than_0():
    np.testing.assert_allclose(clip_scores(Judge(), None, None), [31, 0, 100], rtol=1e-6)


@pytest.mark.slow
def test_held_out_captions_are_drawn_and_judged(cli, generator_run, tmp_path, monkeypatch):
    file, seen, score = clip_file(tmp_path, monkeypatch), [], CLIPJudge.score

    def told(judge, images, asked):
        found = score(judge, images, asked)
        seen.append((images, [one.text for one in asked], found))
        return found

    monkeypatch.setattr(CLIPJudge, "score", told)
    words = [f"--workdir={generator_run}", "--evaluators=clip_score"]
    fields = f"clip_score.file={file},clip_score.num_examples=5,clip_score.batch_size=4"
    status, printed, said = cli(
        "evaluate", *words, f"--set={fields},clip_score.sampling.guidance=2"
    )
    assert status == 0, said
    figures = json.loads(printed)
    assert len(seen) == 2 and len({*seen[0][1]}) > 1
    for name, (images, captions, found) in zip(("", "_without_guidance"), seen, strict=True):
        assert images.shape[0] == 5 and images.dtype == np.uint8 and captions == seen[0][1]
        expected = np.maximum(found, 0).mean() * 100
        assert figures[f"clip_score/clip_score{name}"] == pytest.approx(expected)
    (record,) = (generator_run / "evaluations").glob("clip_score_*.json")
    protocol = json.loads(record.read_text())["protocol"]
    assert protocol["clip"]["kind"] == "clip_b32" and len(protocol["clip"]["sha256"]) == 64
    assert protocol["drawn"]["seeds"]["last"] == 4 and protocol["drawn"]["guidance"] == [2, 1.0]
    record.unlink()


@pytest.mark.slow
def test_one_line_for_each_mistake(cli, generator_run):
    for field, line in (
        ("num_examples=0", "evaluators.clip_score.num_examples is 0; at least 1"),
        ("file=", "evaluators names clip_score and its field file is empty"),
        ("file=no.safetensors", "clip_score.file=no.safetensors is not there"),
    ):
        words = [
            f"--workdir={generator_run}",
            "--evaluators=clip_score",
            f"--set=clip_score.{field}",
        ]
        status, _, said = cli("evaluate", *words)
        assert status == 2 and line in said.splitlines()[-1], said


def test_a_first_run_asks_no_file():
    assert ClipScoreConfig("clip.safetensors").tiny().file == ""
