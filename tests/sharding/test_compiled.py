"""What the TPU's own compiler makes of a layout: read from the compiled program, not from us."""

import dataclasses
import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from babeldraw.errors import UserError
from babeldraw.estimate.aot import topology_devices
from babeldraw.estimate.program import collectives
from babeldraw.layers.block import ComputeConfig, TransformerConfig, decoder_parts, make_stack
from babeldraw.layers.masks import Causal, padding_mask
from babeldraw.sharding.constraint import logical_axes, shardings
from babeldraw.sharding.context import PerExample
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'babeldraw[tpu]'",
)

# libtpu compiles at the level that users get.
pytestmark = pytest.mark.budget(15)
B, T, S, D = 8, 512, 128, 1024
CONFIG = TransformerConfig(
    blocks=3, heads=16, dim=D, hidden=4096, compute=ComputeConfig(dtype="bfloat16")
)


def compiled(mesh_config, backward, remat="full"):
    """What a decoder stack sends, with its gradient or alone, compiled for four v4 chips."""
    config = dataclasses.replace(CONFIG, compute=dataclasses.replace(CONFIG.compute, remat=remat))
    stack = make_stack(decoder_parts(config, Causal(), "text"), config)
    layout = make_layout(mesh_config, make_mesh(mesh_config, topology_devices("v4:2x2x1")))
    x = jax.ShapeDtypeStruct((B, T, D), jnp.bfloat16)
    text = jax.ShapeDtypeStruct((B, S, D), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((B, S), jnp.int32)

    def context(text, ids):
        return {"text": PerExample(text), "text_mask": PerExample(padding_mask(ids))}

    def init(key, x, text, ids):
        return stack.init(key, x, context(text, ids))["params"]

    boxed = jax.eval_shape(init, jax.random.key(0), x, text, ids)
    params = nn.unbox(boxed)
    places = shardings(logical_axes(boxed), params, layout.mesh, layout.preset.stored)

    def forward(params, x, text, ids):
        with use(layout):
            return stack.apply({"params": params}, x, context(text, ids))

    def loss(*inputs):
        return jnp.sum(jnp.square(forward(*inputs).astype(jnp.float32)))

    program = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else forward)
    params = jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), params, places
    )
    inputs = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            a.shape, a.dtype, sharding=jax.sharding.NamedSharding(layout.mesh, jax.P())
        ),
        (x, text, ids),
    )
    return collectives(program.lower(params, *inputs).compile().as_text())


def of(kind, found, at_least):
    return [c for c in found if c.kind == kind and c.in_loop and c.elements >= at_least]


@pytest.mark.slow
@needs_libtpu
def test_in_layer_training_scatters_and_gathers_and_never_reduces_an_activation():
    found = compiled(MeshConfig(model=4, rules="in_layer"), backward=True)
    # A block output is B * T * D values, a quarter of them on each chip.
    assert of("reduce-scatter", found, B * T * D // 4)
    assert of("all-gather", found, B * T * D)
    assert not of("all-reduce", found, B * S * D // 4)
    # What is reduced are sums over the split dimension for the norms: a value per token.
    assert all(c.elements <= B * T for c in of("all-reduce", found, 0))


@needs_libtpu
@pytest.mark.slow
def test_in_layer_training_gathers_an_input_once_and_scatters_its_gradients_once():
    found = compiled(MeshConfig(model=4, rules="in_layer"), backward=True, remat="gathered")
    # Of each attention and feed-forward: its input, kept for the backward pass, and there the
    # gradient of its output, which the compiler may pass on piece by piece for the feed-forward.
    assert len(of("all-gather", found, B * T * D)) <= 6
    # Its output; and one for the gradients of queries, keys and values together.
    assert len(of("reduce-scatter", found, B * T * D // 4)) <= 6


@pytest.mark.slow
@needs_libtpu
def test_in_layer_serving_reduces_and_does_nothing_else():
    found = compiled(MeshConfig(model=4, rules="in_layer_serving"), backward=False)
    assert len(of("all-reduce", found, B * T * D)) == 3
    assert not of("all-gather", found, 0) and not of("reduce-scatter", found, 0)


@needs_libtpu
def test_an_unknown_topology_is_told():
    with pytest.raises(UserError, match="libtpu knows no topology v4:3x5x7"):
        topology_devices("v4:3x5x7")
    with pytest.raises(UserError, match="the topology is 'v3'; a generation"):
        topology_devices("v3")
