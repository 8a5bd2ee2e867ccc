"""CLIP as a judge: what its score is, what it is opened from, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from babeldraw.data.clip_words import OPENAI
from babeldraw.drawing.clip_judge import CLIPJudge
from babeldraw.drawing.judging import open_judge
from babeldraw.drawing.text_judge import BATCH_SIZE
from babeldraw.errors import UserError
from babeldraw.judges.clip import CLIP, prepared
from babeldraw.models.condition import Asked, Lexicon
from babeldraw.models.conditions import ClassCondition
from tests.clip_file import SMALL, clip_file

RNG = np.random.default_rng(0)


@pytest.fixture
def file(tmp_path, monkeypatch):
    return clip_file(tmp_path, monkeypatch)


def texts(*words):
    return [Asked(word, None, text=word) for word in words]


@pytest.mark.slow
def test_a_score_is_the_cosine_of_the_two_embeddings(file):
    judge = open_judge(str(file))
    images = RNG.integers(0, 256, (BATCH_SIZE + 1, 30, 40, 3), np.uint8)
    words = ["a red circle", "blue", ""] * BATCH_SIZE
    scores = judge.score(images, texts(*words[: len(images)]))
    ids = judge.words.encode(words[: len(images)], SMALL.length)
    pair = jax.jit(CLIP(SMALL).apply)({"params": judge.params}, prepared(images), ids)
    image_BE, text_BE = (np.asarray(x, np.float64) for x in pair)
    lengths = np.linalg.norm(image_BE, axis=1) * np.linalg.norm(text_BE, axis=1)
    np.testing.assert_allclose(scores, (image_BE * text_BE).sum(1) / lengths, atol=1e-5)
    assert np.ptp(scores) > 1e-3


def test_a_text_that_is_cut_is_told(file):
    judge = CLIPJudge.open(str(file))
    # "red" is one token, and two marks stand about a text.
    assert judge.notes(*texts("red " * (SMALL.length - 2))) == ()
    (note,) = judge.notes(*texts("red " * (SMALL.length - 1)))
    assert f"reads {SMALL.length - 2} of the {SMALL.length - 1} tokens" in note
    with pytest.raises(UserError, match="^CLIP judges what is drawn from texts and the run dr"):
        judge.check(ClassCondition(3), Lexicon())


def test_what_is_no_clip_is_one_line(file, tmp_path):
    held = load_file(file)

    def fails(told):
        with pytest.raises(UserError, match=told):
            open_judge(str(file))

    (tmp_path / OPENAI).rename(tmp_path / "elsewhere")
    fails(r"holds neither merges.txt nor bpe_simple_vocab_16e6.txt.gz, CLIP's words; copy one")
    (tmp_path / "elsewhere").rename(tmp_path / OPENAI)
    short = {name: x for name, x in held.items() if name != "clip/text/norm/scale"}
    save_file(short, file, {"kind": "clip_b32"})
    fails(r"^judge=.* holds no clip/text/norm/scale of shape \(16,\)$")
    save_file(held, file, {"kind": "vgg_lpips"})
    fails(r"^judge=.* holds weights of vgg_lpips; name a file that `babeldraw import` wrote of one")
    save_file(held, file)
    fails("holds weights of no named kind")
    # The real network, whose words are more.
    save_file(held, file, {"kind": "clip_l14"})
    fails("CLIP's words beside .* are 516 and the network has 49408: they are of another vocab")
    file.write_text("nothing")
    fails(r"^judge=.* is no safetensors file: ")
    file.unlink()
    fails(r"^judge=.*clip.safetensors is not there$")


@pytest.mark.slow
def test_the_best_are_kept_by_clip(cli, generator_run, file, tmp_path):
    words = [f"--workdir={generator_run}", "--prompt=a small red circle", "--num=4", "--keep=2"]
    status, _, said = cli("sample", *words, f"--judge={file}", f"--out={tmp_path / 'best'}")
    assert status == 0, said
    lines = (tmp_path / "best" / "manifest.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["score"] >= second["score"] and first["judge"] == str(file)
