"""Post-selection: the picture whose text is the likeliest comes first; the sign is a test."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.drawing.judging import best
from babeldraw.drawing.teller_judge import TellerJudge
from babeldraw.errors import UserError
from babeldraw.models.coglm_captioner import captioner_of
from babeldraw.models.condition import Asked
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.prediction.next_token import NextToken
from babeldraw.runs.folder import RunFolder
from tests.models.test_coglm import NETWORK, PICTURES, S, params

CAPTIONER = captioner_of(NETWORK)


def encode(_, images):
    """A code a pixel: a picture of 2 x 3 pixels, of which red counts in sixteenths."""
    return jnp.round(images[..., 0] * 16).reshape(len(images), -1).astype(jnp.int32)


TOKENIZER = types.SimpleNamespace(image_size=(2, 3), encode=encode)
WORDS = types.SimpleNamespace(
    encode=lambda texts, length: np.array(
        [([int(w) for w in text.split()] + [0] * length)[:length] for text in texts], np.int32
    ),
    lengths=lambda texts: [len(text.split()) for text in texts],
    knows=lambda text: text.replace(" ", "").isdigit() or not text,
)


@pytest.fixture(scope="module")
def judge():
    parts = {"generator": params(), "tokenizer": None}
    return TellerJudge(CAPTIONER, TOKENIZER, parts, WORDS)


def perplexity(text):
    """Of each picture, by each piece and the end."""
    ids = jnp.broadcast_to(jnp.array(text, jnp.int32), (3, S))
    nll = np.asarray(jax.jit(functools.partial(NETWORK._call, "told_nll"))(params(), PICTURES, ids))
    counted = min(S, np.count_nonzero(text) + 1)
    return np.exp(nll[0][:, :counted].mean(axis=1))


@pytest.mark.parametrize("text", [[5, 3, 8, 2], [7, 1, 0, 0]])
def test_the_lowest_perplexity_comes_first(judge, text):
    images = np.zeros((3, 2, 3, 3), np.float32)
    images[..., 0] = np.asarray(PICTURES).reshape(3, 2, 3) / 16
    words = " ".join(str(piece) for piece in text if piece)
    scores = judge.score(images, [Asked(words, None, text=words)] * 3)
    expected = perplexity(text)
    np.testing.assert_allclose(np.exp(-scores), expected, rtol=1e-4)
    assert np.unique(expected.round(3)).size == 3
    assert best(scores, 1)[0] == expected.argmin()
    np.testing.assert_array_equal(best(scores, 3), np.argsort(expected))


def test_a_text_that_it_cannot_tell_is_said(judge):
    assert judge.notes(Asked("5 3", None, text="5 3")) == ()
    (note,) = judge.notes(Asked("", None, text=""))
    assert "an empty prompt is never told" in note
    (note,) = judge.notes(Asked("1", None, text=" 1" * (S + 1)))
    assert f"the judge reads {S} of the {S + 1} tokens" in note
    with pytest.raises(UserError, match="most letters of the prompt 'rot' are not in the judge's"):
        judge.notes(Asked("rot", None, text="rot"))


def test_a_text_is_told_to_its_end_and_scored_as_it_was_drawn():
    keys = jax.random.split(jax.random.key(0), 12)
    draw = jax.jit(functools.partial(NextToken().draw, CAPTIONER, guided=False))
    text = np.asarray(draw(params(), PICTURES, keys, SamplingConfig().traced()))
    assert text.shape == (12, S) and text.min() >= 0 and text.max() < 20
    for row in text:
        first = np.flatnonzero(row == 0)
        assert first.size == 0 or not row[first[0] :].any()
    with pytest.raises(ValueError, match="trained by its generator's prediction"):
        CAPTIONER.nll(params(), PICTURES, text[:3], keys)


def test_a_run_that_tells_nothing_is_told_before_its_weights_are_read(runlocal, tmp_path):
    RunFolder.of(str(tmp_path)).write_config(runlocal("emoji/refiner.py").to_dict())
    with pytest.raises(UserError, match="config.model.kind=refiner, which tells no pictures; name"):
        TellerJudge.open(str(tmp_path))
