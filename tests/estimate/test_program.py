"""Communications are found in the text of a compiled program, and where they stand."""

import jax
import jax.numpy as jnp
import pytest

from babeldraw.estimate.program import Collective, collectives
from babeldraw.sharding.mesh import MeshConfig, make_mesh

# As XLA writes it: a loop whose body gathers and holds a fused reduce-scatter, and an all-reduce
# and an asynchronous permute outside of it.
TEXT = """
HloModule jit_step, is_scheduled=true

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.7 (input: f32[8,64]) -> f32[2,64] {
  %input = f32[8,64]{1,0} parameter(0)
  %all-reduce.3 = f32[8,64]{1,0} all-reduce(%input), replica_groups={{0,1}}, to_apply=%add.1
  ROOT %slice = f32[2,64]{1,0} dynamic-slice(%all-reduce.3), dynamic_slice_sizes={2,64}
}

%inner (p: f32[2,64]) -> f32[8,64] {
  %p = f32[2,64]{1,0} parameter(0)
  ROOT %all-gather.5 = f32[8,64]{1,0} all-gather(%p), dimensions={0}, metadata={op_name="jit(step)/ffn/dot"}
}

%body (state: (s32[], f32[2,64])) -> (s32[], f32[2,64]) {
  %state = (s32[], f32[2,64]{1,0}) parameter(0)
  %x = f32[2,64]{1,0} get-tuple-element(%state), index=1
  %gathered = f32[8,64]{1,0} call(%x), to_apply=%inner
  %fusion.2 = f32[2,64]{1,0} fusion(%gathered), kind=kCustom, calls=%all-reduce-scatter.7
  ROOT %next = (s32[], f32[2,64]{1,0}) tuple(%i, %fusion.2)
}

%condition (state.1: (s32[], f32[2,64])) -> pred[] {
  %state.1 = (s32[], f32[2,64]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (weights: f32[2,64]) -> f32[] {
  %weights = f32[2,64]{1,0} parameter(0)
  %while.1 = (s32[], f32[2,64]{1,0}) while(%start), condition=%condition, body=%body
  %collective-permute-start.1 = (bf16[4,4]{1,0}, bf16[4,4]{1,0}) collective-permute-start(%y), source_target_pairs={{0,1}}
  %collective-permute-done.1 = bf16[4,4]{1,0} collective-permute-done(%collective-permute-start.1)
  ROOT %all-reduce.9 = f32[] all-reduce(%total), replica_groups={{0,1}}, to_apply=%add.1
}
"""  # noqa: E501


def test_each_communication_is_found_once_with_its_size_and_place():
    found = sorted(collectives(TEXT), key=lambda c: c.kind)
    assert found == [
        Collective("all-gather", 8 * 64, True, "jit(step)/ffn/dot"),
        Collective("all-reduce", 1, False, ""),
        Collective("collective-permute", 16, False, ""),
        # An all-reduce fused with its slice: neither counts for itself.
        Collective("reduce-scatter", 2 * 64, True, ""),
    ]


def test_a_program_without_communication_has_none():
    assert collectives("") == []
    text = jax.jit(lambda x: jnp.tanh(x) @ x).lower(jnp.ones((4, 4))).compile().as_text()
    assert collectives(text) == []


def compiled(fn, *places):
    """Text of `fn` of 8 x 8 matrices, compiled for eight devices."""
    inputs = [jax.ShapeDtypeStruct((8, 8), "float32", sharding=place) for place in places]
    return jax.jit(fn, out_shardings=places[0]).lower(*inputs).compile().as_text()


@pytest.mark.parametrize("looped", [False, True])
def test_a_compiled_program_gathers_where_it_must(looped):
    mesh = make_mesh(MeshConfig(data=1, model=8, rules="in_layer"))
    split = jax.NamedSharding(mesh, jax.P(None, "model"))

    def multiply(x, w):
        return jnp.tanh(x @ w)

    def step(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, x: multiply(x, w), x) if looped else multiply(x, w)

    found = collectives(compiled(step, split, split))
    # The product over the split dimension of x needs all of x.
    (gather,) = [c for c in found if c.kind == "all-gather"]
    assert gather.elements == 64 and gather.in_loop == looped
    assert not [c for c in found if c.kind == "collective-permute"]


def test_a_compiled_shift_is_a_permute():
    mesh = make_mesh(MeshConfig(data=1, stage=8, rules="pipeline"))
    place = jax.NamedSharding(mesh, jax.P("stage"))

    def shift(x):
        pairs = [(stage, (stage + 1) % 8) for stage in range(8)]
        return jax.shard_map(
            lambda a: jax.lax.ppermute(a, "stage", pairs),
            mesh=mesh,
            in_specs=jax.P("stage"),
            out_specs=jax.P("stage"),
        )(x)

    (permute,) = collectives(compiled(shift, place))
    assert (permute.kind, permute.elements, permute.in_loop) == ("collective-permute", 8, False)
