"""TiTok beyond its layers: fewer tokens of one network, texts, continuous codes, a proxy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.tokenizers.base import identity
from babeldraw.tokenizers.gaussian import GaussianConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.quantizers import ResidualVQConfig, VQConfig
from babeldraw.tokenizers.titok import GuidanceConfig, TiTokConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig

STACK = TransformerConfig(1, 2, 16, 32, activation="gelu_exact", bias=True)
# A picture wider than high.
CONFIG = TiTokConfig(STACK, STACK, 4, (8, 12), 4, VQConfig(32, 4))
PROXY = ViTVQGANConfig(STACK, STACK, (8, 12), 4, VQConfig(24, 4))
IMAGES = np.random.default_rng(0).random((3, 8, 12, 3), np.float32)
TEXTS = np.random.default_rng(1).normal(size=(3, 5, 7)).astype(np.float32)
KEY = jax.random.key(1)


def made(**section):
    """A tokenizer with such a section, and parameters that are random everywhere."""
    tokenizer = make_tokenizer(dataclasses.replace(CONFIG, **section))
    abstract = jax.eval_shape(lambda key: nn.unbox(tokenizer.init(key)), KEY)
    rng = np.random.default_rng(3)
    draw = lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype)  # noqa: E731
    return tokenizer, jax.tree.map(draw, abstract)


# ------------------------------------------------------------------ one network, several lengths


@pytest.fixture(scope="module")
def nested():
    return made(nested=(1, 2, 4))


@pytest.mark.slow
def test_levels_are_the_first_codes_of_the_whole(nested):
    tokenizer, params = nested
    assert tokenizer.levels == ("4", "2", "1") and tokenizer.at("").codes.length == 4
    codes = tokenizer.encode(params, IMAGES)
    for level in tokenizer.levels:
        few = tokenizer.at(level)
        assert few.codes.shape == (int(level),)
        np.testing.assert_array_equal(few.encode(params, IMAGES), codes[:, : int(level)])
    names = {identity(tokenizer.at(level), params) for level in tokenizer.levels}
    assert len(names) == 3
    with pytest.raises(UserError, match="level is '3'; tokenizer.kind=titok has 4, 2, 1"):
        tokenizer.at("3")


@pytest.mark.slow
def test_training_draws_as_one_of_the_levels_does(nested):
    """What is not seen in training is as if it were not there: a level is the same function."""
    tokenizer, params = nested
    forward = jax.jit(tokenizer.forward)
    drawn = {n: tokenizer.at(n).forward(params, IMAGES).raw for n in tokenizer.levels}
    found = set()
    for seed in range(4):
        raw = forward(params, IMAGES, jax.random.key(seed)).raw
        for index, picture in enumerate(raw):
            distances = {n: np.abs(drawn[n][index] - picture).max() for n in drawn}
            nearest = min(distances, key=distances.get)
            assert distances[nearest] < 1e-5
            found.add(nearest)
    assert found == {*tokenizer.levels}


def test_without_nesting_all_tokens_are_drawn_from_in_training_too():
    tokenizer, params = made()
    assert tokenizer.levels == ("",)
    one, other = (tokenizer.forward(params, IMAGES, key).raw for key in (None, KEY))
    np.testing.assert_allclose(one, other, atol=1e-6)


# ------------------------------------------------------------------ continuous codes, texts


def test_continuous_codes_are_means_and_training_draws_around_them():
    tokenizer, params = made(quantizer=GaussianConfig(4))
    assert tokenizer.codes.each == (4, 4) and tokenizer.codes.dtype == np.float32
    still, moved = (tokenizer.forward(params, IMAGES, key) for key in (None, KEY))
    codes = tokenizer.encode(params, IMAGES)
    np.testing.assert_allclose(still.codes, codes, atol=1e-6)
    np.testing.assert_allclose(moved.codes, codes, atol=1e-6)
    assert np.abs(moved.raw - still.raw).max() > 1e-2
    images = tokenizer.decode(params, codes)
    np.testing.assert_allclose(images, jnp.clip(still.raw, 0, 1), atol=1e-5)


def test_the_divergence_is_that_of_a_normal_distribution():
    z = np.random.default_rng(5).normal(size=(2, 3, 8)).astype(np.float32)
    mean, log_variance = z[..., :4].astype(np.float64), z[..., 4:].astype(np.float64)
    each = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    module = GaussianConfig(4).make()
    np.testing.assert_allclose(module.apply({}, z).terms["kl"], each.sum() / 2, rtol=1e-5)
    drawn = [module.apply({}, z, rngs={"codes": jax.random.key(seed)}).codes for seed in range(400)]
    deviation = np.std(drawn, axis=0) / np.exp(0.5 * log_variance)
    np.testing.assert_allclose(deviation.mean(), 1, atol=0.02)


@pytest.mark.slow
def test_a_text_changes_what_is_drawn_and_not_the_codes():
    tokenizer, params = made(text=GuidanceConfig(5, 7))
    codes = tokenizer.encode(params, IMAGES)
    one, other = (tokenizer.decode(params, codes, text) for text in (TEXTS, TEXTS[::-1]))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)
    loss = lambda text: tokenizer.forward(params, IMAGES, condition=text).raw.sum()  # noqa: E731
    assert np.abs(jax.grad(loss)(TEXTS)).max(axis=(1, 2)).min() > 0
    with pytest.raises(UserError, match=r"draws by states of a text, \(5, 7\) of each pict"):
        tokenizer.decode(params, codes)
    with pytest.raises(UserError, match="a text is given and the decoder of tokenizer.kind=titok"):
        made()[0].decode(params, codes, TEXTS)


# ------------------------------------------------------------------ through another's decoder


@pytest.mark.slow
def test_sure_logits_draw_what_the_proxy_draws_of_those_codes():
    proxy = make_tokenizer(PROXY)
    params = nn.unbox(jax.jit(proxy.init)(KEY))
    codes = np.random.default_rng(2).integers(0, 24, (2, 6))
    raw = jax.jit(proxy.draw_mean)(
        proxy.part(params, ("quantizer", "decoder")), np.eye(24, dtype=np.float32)[codes]
    )
    expected = jax.jit(proxy.decode)(params, codes)
    np.testing.assert_allclose(jnp.clip(proxy.to_images(raw), 0, 1), expected, atol=1e-5)


@pytest.mark.slow
def test_the_second_stage_has_the_proxy_s_parameters_and_the_first_has_not():
    (first, _), (second, params) = (made(proxy=PROXY, through_proxy=it) for it in (False, True))
    assert not first.draws and second.draws and second.needs == {}
    assert {*first.needs} == {"proxy"} and first.last == ()
    proxy = jax.eval_shape(make_tokenizer(PROXY).init, KEY)
    groups = make_tokenizer(PROXY).groups
    assert {*params["pixels"]} == {*groups["quantizer"], *groups["decoder"]} < {*proxy}
    # Of the decoder, so that its training trains them too.
    assert "pixels" in second.groups["decoder"] and "pixels" not in first.groups["decoder"]
    assert first.code_fields == second.code_fields
    with pytest.raises(UserError, match="trained on a proxy's codes and draws no pictures; train"):
        first.decode(params, np.zeros((1, 4), np.int32))


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"image_size": (8, 10)}, r"image_size is \(8, 10\), which patch_size=4 does not divide"),
        ({"tokens": 0}, "tokenizer.tokens is 0; at least 1 is needed"),
        ({"nested": (2, 1, 4)}, r"nested is \(2, 1, 4\); ascending numbers of tokens are needed"),
        ({"nested": (1, 2)}, r"nested is \(1, 2\); .*the last of them tokens=4"),
        ({"through_proxy": True}, "through_proxy is True and tokenizer.proxy is None"),
        (
            {"proxy": dataclasses.replace(PROXY, patch_size=2)},
            r"kind=vit_vqgan makes \(4, 6\) codes of \(8, 12\) px, and tokenizer.patch_size=4 \(2,",
        ),
        (
            {"proxy": dataclasses.replace(PROXY, quantizer=ResidualVQConfig(8, 4, 2))},
            r"kind=vit_vqgan has the factors \(8, 8\) at each place; a proxy has one",
        ),
        ({"text": GuidanceConfig(77, 768), "tokens": -1}, "tokenizer.tokens is -1"),
    ],
)
def test_a_mistake_is_one_line(section, line):
    with pytest.raises(UserError, match=line):
        dataclasses.replace(CONFIG, **section)
