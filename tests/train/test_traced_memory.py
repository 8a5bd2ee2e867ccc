"""What a program holds at once by its trace, against small sums by hand."""

import jax
import jax.numpy as jnp
import pytest

from babeldraw.train.traced_memory import held_at_most

X = jax.ShapeDtypeStruct((3, 5), jnp.float32)
BYTES = 3 * 5 * 4


def held(fn, *args, **options):
    return held_at_most(fn, *args, **{"weights": {}, **options})


def test_an_array_is_there_until_it_is_last_read():
    def chain(x):
        y = jnp.sin(x)
        z = jnp.cos(y)
        return jnp.tanh(z)

    # Never more than two of the three at once.
    assert held(chain, X).total == 2 * BYTES

    def kept(x):
        y = jnp.sin(x)
        z = jnp.cos(y)
        return jnp.tanh(z) * y

    # All of y, z and tanh(z), and then y, tanh(z) and the product.
    assert held(kept, X).total == 3 * BYTES


def test_another_shape_is_the_same_array_and_a_spread_value_is_none():
    def fn(x):
        y = jnp.reshape(jnp.sin(x), (5, 3))
        spread = jnp.broadcast_to(jnp.float32(2), (5, 3))
        return jnp.tanh(jnp.cos(y)) * y * spread

    assert held(fn, X).total == 3 * BYTES


@pytest.mark.parametrize(("remat", "arrays"), [(False, 2), (True, 1)])
def test_a_layer_keeps_what_its_backward_pass_reads(remat, arrays):
    """x and the cosine of each layer; with remat x alone. Of weights the gradient."""
    examples, dim = 6, 4

    def of_layers(number):
        def loss(w, x):
            def layer(x, w):
                return jnp.sin(x @ w), None

            return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, w)[0])

        w = jax.ShapeDtypeStruct((number, dim, dim), jnp.float32)
        x = jax.ShapeDtypeStruct((examples, dim), jnp.float32)
        return held(jax.grad(loss), w, x, weights={w.shape: 1.0})

    few, many = of_layers(10), of_layers(30)
    assert many.others - few.others == 20 * arrays * examples * dim * 4
    assert many.weights - few.weights == 20 * dim * dim * 4


def test_an_optimizer_works_in_place_and_weights_count_by_their_share():
    def step(w, moment, x):
        gradient = jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)
        moment = 0.9 * moment + gradient
        return w - 0.1 * jnp.sqrt(jnp.square(moment)), moment

    w = jax.ShapeDtypeStruct((5, 7), jnp.float32)
    for part in (1.0, 0.25):
        found = held(step, w, w, X, weights={w.shape: part}, share=0.0)
        assert (found.weights, found.others) == (part * 5 * 7 * 4, 0)


def test_of_branches_the_larger_counts():
    def fn(large, x):
        return jax.lax.cond(large, lambda x: jnp.tanh(jnp.sin(x)) * x, lambda x: x, x)

    bool_ = jax.ShapeDtypeStruct((), jnp.bool_)
    found = held(fn, bool_, X).total
    # Two at once, beside the branch's number.
    assert 2 * BYTES <= found <= 2 * BYTES + 8
