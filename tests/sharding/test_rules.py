"""Rule tables and what follows from them: specs, shardings, constraints."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig, BabeldrawGenerator
from babeldraw.models.conditions import TextCondition
from babeldraw.sharding.batch import batch_sharding, place_batch
from babeldraw.sharding.constraint import (
    constrain,
    divisible,
    is_names,
    logical_axes,
    shardings,
)
from babeldraw.sharding.layout import Layout, use
from babeldraw.sharding.mesh import AXES, MeshConfig, make_mesh
from babeldraw.sharding.rules import PRESETS, Preset, partition_spec, preset
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer

MESH = make_mesh(MeshConfig(data=4, model=2))
RULES = {
    "batch": ("data", "stage"),
    "embed": "data",
    "heads": "model",
    "mlp": "model",
    "length": None,
}
LAYOUT = Layout(MESH, Preset(RULES, RULES))
TABLES = {
    f"{name}_{part}": getattr(p, part) for name, p in PRESETS.items() for part in ("used", "stored")
}
STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32, bias=True)
NETWORKS = {
    "babeldraw": BabeldrawGenerator(
        BabeldrawConfig(STACK, STACK), TextCondition(20, 4), Codes((2, 2), (13,))
    ).init,
    "vit_vqgan": ViTVQGANTokenizer(ViTVQGANConfig(STACK, STACK, (8, 8), 4, VQConfig(16, 4))).init,
}


def spec(names):
    return partition_spec(names, RULES)


def test_names_become_the_mesh_axes_of_the_table():
    assert spec(("embed", "mlp")) == PartitionSpec("data", "model")
    assert spec(("batch", "length", None)) == PartitionSpec(("data", "stage"), None, None)
    assert spec(()) == PartitionSpec()


@pytest.mark.parametrize("names", [("heads", "mlp"), ("batch", "embed"), ("embed", "embed")])
def test_two_dimensions_on_one_mesh_axis_are_refused(names):
    with pytest.raises(UserError, match="both lie on mesh axis (model|data)$"):
        spec(names)


def test_a_name_that_no_table_knows_is_a_programming_error():
    with pytest.raises(KeyError):
        spec(("embd",))


def test_an_unknown_table_brings_the_choice():
    assert preset("fsdp") is PRESETS["fsdp"]
    with pytest.raises(UserError) as caught:
        preset("fspd")
    message = str(caught.value)
    assert message.startswith("config.mesh.rules is 'fspd'")
    assert all(name in message for name in PRESETS)


def test_all_tables_know_the_same_names_and_only_axes_of_the_mesh():
    names = set(PRESETS["data_parallel"].used)
    for rules in TABLES.values():
        assert set(rules) == names
        entries = [(e,) if isinstance(e, str) else e or () for e in rules.values()]
        assert {axis for entry in entries for axis in entry} <= set(AXES)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", TABLES)
def test_every_parameter_of_every_network_has_a_place_in_every_table(network, name):
    boxed = jax.eval_shape(NETWORKS[network], jax.random.key(0))
    axes, abstract = logical_axes(boxed), nn.unbox(boxed)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(abstract), strict=True
    ):
        assert len(names) == leaf.ndim and len(partition_spec(names, TABLES[name])) == leaf.ndim
    places = shardings(axes, abstract, MESH, TABLES[name])
    assert jax.tree.structure(places) == jax.tree.structure(abstract)
    split = sum(not place.is_fully_replicated for place in jax.tree.leaves(places))
    assert (split > 0) == (not name.startswith("data_parallel"))


def test_fsdp_leaves_an_eighth_of_each_matrix_on_each_of_four_by_two():
    boxed = jax.eval_shape(NETWORKS["babeldraw"], jax.random.key(0))
    places = shardings(logical_axes(boxed), nn.unbox(boxed), MESH, PRESETS["fsdp"].stored)
    up = places["image_decoder"]["stack"]["blocks"]["ffn"]["up"]["weight"]
    assert up.spec == PartitionSpec(None, ("data", "stage"), "model")
    assert up.shard_shape((2, 16, 32)) == (2, 4, 16)


def test_a_dimension_that_the_mesh_does_not_divide_stays_whole():
    wanted = PartitionSpec("data", "model")
    assert divisible(wanted, (8, 6), MESH) == wanted
    assert divisible(wanted, (6, 6), MESH) == PartitionSpec(None, "model")
    assert divisible(wanted, (8, 3, 5), MESH) == PartitionSpec("data", None, None)
    assert divisible(PartitionSpec(("data", "model")), (4,), MESH) == PartitionSpec("data")


def test_boxes_become_names_and_bare_arrays_nameless():
    tree = {"a": nn.LogicallyPartitioned(jnp.zeros((2, 3)), ("embed", "mlp")), "b": jnp.zeros(4)}
    assert logical_axes(tree) == {"a": ("embed", "mlp"), "b": (None,)}


def test_names_are_told_from_other_tuples():
    assert is_names(("embed", None)) and is_names(())
    assert not is_names((1,)) and not is_names(["embed"]) and not is_names((("embed",),))


def test_a_constraint_without_a_layout_is_nothing():
    x = jnp.ones((8, 6))
    assert constrain(x, ("batch", "mlp")) is x


def test_a_constraint_in_a_layout_splits_and_changes_no_value():
    x = np.arange(48, dtype=np.float32).reshape(8, 6)

    def double(x):
        with use(LAYOUT):
            return constrain(2 * x, ("batch", "mlp"))

    y = jax.jit(double)(x)
    wanted = NamedSharding(MESH, PartitionSpec(("data", "stage"), "model"))
    assert y.sharding.is_equivalent_to(wanted, 2)
    np.testing.assert_array_equal(y, 2 * x)
    # The layout has ended.
    assert constrain(y, ("batch", "mlp")) is y


def test_the_layout_ends_with_an_exception_too():
    with pytest.raises(ZeroDivisionError), use(LAYOUT):
        raise ZeroDivisionError
    x = jnp.ones((8, 6))
    assert constrain(x, ("batch", "mlp")) is x


def test_the_gradient_of_a_constraint_is_the_identity():
    def total(x):
        with use(LAYOUT):
            return jnp.sum(constrain(x, ("batch", "mlp")) ** 3)

    x = np.arange(48, dtype=np.float32).reshape(8, 6)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(x), 3 * x**2, rtol=1e-6)


def test_a_batch_is_split_by_rows_and_keeps_its_values():
    batch = {
        "image": np.arange(8 * 6, dtype=np.uint8).reshape(8, 2, 3),
        "text": np.arange(24, dtype=np.int32).reshape(8, 3),
        "odd": np.arange(3, dtype=np.int32),
    }
    placed = place_batch(batch, MESH)
    for name, rows in batch.items():
        np.testing.assert_array_equal(placed[name], rows)
        assert placed[name].dtype == rows.dtype
    shard = placed["image"].addressable_shards[0].data
    assert shard.shape == (2, 2, 3)
    assert batch_sharding(MESH, (8, 3)).spec[0] == ("data", "stage")
    assert placed["odd"].is_fully_replicated
