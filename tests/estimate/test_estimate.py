"""A program's time from its text: of pieces whose time one can say, and of real programs."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.estimate.aot import topology_devices, wires
from babeldraw.estimate.chips import CHIPS
from babeldraw.estimate.collective_costs import Wires, groups
from babeldraw.estimate.estimate import REACHED, estimate
from babeldraw.estimate.hlo import parse_program

V4 = CHIPS["v4"]
# Four chips in a ring, two slices of them.
RING = Wires(V4, tuple((s, c, 0, 0) for s in range(2) for c in range(4)), (True, False, False))
CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
MATMUL = """
%fused (a: bf16[256,512], b: bf16[512,128]) -> bf16[256,128] {
  %a = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[512,128]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[256,128]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}
"""
MATMUL_FLOPS = 2 * 256 * 512 * 128


def program(entry, before=MATMUL):
    return f"""HloModule jit_step, is_scheduled=true
{before}
ENTRY %main (x: bf16[256,512], w: bf16[512,128]) -> bf16[256,128] {{
  %x = bf16[256,512]{{1,0}} parameter(0)
  %w = bf16[512,128]{{1,0}} parameter(1)
{entry}
}}
"""


def matmul(name="fusion.1", cycles=1050, source="jit(step)/dot"):
    return (
        f"  %{name} = bf16[256,128]{{1,0}} fusion(%x, %w), kind=kOutput, calls=%fused, "
        f'metadata={{op_name="{source}"}}, {CYCLES % cycles}'
    )


def capped(text, wires=RING):
    return estimate(text, wires)["capped"]


def test_a_product_takes_the_compilers_cycles_and_its_operations_are_counted():
    found = estimate(program(matmul()), RING)
    for name in ("raw", "capped"):
        assert found[name].seconds == pytest.approx(1e-6)
        assert found[name].flops == MATMUL_FLOPS
        assert found[name].parts == {"matmul": pytest.approx(1e-6)}


ADD = """
%adding (a: f32[1024,1024], b: f32[1024,1024]) -> f32[1024,1024] {
  %a = f32[1024,1024]{1,0} parameter(0)
  %b = f32[1024,1024]{1,0} parameter(1)
  ROOT %add.1 = f32[1024,1024]{1,0} add(%a, %b)
}
"""


def test_element_wise_work_is_capped_at_bandwidth_and_never_raised_to_it():
    line = "  %p = f32[1024,1024]{1,0} parameter(2)\n  %f = f32[1024,1024]{1,0} fusion(%p, %p), "
    line += "kind=kLoop, calls=%adding, "
    moved = 3 * 4 * 1024 * 1024 / (REACHED * V4.bandwidth)
    slow, quick = (program(line + CYCLES % cycles, ADD) for cycles in (1_050_000, 1050))
    assert estimate(slow, RING)["raw"].seconds == pytest.approx(1e-3)
    assert capped(slow).seconds == pytest.approx(moved)
    assert capped(quick).seconds == pytest.approx(1e-6)


LOOP = """
%body (s: (s32[], bf16[256,512], bf16[512,128])) -> (s32[], bf16[256,512], bf16[512,128]) {
  %s = (s32[], bf16[256,512]{1,0}, bf16[512,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[256,512]{1,0} get-tuple-element(%s), index=1
  %w = bf16[512,128]{1,0} get-tuple-element(%s), index=2
MATMUL
  ROOT %t = (s32[], bf16[256,512]{1,0}, bf16[512,128]{1,0}) tuple(%i, %x, %w)
}

%condition (c: (s32[], bf16[256,512], bf16[512,128])) -> pred[] {
  %c = (s32[], bf16[256,512]{1,0}, bf16[512,128]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%c), index=0
  %limit = s32[] constant(7)
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}
"""


@pytest.mark.parametrize(("first", "turns"), [(0, 7), (3, 4)])
def test_a_loop_counts_as_often_as_it_turns(first, turns):
    entry = f"""  %zero = s32[] constant({first})
  %start = (s32[], bf16[256,512]{{1,0}}, bf16[512,128]{{1,0}}) tuple(%zero, %x, %w)
  ROOT %while = (s32[]) while(%start), condition=%condition, body=%body"""
    found = capped(program(entry, MATMUL + LOOP.replace("MATMUL", matmul())))
    assert found.seconds == pytest.approx(turns * 1e-6)
    assert found.flops == turns * MATMUL_FLOPS and found.unknown_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    loop = LOOP.replace("MATMUL", matmul()).replace("s32[] constant(7)", "s32[] custom-call()")
    entry = "  ROOT %while = (s32[]) while(%start), condition=%condition, body=%body"
    found = capped(program(entry, MATMUL + loop))
    assert found.unknown_loops == 1 and found.flops == MATMUL_FLOPS


# A permute of 45 MB takes a millisecond on one link of v4.
SENT = "bf16[22500000]{0}"
START = f"""  %y = {SENT} parameter(2)
  %collective-permute-start.1 = ({SENT}, {SENT}, u32[], u32[]) collective-permute-start(%y), source_target_pairs={{{{0,1}},{{1,2}},{{2,3}},{{3,0}}}}"""  # noqa: E501
DONE = f"  %d = {SENT} collective-permute-done(%collective-permute-start.1)"


@pytest.mark.parametrize(("work", "exposed"), [(2_100_000, 0.0), (420_000, 0.6e-3)])
def test_what_runs_between_start_and_end_hides_a_permute(work, exposed):
    found = capped(program("\n".join([START, matmul(cycles=work), DONE])))
    permute = found.communication["collective-permute"]
    assert (permute.count, permute.bytes) == (1, 45_000_000)
    assert permute.seconds == pytest.approx(1e-3) and permute.exposed == pytest.approx(exposed)
    assert found.seconds == pytest.approx(work / V4.clock + exposed)


def test_two_permutes_share_the_links():
    twice = START + START.split("\n")[1].replace("start.1", "start.2").join(["\n", ""])
    ends = DONE + "\n" + DONE.replace("%d", "%e").replace("start.1", "start.2")
    assert capped(program(f"{twice}\n{ends}")).seconds == pytest.approx(2e-3)


# The compiler's account of its algorithm begins with the two characters that spell a new line.
ALL_REDUCE = "all-reduce(%y), replica_groups={{0,1,2,3}}, debug=\\n"


@pytest.mark.parametrize(
    ("line", "kind", "seconds"),
    [
        # Three quarters of 90 MB, twice over for all-reduce, both ways around a ring.
        ("all-gather(%y), replica_groups={{0,1,2,3}}, dimensions={0}", "all-gather", 0.75e-3),
        ("all-reduce(%y), replica_groups={{0,1,2,3}}", "all-reduce", 1.5e-3),
        # One direction alone, and a way around in both.
        (ALL_REDUCE + "UniDirection1DRingStrategy{colors:1 phases:1", "all-reduce", 3e-3),
        (ALL_REDUCE + "StrategyRing{colors:1 phases:1", "all-reduce", 1.5e-3),
        # Between slices, by the network of the data centre: half of it for each of two.
        ("all-gather(%y), replica_groups={{0,4}}, dimensions={0}", "all-gather", 3.6e-3),
        ("all-gather(%y), replica_groups={{2}}, dimensions={0}", "all-gather", 0.0),
    ],
)
def test_a_communication_takes_its_bytes_over_its_links(line, kind, seconds):
    given = "bf16[45000000]{0}"
    text = program(f"  %y = bf16[11250000]{{0}} parameter(2)\n  %g = {given} {line}")
    found = capped(text).communication[kind]
    assert found.bytes == 90_000_000
    assert found.seconds == found.exposed == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("spelling", "first"),
    [
        ("replica_groups={{1,5},{0,4}}", (1, 5)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}, x", (0, 2)),
        ("replica_groups={}", tuple(range(8))),
    ],
)
def test_groups_are_read_in_each_spelling(spelling, first):
    assert groups(spelling, 8) == first


# As libtpu 0.0.42 writes the gathers of 64 chips, each along one axis of a mesh (data, stage).
STAGES = "mesh['axis_0'={0},'axis_1'=1,'axis_2'={1}], device_ids=([{1},{0}]T(1,0)) {{'axis_0'}}"
DATA = "mesh['axis_0'={1},'axis_1'=1,'axis_2'={0}] {{'axis_0'}}"


@pytest.mark.parametrize("stages", [2, 4, 16, 32])
@pytest.mark.parametrize(("text", "axis"), [(STAGES, 1), (DATA, 0)])
def test_groups_of_a_mesh_are_those_of_its_enumeration(stages, text, axis):
    devices = np.arange(64).reshape(64 // stages, stages)
    wanted = np.moveaxis(devices, axis, -1)[0]
    spelling = f"replica_groups={text.format(stages, 64 // stages)}, dimensions={{0}}, x"
    assert groups(spelling, 64) == tuple(wanted)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("over", [(0,), (1,), (2,), (0, 2), (1, 2)])
@pytest.mark.parametrize("listed", [False, True])
def test_device_ids_say_who_stands_in_a_mesh(order, over, listed):
    shape = (2, 4, 8)
    ids = np.arange(64).reshape(shape).transpose(order)
    mesh = ids.reshape(4, 2, 8)
    said = f"[2,4,8]T({','.join(map(str, order))})"
    if listed:
        said = ",".join(map(str, ids.reshape(-1)))
    names = ", ".join(f"'{'abc'[axis]}'" for axis in over)
    spelling = f"replica_groups=mesh['a'=4,'b'=2,'c'=8], device_ids=({said}) {{{names}}}, x"
    index = tuple(slice(None) if axis in over else 0 for axis in range(3))
    assert groups(spelling, 64) == tuple(sorted(mesh[index].reshape(-1)))


def test_a_part_of_an_axis_is_a_group_of_its_steps():
    spelling = "replica_groups=mesh['a'=8,'b'=4] {'a':(2)4}, x"
    wanted = np.arange(32).reshape(2, 4, 4)[0, :, 0]
    assert groups(spelling, 32) == tuple(wanted)


def test_a_ring_has_two_links_whatever_the_mesh_is_called():
    """16 stages along one dimension of the torus, in the order that the permutation tells."""
    chip = CHIPS["v4"]
    places = tuple((0, x, y, z) for x in range(2) for y in range(2) for z in range(16))
    wires = Wires(chip, places, (False, False, True))
    text = f"all-gather(%y), replica_groups={STAGES.format(16, 4)}, dimensions={{0}}"
    parsed = parse_program(
        f"ENTRY %main (y: f32[]) -> f32[] {{\n  %g = bf16[16,1048576] {text}\n}}"
    )
    instruction = parsed.computations["main"].instructions["g"]
    size = 16 * 1048576 * 2
    least = size * 15 / 16 / 2 / chip.link
    assert wires.seconds("all-gather", size, instruction) == pytest.approx(least)


def links(group, rings=(True, True, False)):
    """Links that the figure takes a group of chips of a torus to have; coordinates x, y, z."""
    places = tuple((0, x, y, z) for x in range(8) for y in range(4) for z in range(3))
    wires = Wires(CHIPS["v4"], places, rings)
    ids = ",".join(str(places.index((0, *place))) for place in group)
    text = f"all-gather(%y), replica_groups={{{{{ids}}}}}, dimensions={{0}}"
    parsed = parse_program(f"ENTRY %main (y: f32[]) -> f32[] {{\n  %g = bf16[8] {text}\n}}")
    seconds = wires.seconds("all-gather", 1 << 30, parsed.computations["main"].instructions["g"])
    return (1 << 30) * (len(group) - 1) / len(group) / seconds / CHIPS["v4"].link


def ways_out(group, sizes=(8, 4, 3), rings=(True, True, False)):
    """Of the worst placed chip, by enumeration: first steps of shortest ways to the others."""
    best = None
    for one in group:
        steps = set()
        for other in group:
            for dim, (size, ring) in enumerate(zip(sizes, rings, strict=True)):
                apart = (other[dim] - one[dim]) % size if ring else abs(other[dim] - one[dim])
                ahead = 2 * apart <= size if ring else other[dim] > one[dim]
                behind = 2 * apart >= size if ring else other[dim] < one[dim]
                steps |= {(dim, 1)} if apart and ahead else set()
                steps |= {(dim, -1)} if apart and behind else set()
        best = len(steps) if best is None else min(best, len(steps))
    return best


@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        ([(x, 0, 0) for x in range(8)], 2),
        # A part of a ring is a line, whose end has one link; so is a dimension that is not joined.
        ([(x, 0, 0) for x in range(3)], 1),
        ([(0, 0, z) for z in range(3)], 1),
        ([(x, 0, 0) for x in (0, 2, 4, 6)], 2),
        ([(x, y, 0) for x in range(8) for y in range(4)], 4),
        ([(x, 0, z) for x in range(8) for z in range(3)], 3),
        ([(x, 0, 0) for x in (0, 4)], 1),
    ],
)
def test_no_group_has_more_links_than_its_worst_placed_chip(group, wanted):
    assert links(group) == pytest.approx(wanted)
    assert links(group) <= ways_out(group) + 1e-6


def test_work_that_was_done_before_is_told_apart():
    again = "jit(step)/checkpoint/rematted_computation/dot"
    lines = [matmul(), matmul("fusion.2", source=again), matmul("fusion.3.remat")]
    assert capped(program("\n".join(lines))).remat_flops == 2 * MATMUL_FLOPS


# ------------------------------------------------------------------------- compiled programs

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'babeldraw[tpu]'",
)


def compiled(fn, *shapes, devices=1, split=None, generation="v4"):
    """Estimates of `fn` of bfloat16 arrays, compiled for chips of a 2 x 2 slice."""
    chips = topology_devices({"v4": "v4:2x2x1", "v5p": "v5p:2x2x1"}[generation])[:devices]
    mesh = jax.sharding.Mesh(np.array(chips), ("x",))
    place = jax.NamedSharding(mesh, split or jax.P())
    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
    if devices > 1:
        fn = jax.shard_map(fn, mesh=mesh, in_specs=split, out_specs=split)
    text = jax.jit(fn).lower(*inputs).compile().as_text()
    return estimate(text, wires(generation, chips))


@needs_libtpu
@pytest.mark.parametrize(
    ("m", "k", "n", "generation"),
    [
        (1024, 4096, 4096, "v4"),
        (4096, 2048, 8192, "v4"),
        (4096, 2048, 8192, "v5p"),
    ],
)
def test_a_large_product_runs_near_the_peak(m, k, n, generation):
    found = compiled(jnp.matmul, (m, k), (k, n), generation=generation)["raw"]
    assert found.flops == 2 * m * k * n
    share = found.flops / found.parts["matmul"] / CHIPS[generation].peak
    assert 0.84 <= share <= 0.97


@needs_libtpu
def test_a_scan_is_as_long_as_its_weights():
    def scan(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    found = compiled(scan, (512, 512), (12, 512, 512))["capped"]
    assert found.flops == 12 * 2 * 512**3 and not found.unknown_loops


@pytest.mark.slow
@needs_libtpu
def test_a_product_hides_some_of_a_permute_that_does_not_need_it():
    size, ring = 2048, [(i, (i + 1) % 4) for i in range(4)]

    def step(x, hides):
        moved = jax.lax.ppermute(x, "x", ring)
        y = functools.reduce(lambda y, _: jnp.tanh(y @ x), range(8 if hides else 0), x)
        return y + moved

    def permute(hides):
        fn = functools.partial(step, hides=hides)
        found = compiled(fn, (4 * size, size), devices=4, split=jax.P("x"))["capped"]
        return found.communication["collective-permute"]

    bare, hidden = permute(False), permute(True)
    assert bare.bytes == hidden.bytes == 2 * size * size
    assert bare.exposed == pytest.approx(bare.seconds)
    # The compiler puts a product or more between start and end, as many as it thinks enough.
    assert hidden.exposed < 0.75 * hidden.seconds
