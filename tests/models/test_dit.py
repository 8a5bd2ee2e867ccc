"""DiT: begins as nothing, reads its condition once, serves grids and lines, refuses what it cannot.

Against the published module it is held in tests/convert/test_dit.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.conditions import ClassCondition, NoCondition, TextCondition
from babeldraw.models.dit import DiTConfig, DiTGenerator
from babeldraw.models.kinds import make_generator
from babeldraw.tokenizers.base import Codes
from babeldraw.train.traced_flops import traced_flops
from tests.networks import abstract_params, random_params

STACK = TransformerConfig(
    2, 2, 16, 32, activation="gelu", bias=True, compute=ComputeConfig(scan=False)
)
LINE, GRID = Codes((5,), (), 3), Codes((4, 6), (), 3)
TEXT = DiTGenerator(DiTConfig(STACK, 1, encoder=STACK), TextCondition(20, 6), LINE)
CLASS = DiTGenerator(DiTConfig(STACK), ClassCondition(7, 0.1), GRID)
RNG = np.random.default_rng(0)


def noisy(codes, rows=2):
    return jnp.float32(RNG.normal(size=(rows, *codes.each)))


@pytest.fixture(scope="module")
def text_params():
    return random_params(TEXT)


@pytest.mark.slow
def test_it_begins_by_saying_nothing():
    params = jax.jit(CLASS.init)(jax.random.key(0))
    params = jax.tree.map(lambda box: box.unbox(), params, is_leaf=lambda x: hasattr(x, "unbox"))
    found = jax.jit(CLASS.predicted)(params, jnp.int32([0, 1]), noisy(GRID), jnp.ones(2))
    assert found.shape == (2, 4, 6, 3) and not found.any()


def test_what_is_read_once_is_what_training_reads(text_params):
    text, x, time = jnp.int32([[1, 2, 3, 0, 0, 0], [4] * 6]), noisy(LINE), jnp.float32([3, 700])
    whole = jax.jit(TEXT.predicted)(text_params, text, x, time)

    @jax.jit
    def in_two(params):
        context = TEXT.read(params, text)
        return TEXT.denoise(TEXT.for_decoding(params), context, x, time)

    np.testing.assert_allclose(in_two(text_params), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_every_place_hears_of_all_that_it_depends_on(text_params):
    """Of the text, the time and every other place; by gradients."""

    @jax.jit
    def slopes(text_BSD, time, x):
        def first(text_BSD, time, x):
            context = {**TEXT.read(text_params, jnp.ones((1, 6), jnp.int32)), "text": text_BSD}
            return TEXT.denoise(text_params, context, x, time)[0, 0, 0]

        return jax.grad(first, argnums=(0, 1, 2))(text_BSD, time, x)

    text, time, x = slopes(jnp.ones((1, 6, 16)), jnp.float32([10]), noisy(LINE, 1))
    assert jnp.all(jnp.any(text != 0, axis=-1)) and time[0] != 0
    assert jnp.all(jnp.any(x != 0, axis=-1))


def test_one_set_of_weights_serves_any_grid():
    other = dataclasses.replace(CLASS, codes=Codes((8, 2), (), 3))
    assert abstract_params(CLASS) == abstract_params(other)
    shape = jax.eval_shape(
        other.predicted, abstract_params(CLASS), jnp.int32([0]), jnp.ones((1, 8, 2, 3)), jnp.ones(1)
    )
    assert shape.shape == (1, 8, 2, 3)


@pytest.mark.parametrize("generator", [CLASS, TEXT], ids=["class", "text"])
def test_its_operations_are_those_that_are_traced(generator):
    condition = generator.condition.of_batch(
        {n: jnp.zeros(s.shape, s.dtype) for n, s in generator.condition.spec(1).items()}
    )
    found = traced_flops(
        lambda params, x, time: generator.predicted(params, condition, x, time),
        abstract_params(generator),
        jax.ShapeDtypeStruct((1, *generator.codes.each), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
    )
    assert sum(number for number, _ in generator.flops().values()) == found


@pytest.mark.parametrize(
    ("config", "condition", "codes", "message"),
    [
        (
            {},
            NoCondition(),
            Codes((4, 4), (16,)),
            "codes are discrete and config.model.kind=dit denoises continuous ones",
        ),
        ({}, NoCondition(), LINE, "patch_size is 2 and the tokenizer's codes lie in one dimension"),
        ({"patch_size": 3}, NoCondition(), GRID, "patch_size is 3, which does not divide .* 4 x 6"),
        ({"encoder": STACK}, NoCondition(), GRID, "encoder is set and config.condition.kind=noth"),
    ],
)
def test_what_it_cannot_do_is_said(config, condition, codes, message):
    with pytest.raises(UserError, match=message):
        make_generator(DiTConfig(STACK, **config), condition, codes)


def test_wrong_fields_are_said():
    with pytest.raises(UserError, match="config.model.patch_size is 0; at least 1"):
        DiTConfig(STACK, patch_size=0)
    with pytest.raises(UserError, match="config.model.stack.dim is 18; sines need"):
        DiTConfig(dataclasses.replace(STACK, dim=18))
    with pytest.raises(UserError, match="encoder.dim is 32 and stack.dim 16"):
        DiTConfig(STACK, encoder=dataclasses.replace(STACK, dim=32))
