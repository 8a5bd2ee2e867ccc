"""The stack: the same function of its weights whether scanned, written out, cut or recomputed."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.block import ComputeConfig, TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.dropout import dropout, example_keys
from babeldraw.layers.linear import Einsum
from babeldraw.layers.stack import POLICIES, Stack, per_layer, unstack
from babeldraw.sharding.context import PerExample

LAYERS, B, T, D = 3, 2, 4, 8
RNG = np.random.default_rng(0)
X, BESIDE = (jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32) for _ in range(2))
CONTEXT = PerExample(BESIDE)
KEYS = example_keys(jax.random.key(7), B)
WAYS = [(scan, remat) for scan in (True, False) for remat in POLICIES]


class Block(nn.Module):
    """x + dropout(tanh(x W + context)), small so that many ways compile fast."""

    @nn.compact
    def __call__(self, x, context, keys=None):
        y = jnp.tanh(Einsum("BTD,DF->BTF", (D, D), ("embed", "mlp"), bias=True)(x) + context)
        return x + dropout(y, 0.3, keys, 0)


class Binary(nn.Module):
    """2 x + 0 or 2: the bits of the sum tell each layer's dropout mask, the last layer's lowest."""

    @nn.compact
    def __call__(self, x, context, keys=None):
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        ones = jnp.ones_like(x) + jnp.broadcast_to(self.param("zero", zeros, x.shape[-1:]), x.shape)
        return 2 * x + dropout(ones, 0.5, keys, 0)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(Stack(Block, LAYERS).init(jax.random.key(0), X, CONTEXT))["params"]


def output(params, scan=True, remat="none", deterministic=True):
    stack = Stack(Block, LAYERS, scan, remat)
    keys = None if deterministic else KEYS
    return stack.apply({"params": params}, X, CONTEXT, keys=keys)


def value_and_grad(params, scan, remat, deterministic):
    def loss(params, x):
        stack = Stack(Block, LAYERS, scan, remat)
        y = stack.apply({"params": params}, x, CONTEXT, keys=None if deterministic else KEYS)
        return jnp.mean(jnp.square(y))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, X)


def assert_trees_close(a, b, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), a, b)


def layer_masks(num_layers, scan, remat="none", key=7):
    stack = Stack(Binary, num_layers, scan, remat)
    x = jnp.zeros((4, 16))
    params = stack.init(jax.random.key(0), x)
    keys = example_keys(jax.random.key(key), x.shape[0])
    bits = np.asarray(stack.apply(params, x, keys=keys)).astype(int) // 2
    return [bits >> (num_layers - 1 - layer) & 1 for layer in range(num_layers)]


def test_parameters_of_the_layers_are_stacked_named_and_different():
    boxed = Stack(Block, LAYERS).init(jax.random.key(0), X, CONTEXT)["params"]["blocks"]
    weight = boxed["Einsum_0"]["weight"]
    assert weight.names == ("layers", "embed", "mlp")
    assert weight.unbox().shape == (LAYERS, D, D)
    assert np.unique(np.asarray(weight.unbox()), axis=0).shape[0] == LAYERS


def test_it_applies_its_blocks_one_after_another(params):
    expected = X
    for layer in per_layer(params["blocks"], LAYERS):
        expected = Block().apply({"params": layer}, expected, BESIDE)
    for scan in (True, False):
        np.testing.assert_allclose(output(params, scan), expected, atol=1e-5)
        np.testing.assert_allclose(output(unstack(params), scan), expected, atol=1e-5)


def test_a_context_says_whose_it_is(params):
    with pytest.raises(TypeError, match="say of this context whose it is: float32"):
        Stack(Block, LAYERS).apply({"params": params}, X, BESIDE)


def test_the_order_of_layers_matters(params):
    turned = jax.tree.map(lambda p: p[::-1], params)
    assert np.abs(output(turned) - output(params)).max() > 1e-2


@pytest.mark.parametrize("deterministic", [True, False], ids=["plain", "dropout"])
@pytest.mark.parametrize(("scan", "remat"), WAYS[1:])
def test_every_way_has_the_same_value_and_gradient(params, scan, remat, deterministic):
    expected = value_and_grad(params, *WAYS[0], deterministic)
    assert_trees_close(value_and_grad(params, scan, remat, deterministic), expected, 1e-5)


def test_dropout_needs_the_key_and_follows_it(params):
    assert np.abs(output(params, deterministic=False) - output(params)).max() > 1e-2
    again = output(params, deterministic=False)
    np.testing.assert_array_equal(again, output(params, deterministic=False))
    stack = Stack(Block, LAYERS)
    keys = example_keys(jax.random.key(8), B)
    other = stack.apply({"params": params}, X, CONTEXT, keys=keys)
    assert np.abs(other - again).max() > 1e-2


def test_dropout_of_cut_parameters_is_the_same(params):
    np.testing.assert_allclose(
        output(unstack(params), deterministic=False), output(params, deterministic=False), atol=1e-5
    )


@pytest.mark.parametrize(("scan", "remat"), WAYS)
def test_each_layer_drops_something_else(scan, remat):
    masks = layer_masks(3, scan, remat)
    for i, mask in enumerate(masks):
        assert 0.2 < mask.mean() < 0.8
        np.testing.assert_array_equal(mask, layer_masks(3, True)[i])
        assert all((mask != other).mean() > 0.2 for other in masks[:i])


def test_what_a_layer_drops_depends_on_key_and_layer_alone():
    np.testing.assert_array_equal(layer_masks(3, True)[:2], layer_masks(2, True))
    assert (layer_masks(2, True)[0] != layer_masks(2, True, key=8)[0]).mean() > 0.2


def test_unstack_cuts_every_stack_and_nothing_else(params):
    tree = {"a": {"stack": params, "table": X}, "b": params}
    cut = unstack(tree)
    assert cut["a"]["table"] is X
    for blocks in (cut["a"]["stack"]["blocks"], cut["b"]["blocks"]):
        assert isinstance(blocks, tuple) and len(blocks) == LAYERS
        for index, block in enumerate(blocks):
            jax.tree.map(
                lambda one, whole, index=index: np.testing.assert_array_equal(one, whole[index]),
                block,
                params["blocks"],
            )
    assert jax.tree.structure(unstack(cut)) == jax.tree.structure(cut)


@pytest.mark.parametrize(("remat", "kept"), [("context", 1), ("outputs", 2)])
def test_a_policy_of_names_saves_what_it_names_and_no_more(remat, kept):
    config = TransformerConfig(
        blocks=2, heads=2, dim=D, hidden=4 * D, compute=ComputeConfig(remat=remat)
    )
    stack = make_stack(encoder_parts(config), config)
    params = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), X))

    def residuals(policy):
        way = dataclasses.replace(stack, remat=policy)
        _, pull = jax.eval_shape(lambda p: jax.vjp(lambda p: way.apply(p, X), p), params)
        sizes = [leaf.size for leaf in jax.tree.leaves(pull) if leaf.ndim >= 3]
        return sum(size == 2 * X.size for size in sizes)

    # Besides the input of each block. No gradient needs what the feed-forward adds at the end.
    assert residuals(remat) - residuals("full") == kept
