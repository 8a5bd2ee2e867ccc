"""From a config to a layout; parameters that are placed otherwise than the rules say."""

import jax
import pytest

from babeldraw.errors import UserError
from babeldraw.sharding.constraint import override, shardings
from babeldraw.sharding.layout import current, make_layout, over_all_devices, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.rules import PRESETS, WHOLE, partition_spec

UP, DOWN, SCALE = ("layers", "embed", "mlp"), ("layers", "mlp", "embed"), ("embed",)
AXES = {
    "encoder": {"up": UP, "down": DOWN, "norm": SCALE},
    "decoder": {"up": UP, "down": DOWN, "norm": SCALE},
}


def layout_of(**fields):
    config = MeshConfig(**fields)
    return make_layout(config, make_mesh(config))


# ------------------------------------------------------------------ make_layout


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "fsdp_hybrid"])
def test_a_layout_has_the_tables_of_its_name(name):
    layout = layout_of(rules=name)
    assert layout.preset == PRESETS[name]
    assert layout.mesh.shape == {"data": 8, "stage": 1, "model": 1}
    # One stage is no pipeline.
    assert not layout.pipelined and layout.without_pipeline() is layout


def test_the_hybrid_splits_weights_over_its_stages_alone():
    layout = layout_of(rules="fsdp_hybrid", stage=4)
    assert layout.preset == PRESETS["fsdp_hybrid"] and not layout.pipelined
    assert layout.preset.stored["embed"] == layout.preset.stored["readout"] == "stage"
    assert layout.preset.used["batch"] == ("data", "stage")


@pytest.mark.parametrize(("microbatches", "has"), [(0, 4), (4, 4), (12, 12)])
def test_a_pipeline_has_at_least_a_microbatch_per_stage(microbatches, has):
    layout = layout_of(stage=4, rules="pipeline", microbatches=microbatches)
    assert layout.pipelined and layout.microbatches == has


def test_stages_of_another_layout_are_data_parallelism():
    layout = layout_of(stage=4, rules="fsdp")
    assert not layout.pipelined and layout.microbatches == 0
    assert partition_spec(("batch",), layout.preset.used) == jax.P(("data", "stage"))


def test_zero1_changes_how_weights_rest_and_not_how_they_are_read():
    plain, zero1 = (layout_of(model=2, rules="in_layer", zero1=z) for z in (False, True))
    assert zero1.preset.used == plain.preset.used
    assert partition_spec(UP, plain.preset.stored) == jax.P(None, None, "model")
    assert partition_spec(UP, zero1.preset.stored) == jax.P(None, ("data", "stage"), "model")


def test_evaluation_takes_a_pipeline_s_weights_without_its_schedule():
    layout = layout_of(stage=4, rules="pipeline")
    plain = layout.without_pipeline()
    assert not plain.pipelined and plain.microbatches == 0 and plain.mesh is layout.mesh
    # What is stored stays where it is; a layer at a time is gathered, never a whole stack.
    assert plain.preset.stored == layout.preset.stored and plain.preset.gather_per_layer


def test_a_frozen_network_has_all_devices_for_its_batch():
    assert current() is None and over_all_devices() is None
    with use(layout_of(stage=2, model=2, rules="pipeline")):
        everywhere = over_all_devices()
    assert partition_spec(("batch",), everywhere.preset.used) == jax.P(("data", "stage", "model"))
    assert partition_spec(UP, everywhere.preset.used) == jax.P(None, None, None)
    assert not everywhere.pipelined


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": 2}, "config.mesh.rules=data_parallel splits nothing over `model`"),
        ({"rules": "fsdp_hybrid"}, "config.mesh.stage is 1 .* take rules=fsdp"),
        ({"microbatches": 2}, "config.mesh.microbatches is 2 .* is no pipeline"),
        (
            {"stage": 4, "rules": "pipeline", "microbatches": 6},
            "config.mesh.microbatches is 6, which config.mesh.stage=4 does not divide",
        ),
        ({"overrides": (("(", UP),)}, "config.mesh.overrides for '\\(': that is no regular expr"),
        ({"overrides": (("up", ("length",)),)}, "for 'up' has the name length; the logical axes"),
        (
            {"rules": "fsdp", "overrides": (("up", ("embed", "embed")),)},
            "both lie on mesh axis data, stage; put None in place of one",
        ),
    ],
)
def test_what_is_no_layout_is_told(fields, message):
    with pytest.raises(UserError, match=message):
        layout_of(**fields)


# ------------------------------------------------------------------ override


def test_no_overrides_change_nothing():
    assert override(AXES, ()) == AXES


def test_an_override_changes_what_it_finds_and_nothing_else():
    whole = ("layers", None, None)
    changed = override(AXES, (("decoder/up", whole),))
    assert changed == {**AXES, "decoder": {**AXES["decoder"], "up": whole}}
    both = override(AXES, (("up$", whole),))
    assert both["encoder"]["up"] == both["decoder"]["up"] == whole
    assert both["encoder"]["down"] == DOWN


def test_of_two_overrides_the_first_that_finds_a_parameter_counts():
    first, second = ("layers", "mlp", None), ("layers", None, None)
    changed = override(AXES, (("decoder/up", first), ("up", second)))
    assert (changed["decoder"]["up"], changed["encoder"]["up"]) == (first, second)


def test_an_override_moves_an_array():
    layout = layout_of(model=2, rules="fsdp")
    array = {"up": jax.ShapeDtypeStruct((3, 16, 32), "float32")}

    def place(overrides):
        axes = override({"up": UP}, overrides)
        return shardings(axes, array, layout.mesh, layout.preset.stored)["up"]

    assert place(()).shard_shape((3, 16, 32)) == (3, 4, 16)
    assert place((("up", ("layers", None, "mlp")),)).shard_shape((3, 16, 32)) == (3, 16, 16)
    assert place((("up", ("layers", None, None)),)).is_fully_replicated


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((("middle", UP),), "has 'middle', which finds no parameter .* look like decoder/down"),
        (
            (("up", UP), ("decoder/up", UP)),
            "has 'decoder/up', which finds no parameter \\(or only those",
        ),
        ((("up", SCALE),), "has for 'up' the names .* decoder/up has 3 dimensions"),
        ((("up", (None, "embed", "mlp")),), "'layers' stays where it is"),
        ((("norm", ("layers",)),), "'layers' stays where it is"),
    ],
)
def test_an_override_that_fits_no_parameter_is_told(overrides, message):
    with pytest.raises(UserError, match=f"config.mesh.overrides .*{message}") as caught:
        override(AXES, overrides)
    assert "\n" not in str(caught.value)


def test_every_name_of_a_parameter_may_stand_in_an_override():
    for name in ("layers", "embed", "heads", "head_dim", "mlp", "vocab", "position", "patch"):
        assert name in WHOLE
        layout_of(overrides=(("up", (name,)),))
