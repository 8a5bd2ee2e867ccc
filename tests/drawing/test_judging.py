"""Scores of pictures: what they hang on, and what is refused."""

import jax
import numpy as np
import pytest

from babeldraw.drawing.captioner_judge import CaptionerJudge
from babeldraw.drawing.judging import best, open_judge
from babeldraw.drawing.text_judge import BATCH_SIZE
from babeldraw.errors import UserError
from babeldraw.models.condition import Asked, Lexicon
from babeldraw.models.conditions import ClassCondition, TextCondition

PROMPT, OTHER = (
    "a small red circle on a white background",
    "a large blue ring on a black background",
)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def scorer(coca_run):
    return open_judge(str(coca_run))


def texts(*words):
    return [Asked(word, None, text=word) for word in words]


def pictures(count, side=32):
    return RNG.random((count, side, side, 3), dtype=np.float32)


def test_a_score_is_the_cosine_of_the_two_embeddings(scorer):
    images = pictures(3)
    scores = scorer.score(images, texts(PROMPT, OTHER, ""))
    assert scores.shape == (3,) and scores.dtype == np.float32
    text = scorer.vocabulary.encode([PROMPT, OTHER, ""], scorer.captioner.config.text_length)
    image_BQ = np.asarray(jax.jit(scorer.captioner.embed_images)(scorer.params, images))
    text_BQ = np.asarray(jax.jit(scorer.captioner.embed_text)(scorer.params, text))
    np.testing.assert_allclose(scores, np.sum(image_BQ * text_BQ, axis=1), atol=1e-5)


def test_another_picture_or_prompt_has_another_score(scorer):
    images = pictures(2)
    scores = scorer.score(np.repeat(images, 2, axis=0), texts(PROMPT, OTHER) * 2)
    assert len({float(score) for score in scores}) == 4


def test_a_score_hangs_on_its_own_pair_alone(scorer):
    images, prompts = pictures(BATCH_SIZE + 3), texts(PROMPT, OTHER) * BATCH_SIZE
    scores = scorer.score(images, prompts[: len(images)])
    assert scores.shape == (BATCH_SIZE + 3,)
    np.testing.assert_allclose(scorer.score(images[-1:], texts(PROMPT)), scores[-1:], atol=1e-5)
    assert scorer.score(images[:0], []).shape == (0,)


def test_a_larger_picture_is_made_smaller(scorer):
    small = pictures(1)
    # Each pixel four times: the same picture.
    large = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2)
    scores = scorer.score(large, texts(PROMPT))
    assert np.all(np.abs(scores) <= 1 + 1e-5)
    size = (1, *scorer.captioner.config.image_size, 3)
    reduced = np.asarray(jax.image.resize(large, size, "bilinear", antialias=True))
    np.testing.assert_allclose(scorer.score(reduced, texts(PROMPT)), scores, atol=1e-5)


def test_the_best_come_first_and_equals_in_order():
    scores = np.array([0.1, 0.7, -0.2, 0.7], np.float32)
    np.testing.assert_array_equal(best(scores, 1), [1])
    np.testing.assert_array_equal(best(scores, 4), [1, 3, 0, 2])
    for keep in (0, 5):
        with pytest.raises(UserError, match=f"keep is {keep} of 4 pictures; .* from 1 to 4"):
            best(scores, keep)


def test_prompts_that_are_cut_are_told(scorer):
    long = " ".join([PROMPT] * 9)
    assert scorer.notes(*texts(PROMPT)) == ()
    (note,) = scorer.notes(*texts(long))
    assert f"reads {scorer.captioner.config.text_length} of the" in note


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (pictures(2), texts(PROMPT), "images and texts to score are 2 and 1"),
        (pictures(1)[0], texts(PROMPT), r"have shape \(32, 32, 3\) and type float32; \[B"),
        (np.zeros((1, 32, 32, 3), np.int32), texts(PROMPT), "type int32; "),
    ],
)
def test_what_cannot_be_scored_is_named(scorer, images, prompts, message):
    with pytest.raises(UserError, match=message):
        scorer.score(images, prompts)


def test_a_run_of_another_kind_is_refused(tokenizer_run, tmp_path):
    with pytest.raises(UserError, match="is a run of image_tokenizer; a judge is one of contrast"):
        open_judge(str(tokenizer_run))
    with pytest.raises(UserError, match="is a run of image_tokenizer; name one of contrastive_cap"):
        CaptionerJudge.open(str(tokenizer_run))
    with pytest.raises(UserError, match=str(tmp_path)):
        open_judge(str(tmp_path / "nowhere"))


def test_what_a_judge_cannot_judge_is_told(scorer):
    scorer.check(TextCondition(), Lexicon())
    with pytest.raises(
        UserError, match="judges what is drawn from texts and the run draws from a c"
    ):
        scorer.check(ClassCondition(3), Lexicon())


def test_the_command_says_what_does_not_fit(cli, tmp_path):
    words = ["train", "--config=configs/demo/coca.py:runlocal", f"--workdir={tmp_path / 'run'}"]
    for change, message in {
        "train.accumulation=2": "config.train.accumulation is 2; the contrastive loss",
        "train.batch_size=1": "config.train.batch_size is 1; the contrastive loss needs other",
        "data.source=tokens": "config.data.source is 'tokens', which hold no pictures",
        "model.queries=0": "model.queries is 0; at least 1",
    }.items():
        status, _, said = cli(*words, f"--config.{change}")
        assert status == 2 and message in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
