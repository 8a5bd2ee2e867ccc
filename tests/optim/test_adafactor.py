"""Adafactor with quantised momentum, against its definition written out in NumPy, float64.

Lingvo's and praxis' sharded Adafactor with Babeldraw's constants: b1 0.9, b2 0.96 with Adam's bias
correction inside the decay, weight decay 4.5e-2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from babeldraw.errors import UserError
from babeldraw.optim.adafactor import adafactor, dequantize, quantize, second_moment_decay
from babeldraw.optim.optimizer import GroupConfig, OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.constraint import is_names, shardings
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.sharding.rules import PRESETS

STEPS = 4
DTYPES = ("int8", "int16", "bfloat16", "float32")
SHAPES = [(7,), (5, 3), (2, 5, 3)]
# Each step at its own rate: momentum holds steps, that is updates times the rate of their time.
RATES = np.array([0.5, 1.0, 1.5, 0.75])
# The third gradient is large beside the past, so that the update is clipped.
SIZES = (1.0, 0.5, 20.0, 2.0)


def rate_at(count):
    return jnp.asarray(RATES, jnp.float32)[count]


def gradients(shape, seed=0):
    rng = np.random.default_rng(seed)
    return [(size * rng.normal(size=shape)).astype(np.float32) for size in SIZES]


def rounded(x, dtype):
    """What is left of x after it was stored."""
    if dtype in ("bfloat16", "float32"):
        return x.astype(jnp.dtype(dtype)).astype(np.float64)
    bucket = np.abs(x).max(axis=0) / {"int8": 127, "int16": 32767}[dtype]
    return np.round(x / np.where(bucket == 0, 1, bucket)) * bucket


class Reference:
    """One parameter of one layer."""

    def __init__(self, parameter, dtype, weight_decay=4.5e-2):
        self.parameter, self.dtype = np.asarray(parameter, np.float64), dtype
        self.weight_decay = weight_decay
        self.momentum = np.zeros_like(self.parameter)
        self.second = [0.0, 0.0]
        self.count = 0
        self.clipped = []

    def step(self, gradient):
        gradient = np.asarray(gradient, np.float64)
        rate = RATES[self.count]
        self.count += 1
        decay = 0.96 * (1 - 0.96 ** (self.count - 1)) / (1 - 0.96**self.count)
        update = gradient / np.sqrt(self.second_moment(np.square(gradient) + 1e-30, decay))
        rms = np.sqrt(np.square(update).mean())
        self.clipped.append(rms > 1)
        update = rate * update / max(1, rms)
        momentum = 0.9 * self.momentum + 0.1 * update
        self.momentum = rounded(momentum, self.dtype)
        # Decay after momentum: it is not averaged, and the step is the momentum before rounding.
        self.parameter = self.parameter - momentum - rate * self.weight_decay * self.parameter
        return self.parameter

    def second_moment(self, squares, decay):
        """Of each element; from means over the last and the last but one dimension."""
        if squares.ndim == 1:
            self.second[0] = decay * self.second[0] + (1 - decay) * squares
            return self.second[0]
        means = squares.mean(axis=-1, keepdims=True), squares.mean(axis=-2, keepdims=True)
        self.second = [decay * v + (1 - decay) * m for v, m in zip(self.second, means, strict=True)]
        row, column = self.second
        return row / row.mean(axis=-2, keepdims=True) * column


def run(optimizer, parameter, grads):
    """The parameter after each step."""
    state, history = optimizer.init(parameter), []
    update = jax.jit(optimizer.update)
    for grad in grads:
        updates, state = update(grad, state, parameter)
        parameter = optax.apply_updates(parameter, updates)
        history.append(parameter)
    return history


def constant(peak=1.0):
    return ScheduleConfig(peak, 0, 0, 1, kind="constant")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_four_steps_follow_the_definition(shape, dtype):
    parameter, grads = np.float32(3) * gradients(shape, seed=1)[0], gradients(shape)
    optimizer = adafactor(rate_at, False, moment_dtype=dtype)
    reference = Reference(parameter, dtype)
    for found, grad in zip(run(optimizer, parameter, grads), grads, strict=True):
        np.testing.assert_allclose(found, reference.step(grad), atol=1e-5, rtol=1e-5)
    assert any(reference.clipped) and not all(reference.clipped)


def test_a_number_alone_takes_the_steps_of_a_vector_of_one():
    grads = [gradient[:1] for gradient in gradients((7,))]
    alone = run(adafactor(rate_at, False), np.float32(3), [grad[0] for grad in grads])
    vector = run(adafactor(rate_at, False), np.float32([3]), grads)
    np.testing.assert_allclose(alone, np.squeeze(vector, 1), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stack_is_one_optimizer_per_layer(shape):
    stack = (3, *shape)
    parameter, grads = gradients(stack, seed=1)[0], gradients(stack)
    # Layers of very different size would disturb each other through any common statistic.
    for grad in grads:
        grad *= np.array([1e-3, 1, 1e3], np.float32).reshape(3, *(1,) * len(shape))
    found = run(adafactor(rate_at, True), parameter, grads)
    for layer in range(3):
        reference = Reference(parameter[layer], "int8")
        for step, grad in enumerate(grads):
            expected = reference.step(grad[layer])
            np.testing.assert_allclose(found[step][layer], expected, atol=1e-5, rtol=1e-5)


def test_the_decay_of_the_second_moment_has_adam_s_correction_inside():
    steps = jnp.arange(1, 5)
    corrected = [0.96 * (1 - 0.96 ** (t - 1)) / (1 - 0.96**t) for t in range(1, 5)]
    np.testing.assert_allclose(second_moment_decay(steps, 0.96), corrected, atol=1e-6)
    np.testing.assert_allclose(second_moment_decay(jnp.int32(1000), 0.96), 0.96, rtol=1e-6)


def test_weight_decay_comes_after_momentum_and_is_not_remembered():
    parameter, zero = np.full((4, 3), 2.0, np.float32), np.zeros((4, 3), np.float32)
    history = run(adafactor(rate_at, False, weight_decay=0.1), parameter, [zero] * STEPS)
    # With momentum, the first step would be a tenth of this and later ones would add up.
    expected = 2 * np.cumprod(1 - 0.1 * RATES)
    np.testing.assert_allclose([p[0, 0] for p in history], expected, rtol=1e-6)


def test_zero_columns_stay_where_they_are():
    parameter, grads = gradients((5, 3), seed=1)[0], gradients((5, 3))
    for grad in grads:
        grad[:, 1] = 0
    history = run(adafactor(rate_at, False, weight_decay=0.0), parameter, grads)
    for found in history:
        np.testing.assert_array_equal(found[:, 1], parameter[:, 1])
        assert np.isfinite(found).all() and np.all(found[:, [0, 2]] != parameter[:, [0, 2]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(7,), (5, 3)], ids=str)
def test_an_infinite_gradient_is_a_lasting_nan(shape, infinity, dtype):
    parameter, grads = gradients(shape, seed=1)[0], gradients(shape)
    grads[1].flat[0] = infinity
    first, *rest = run(adafactor(rate_at, False, moment_dtype=dtype), parameter, grads)
    assert np.isfinite(first).all()
    assert all(np.isnan(found).all() for found in rest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_storing_twice_is_storing_once(shape, dtype):
    x = gradients(shape)[0]
    once = dequantize(quantize(x, jnp.dtype(dtype)))
    twice = dequantize(quantize(once, jnp.dtype(dtype)))
    np.testing.assert_array_equal(twice, once)
    np.testing.assert_allclose(once, rounded(x.astype(np.float64), dtype), atol=1e-5)


@pytest.mark.parametrize(("dtype", "largest"), [(jnp.int8, 127), (jnp.int16, 32767)])
def test_the_largest_of_a_column_is_the_largest_integer(dtype, largest):
    x = jnp.array([[1.0, -8.0, 0.0], [-0.5, 4.0, 0.0]])
    stored = quantize(x, dtype)
    assert stored.value.dtype == dtype and stored.scale.dtype == jnp.float32
    half = round(largest / 2)  # To even, as the definition says.
    np.testing.assert_array_equal(stored.value, [[largest, -largest, 0], [-half, half, 0]])
    np.testing.assert_allclose(stored.scale, [1 / largest, 8 / largest, 0], rtol=1e-6)
    assert quantize(x[0], dtype).scale.shape == ()


def test_the_error_of_storing_is_half_a_bucket():
    x = gradients((50, 4))[2]
    error = np.abs(dequantize(quantize(x, jnp.int8)) - x)
    assert np.all(error <= 0.5 * np.abs(x).max(axis=0, keepdims=True) / 127 * (1 + 1e-4))


# Each logical axis has its own size, so an array's names can be told from its shape.
SIZE = {"layers": 3, "embed": 8, "mlp": 16, "heads": 2, "head_dim": 4, "vocab": 5}
AXES = {
    "norm": ("embed",),
    "table": ("vocab", "embed"),
    "stack": {
        "bias": ("layers", "mlp"),
        "up": ("layers", "embed", "mlp"),
        "query": ("layers", "embed", "heads", "head_dim"),
    },
}
CONFIGS = [
    *(OptimizerConfig(constant(), moment_dtype=dtype) for dtype in DTYPES),
    OptimizerConfig(constant(), name="adamw"),
    OptimizerConfig(constant(), clip_norm=0.0),
]


def example_params(seed=0):
    rng = np.random.default_rng(seed)

    def make(names):
        return jnp.asarray(rng.normal(size=[SIZE[name] for name in names]), jnp.float32)

    return jax.tree.map(make, AXES, is_leaf=is_names)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name}-{c.moment_dtype}")
def test_every_array_of_the_state_has_the_names_of_its_dimensions(config):
    params = example_params()
    state = jax.eval_shape(make_optimizer(config, AXES).init, params)
    axes = optimizer_axes(state, params, AXES)
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(state)
    for names, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(state), strict=True
    ):
        assert tuple(SIZE[name] for name in names) == leaf.shape


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4]], ids=lambda c: c.name)
def test_a_state_split_over_devices_takes_the_same_steps(config):
    optimizer = make_optimizer(config, AXES)
    params, grads = example_params(), example_params(seed=1)
    mesh, table = make_mesh(MeshConfig()), PRESETS["fsdp"].stored
    abstract = jax.eval_shape(optimizer.init, params)
    places = shardings(optimizer_axes(abstract, params, AXES), abstract, mesh, table)
    weights = shardings(AXES, params, mesh, table)
    split = jax.jit(optimizer.init, out_shardings=places)(params)
    split_up = {leaf.shape for leaf in jax.tree.leaves(split) if not leaf.is_fully_replicated}
    assert {shape[-2:] for shape in split_up} >= {(8,), (5, 8), (8, 16)}

    def step(state, params, grads):
        updates, state = optimizer.update(grads, state, params)
        return state, optax.apply_updates(params, updates)

    on_one, on_all = jax.jit(step), jax.jit(step, out_shardings=(places, weights))
    expected = optimizer.init(params), params
    found = split, jax.device_put(params, weights)
    for _ in range(2):
        expected = on_one(*expected, grads)
        found = on_all(*found, jax.device_put(grads, weights))
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, found[1], expected[1])
    state, _ = found
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_a_matrix_costs_one_byte_per_parameter_and_little_more():
    d, f = 4096, 16384
    matrix = jax.ShapeDtypeStruct((d, f), jnp.float32)
    state = jax.eval_shape(adafactor(rate_at, False).init, matrix)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.leaves))
    # Moment; its scales; row and column means.
    assert size == d * f + 4 * f + 4 * (d + f)
    assert size / (d * f) < 1.003


def test_what_decays_is_what_has_two_dimensions_per_layer():
    params = example_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name in ("adafactor", "adamw"):
        optimizer = make_optimizer(OptimizerConfig(constant(0.5), name, weight_decay=0.1), AXES)
        updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
        for update, param, names in zip(
            jax.tree.leaves(updates),
            jax.tree.leaves(params),
            jax.tree.leaves(AXES, is_leaf=is_names),
            strict=True,
        ):
            decayed = len([axis for axis in names if axis != "layers"]) >= 2
            np.testing.assert_allclose(update, -0.05 * param if decayed else 0 * param, rtol=1e-5)


def test_the_gradient_is_clipped_by_its_global_norm_first():
    axes = {name: AXES[name] for name in ("norm", "table")}
    params, grads = ({name: tree[name] for name in axes} for tree in map(example_params, (0, 1)))
    norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in grads.values()))
    assert norm > 4
    scaled = {name: g * np.float32(4 / norm) for name, g in grads.items()}

    def state_after(grads, clip_norm):
        optimizer = make_optimizer(OptimizerConfig(constant(), clip_norm=clip_norm), axes)
        return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[1][1].leaves

    # The second moments tell the gradient's size, which the update itself does not.
    found, expected = state_after(grads, 4.0), state_after(scaled, 0.0)
    for arrays in zip(
        (found["table"].row, found["table"].column, found["norm"].full),
        (expected["table"].row, expected["table"].column, expected["norm"].full),
        strict=True,
    ):
        np.testing.assert_allclose(*arrays, rtol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "sgd"},
        {"b1": 1.0},
        {"b2": -0.1},
        {"weight_decay": -1.0},
        {"clip_norm": -1.0},
        {"moment_dtype": "int4"},
    ],
)
def test_a_bad_value_is_named(bad):
    ((field, value),) = bad.items()
    with pytest.raises(UserError, match=f"config.optimizer.{field} is {value!r}; "):
        OptimizerConfig(**bad)


# ------------------------------------------------------------------ groups, sizes, thresholds

TREE = {"encoder": {"weight": jnp.full((4, 3), 2.0), "bias": jnp.full((3,), 2.0)}}
TREE["decoder"] = TREE["encoder"]
TREE_AXES = {"encoder": {"weight": ("embed", "mlp"), "bias": ("mlp",)}}
TREE_AXES["decoder"] = TREE_AXES["encoder"]
CONSTANT = ScheduleConfig(peak=0.1, warmup_steps=0, kind="constant")


def stepped(**fields):
    """The sum of the updates by two equal gradients."""
    config = OptimizerConfig(CONSTANT, **{"weight_decay": 0.0, "clip_norm": 0.0, **fields})
    tx, params = make_optimizer(config, TREE_AXES), TREE
    state, total = tx.init(params), jax.tree.map(np.zeros_like, params)
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
        total = jax.tree.map(np.add, total, updates)
    return total


@pytest.mark.parametrize("name", ["adafactor", "adamw", "muon"])
def test_a_group_has_its_own_rate_and_decay(name):
    plain = stepped(name=name)
    groups = (GroupConfig("encoder/weight", rate=0.25), GroupConfig("decoder", rate=0.0))
    found = stepped(name=name, groups=groups)
    quarter = 0.25 * plain["encoder"]["weight"]
    np.testing.assert_allclose(found["encoder"]["weight"], quarter, rtol=1e-5)
    np.testing.assert_array_equal(found["encoder"]["bias"], plain["encoder"]["bias"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["decoder"]))
    # Biases do not decay unless they are told to, and weights do unless they are told not to.
    turned = (GroupConfig("bias", decay=True), GroupConfig("weight", decay=False))
    decayed = stepped(name=name, weight_decay=0.5, groups=turned)
    np.testing.assert_allclose(decayed["encoder"]["weight"], plain["encoder"]["weight"], rtol=1e-5)
    assert np.all(decayed["encoder"]["bias"] < plain["encoder"]["bias"] - 0.05)


def test_steps_may_be_relative_to_a_parameter_and_clipped_otherwise():
    plain = stepped()
    relative = stepped(scale_by_parameter=True)
    # Of parameters of size 2, the second step of those that the first has left.
    assert np.all(relative["encoder"]["weight"] < 1.5 * plain["encoder"]["weight"])
    assert np.all(relative["encoder"]["weight"] > 2 * plain["encoder"]["weight"])
    clipped = stepped(clip_threshold=0.5)
    half = 0.5 * plain["encoder"]["weight"]
    np.testing.assert_allclose(clipped["encoder"]["weight"], half, rtol=1e-2)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"groups": (GroupConfig("encodr"),)}, "names='encodr', which finds no parameter"),
        ({"groups": (GroupConfig(""), GroupConfig("bias"))}, "names='bias', which finds no parame"),
        ({"name": "adamw", "clip_threshold": 2.0}, "name='adamw' would ignore; leave it out or"),
        ({"clip_threshold": 0.0}, "clip_threshold is 0.0; a positive number is needed"),
    ],
)
def test_options_that_do_nothing_are_told(fields, line):
    with pytest.raises(UserError, match=line):
        stepped(**fields)


def test_a_pattern_that_is_none_is_told():
    with pytest.raises(UserError, match=r"names='\(', no regular expression"):
        GroupConfig("(")
