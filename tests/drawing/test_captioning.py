"""Captioning is drawing a text: what the full forward would say, and what the command writes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.image import save_png
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.coca import Captioner, CoCaConfig
from babeldraw.objectives.contrastive_captioner import caption_losses
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.prediction.next_token import NextToken
from tests import networks

STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32)
CAPTIONER = Captioner(CoCaConfig(STACK, STACK, STACK, (8, 8), 4, 20, 5, queries=3, embedding_dim=8))
IMAGES = jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 3)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    return networks.random_params(CAPTIONER)


def test_stepping_is_the_full_forward(params):
    text = jnp.asarray(np.random.default_rng(1).integers(1, 20, (3, 5)), jnp.int32)
    full = jax.jit(CAPTIONER.logits)(params, IMAGES, text)

    @jax.jit
    def run(params, images, text):
        def step(cache, t):
            before = text[:, jnp.maximum(t - 1, 0)]
            found, cache = networks.step(CAPTIONER, params, before, t, cache)
            return cache, found

        cache = networks.start(CAPTIONER, params, images)
        return jax.lax.scan(step, cache, jnp.arange(5))[1].swapaxes(0, 1)

    found = run(CAPTIONER.for_decoding(params), IMAGES, text)
    np.testing.assert_allclose(found, full, atol=1e-5, rtol=1e-5)


def test_nothing_is_drawn_behind_the_end(params):
    # The end is a fifth of what is likely, so that some rows have one early.
    flat = jax.tree.map(lambda a: a, params)
    weight = flat["multimodal"]["logits"]["weight"]
    flat["multimodal"]["logits"]["weight"] = weight * 0.05
    keys = jax.random.split(jax.random.key(0), 60)
    draw = jax.jit(lambda *inputs: NextToken().draw(CAPTIONER, *inputs, guided=False))
    tokens = np.asarray(draw(flat, IMAGES, keys, SamplingConfig().traced()))
    ended = (tokens[:, :-1] == 0).any(axis=1)
    assert 0 < ended.sum() < 60
    for row in tokens:
        first = np.flatnonzero(row == 0)
        assert first.size == 0 or not row[first[0] :].any()


@pytest.mark.slow
def test_its_score_is_the_loss_that_it_was_trained_by(params):
    text = jnp.array([[3, 5, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]], jnp.int32)
    expected = caption_losses(CAPTIONER.logits(params, IMAGES, text), text)
    found = NextToken().score(CAPTIONER, params, IMAGES, text)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    loss, metrics = NextToken().loss(CAPTIONER, params, IMAGES, text, None, None)
    # Three, five and one places are counted.
    np.testing.assert_allclose(loss, np.average(expected, weights=[3, 5, 1]), atol=1e-5)
    assert 0 <= metrics["accuracy"] <= 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        save_png(folder / f"{number}.png", shapes.pair_example(number, "test", 32, 0)[0])
    (folder / "3.png").write_text("no picture")
    return folder


@pytest.mark.slow
def test_pictures_are_told_whatever_the_batch(coca_run, pictures):
    run = CaptionerRun.open(str(coca_run))
    images = [shapes.pair_example(number, "test", 32, 0)[0] for number in range(3)]
    settings = SamplingConfig(temperature=1.0)
    one, other = ([*run.caption(images, 2, 5, settings, batch_size=size)] for size in (1, 8))
    assert [c.seed for c in one] == [5, 6] * 3
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        assert a.text == b.text and a.score == pytest.approx(b.score, abs=1e-4) and a.score < 0
    with pytest.raises(UserError, match="seed is 5000000000; 0 to 2147483647 is needed"):
        next(run.caption(images, seed=5_000_000_000))
    with pytest.raises(UserError, match="guidance is 2.0 and config.condition.dropout 0"):
        next(run.caption(images, settings=SamplingConfig(guidance=2.0)))


@pytest.mark.slow
def test_the_command_writes_a_line_per_caption(cli, coca_run, pictures, tmp_path):
    out = tmp_path / "new" / "captions.jsonl"
    words = [f"--workdir={coca_run}", f"--path={pictures}", "--num=2", "--temperature=0.7"]
    status, _, said = cli("caption", *words, f"--out={out}")
    assert status == 0 and "left out: " in said and "6 captions in" in said
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["file"] for line in lines] == [
        str(pictures / f"{number}.png") for number in range(3) for _ in range(2)
    ]
    status, printed, _ = cli("caption", words[0], f"--image={pictures / '0.png'}")
    assert status == 0 and printed.startswith(f"{pictures / '0.png'}: ")


PICTURE = "--image=docs/images/editing.png"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "there is no picture; give --image, or --path with some in it"),
        (["--path=nowhere"], "--path=nowhere is no folder"),
        (["--image=nowhere.png"], "--image=nowhere.png is no file; give pictures"),
        ([PICTURE, "--seed=5000000000"], "seed is 5000000000; 0 to 2147483647 is needed"),
        ([PICTURE, "--top_p=2"], "top_p is 2.0; a mass in (0, 1] is needed"),
    ],
)
def test_what_cannot_be_told_is_one_line(cli, coca_run, words, line):
    status, _, said = cli("caption", f"--workdir={coca_run}", *words)
    assert status == 2 and line in said.splitlines()[-1]


def test_a_run_of_another_kind_is_refused(tokenizer_run):
    with pytest.raises(UserError, match="; name one of contrastive_captioner or generator"):
        CaptionerRun.open(str(tokenizer_run))
