"""Super-resolution by codes: both networks in NumPy, the frozen base, what cannot be.

The statement has masks of all slots by brute force in the place of windows.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.codes_condition import CodesCondition
from babeldraw.models.coglm import CogLMConfig
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.models.enlarger import EnlargerConfig
from babeldraw.models.kinds import make_generator
from babeldraw.models.refiner import RefinerConfig
from babeldraw.models.several import SeveralConditions
from babeldraw.optim.optimizer import GroupConfig, OptimizerConfig, make_optimizer
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.prediction.refinement import AT_ONCE, RefinementPrediction, RefinementSampling
from babeldraw.runs.weights import flatten
from babeldraw.sharding.constraint import logical_axes
from babeldraw.tokenizers.base import Codes
from babeldraw.train.starts import StartConfig
from babeldraw.train.tuning import into_enlarger, into_refiner
from tests.networks import abstract_params, random_params
from tests.statements import normalized, softmax

B, V, D, HEADS, P, FACTOR = 2, 11, 16, 2, 3, 2
COARSE, FINE = (2, 3), (4, 6)
S, T = 6, 24
STACK = TransformerConfig(
    2, HEADS, D, 32, activation="gelu", bias=True, compute=ComputeConfig(scan=False)
)
START = 5
TABLES = {"start": START, "positions": 13}
TEXT = TextCondition(20, P, dropout=0.0)
RNG = np.random.default_rng(0)
CODES = jnp.int32(RNG.integers(0, V, (B, T)))
SMALL = jnp.int32(RNG.integers(0, V, (B, S)))
# The second is shorter: its last piece is padding.
WORDS = jnp.int32(RNG.integers(1, 20, (B, P))).at[1, 2].set(0)
KNOWN = jnp.asarray(RNG.random((B, T)) < 0.5)


@dataclasses.dataclass(frozen=True)
class Small:
    """What a condition by codes asks of a tokenizer: a code is the red of the mean of 2 x 2."""

    codes: Codes = Codes(COARSE, (V,))
    image_size: tuple[int, int] = (4, 6)
    level: str = ""

    def at(self, level):
        return dataclasses.replace(self, level=level)

    def encode(self, params, images):
        del params
        cells = images[..., 0].reshape(-1, 2, 2, 3, 2).mean((2, 4))
        return (cells.reshape(-1, S) * (V - 1)).astype(jnp.int32)


def by_codes(tokenizer=None):
    return CodesCondition("small").bound(lambda: tokenizer or Small())


def with_text(tokenizer=None):
    parts = {"text": TEXT, "codes": CodesCondition("small")}
    return SeveralConditions(parts, 0.0).bound(lambda: tokenizer or Small())


DIRECT = make_generator(
    EnlargerConfig(decoder=STACK, across=(3, 3), around=(3, 5), **TABLES),
    with_text(),
    Codes(FINE, (V,)),
)
ITERATIVE = make_generator(
    RefinerConfig(decoder=STACK, around=(3, 5), factor=FACTOR, **TABLES), TEXT, Codes(FINE, (V,))
)
# Of the parameters all but the large codes' own.
BASE = r"^(?!.*\bfine\b)"
SAID = {"text": WORDS, "codes": SMALL}


# ------------------------------------------------------------------ the same in NumPy


def norm(p, x):
    return normalized(x, 1e-5) * p["scale"] + p["bias"]


def gelu(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def heads(p, x, name):
    bias = p[name]["bias"].reshape(1, HEADS, 1, -1)
    return np.einsum("btd,dnh->bnth", x, p[name]["weight"]) + bias


def attended(p_of, x, mask):
    """`p_of`: of runs of slots the projections."""
    query, key, value = (
        np.concatenate([heads(p, x[:, run], name) for run, p in p_of], axis=2)
        for name in ("query", "key", "value")
    )
    logits = np.einsum("bnth,bnsh->bnts", query, key) / math.sqrt(D // HEADS)
    out = softmax(np.where(mask, logits, -1e30)) @ value
    made = [
        np.einsum("bnth,nhd->btd", out[:, :, run], p["out"]["weight"]) + p["out"]["bias"]
        for run, p in p_of
    ]
    return np.concatenate(made, axis=1)


def stated(params, x, mask, runs):
    """The blocks and the final norm; `runs`: names of projections with their slots."""
    blocks = jax.tree.map(np.asarray, params["stack"]["blocks"])
    for layer in range(STACK.blocks):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer].astype(np.float64), blocks)
        own = p["attention"]
        p_of = [(run, own[name] if name else own) for name, run in runs]
        y = attended(p_of, norm(p["attention_norm"], x), mask)
        x = x + norm(p["attention_norm_after"], y)
        wide = norm(p["ffn_norm"], x)
        ffn = p["ffn"]
        wide = gelu(wide @ ffn["up"]["weight"] + ffn["up"]["bias"])
        y = wide @ ffn["down"]["weight"] + ffn["down"]["bias"]
        x = x + norm(p["ffn_norm_after"], y)
    return norm(jax.tree.map(np.asarray, params["norm"]), x)


def vectors(params, early=False):
    """Of text, small codes, and masked codes, each with positions."""
    table = np.asarray(params["embed"]["table"], np.float64)
    places = np.asarray(params["places"]["table"], np.float64)
    begin = START if early else START + 1
    of_cell = [
        places[begin + (place // FINE[1] % COARSE[0]) * COARSE[1] + place % FINE[1] % COARSE[1]]
        for place in range(T)
    ]
    numbers = np.where(KNOWN, CODES, V + 20)
    fine = table[numbers] + np.stack(of_cell) + np.asarray(params["fine"]["table"])
    small = table[np.asarray(SMALL)] + places[START + 1 : START + 1 + S]
    return table[V + np.asarray(WORDS)] + places[:P], small, fine


def hidden_pads(mask):
    """The same of each example, its padding seen by none."""
    seen = np.ones((B, 1, 1, len(mask)), bool)
    seen[:, 0, 0, :P] = np.asarray(WORDS) != 0
    return mask & seen


def near(window):
    """bool [T, T]: the window of the fine grid."""
    y, x = np.divmod(np.arange(T), FINE[1])
    down, right = abs(y[:, None] - y), abs(x[:, None] - x)
    return (down <= window[0] // 2) & (right <= window[1] // 2)


def above(window):
    """bool [T, S]: the window of the small grid around the cell that a fine one lies in."""
    y, x = (n // FACTOR for n in np.divmod(np.arange(T), FINE[1]))
    row, column = np.divmod(np.arange(S), COARSE[1])
    down, right = abs(y[:, None] - row), abs(x[:, None] - column)
    return (down <= window[0] // 2) & (right <= window[1] // 2)


def logits(params, x):
    return x[:, -T:] @ np.asarray(params["embed"]["table"][:V], np.float64).T


def found_logits(generator, params, said):
    @jax.jit
    def run(params, said, codes, known):
        hidden = generator.hidden(params, generator.read(params, said), codes, known)
        return generator.factor_logits(params, hidden)

    return run(params, said, CODES, KNOWN)


@pytest.fixture(scope="module")
def direct():
    return random_params(DIRECT, seed=1)


def test_direct_super_resolution_is_a_base_and_windows_of_two_grids(direct):
    x = np.concatenate(vectors(direct), axis=1)
    base, slots = P + S, P + S + T
    mask = np.zeros((slots, slots), bool)
    mask[:P, :P] = mask[P:base, :base] = True
    mask[base:, P:base], mask[base:, base:] = above((3, 3)), near((3, 5))
    runs = [("base", slice(0, base)), ("fine", slice(base, slots))]
    expected = logits(direct, stated(direct, x, hidden_pads(mask), runs))
    np.testing.assert_allclose(found_logits(DIRECT, direct, SAID), expected, atol=1e-3, rtol=1e-4)


def test_iterative_super_resolution_sees_the_text_and_a_window():
    params = random_params(ITERATIVE, seed=2)
    text, _, fine = vectors(params)
    x = np.concatenate([text, fine], axis=1)
    mask = np.zeros((P + T, P + T), bool)
    mask[:, :P], mask[P:, P:] = True, near((3, 5))
    expected = logits(params, stated(params, x, hidden_pads(mask), [("", slice(None))]))
    found = found_logits(ITERATIVE, params, WORDS)
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-4)


def test_positions_one_too_early_are_an_option(direct):
    config = dataclasses.replace(DIRECT.config, early_positions=True)
    early = dataclasses.replace(DIRECT, config=config)
    x = np.concatenate(vectors(direct, early=True), axis=1)
    mask = np.zeros((P + S + T,) * 2, bool)
    mask[:P, :P] = mask[P : P + S, : P + S] = True
    mask[P + S :, P : P + S], mask[P + S :, P + S :] = above((3, 3)), near((3, 5))
    runs = [("base", slice(0, P + S)), ("fine", slice(P + S, None))]
    expected = logits(direct, stated(direct, x, hidden_pads(mask), runs))
    np.testing.assert_allclose(found_logits(early, direct, SAID), expected, atol=1e-3, rtol=1e-4)


def test_a_base_s_projections_begin_the_large_codes_own(direct):
    """With equal projections the two streams differ in what they see alone."""
    base = direct["stack"]["blocks"]["attention"]["base"]
    assert jax.tree.map(jnp.shape, base) == jax.tree.map(
        jnp.shape, direct["stack"]["blocks"]["attention"]["fine"]
    )


def test_codes_alone_are_a_condition_too():
    generator = make_generator(DIRECT.config, by_codes(), Codes(FINE, (V,)))
    params = random_params(generator)
    assert params["embed"]["table"].shape == (V + 2, D)
    assert found_logits(generator, params, SMALL).shape == (B, T, V)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("generator", [DIRECT, ITERATIVE], ids=lambda one: one.config.kind)
def test_all_but_what_is_new_begins_as_in_a_run_of_coglm(generator):
    config = CogLMConfig(STACK, **TABLES)
    base = flatten(abstract_params(make_generator(config, TEXT, Codes(COARSE, (V,)))))
    ours, taken = flatten(abstract_params(generator)), {}
    into = {"enlarger": into_enlarger, "refiner": into_refiner}[generator.config.kind]
    for start in (StartConfig(**start) for start in into("base")):
        taken |= start.chosen(ours)
    assert {*ours} - {*taken} == {"fine/table"}
    assert {*taken.values()} == {*base}
    assert all(ours[name].shape == base[theirs].shape for name, theirs in taken.items())


@pytest.mark.slow
def test_a_frozen_base_stays_bit_for_bit_and_the_rest_learns():
    """One block, for the time that it takes to compile."""
    config = dataclasses.replace(DIRECT.config, decoder=dataclasses.replace(STACK, blocks=1))
    generator = dataclasses.replace(DIRECT, config=config)
    direct = random_params(generator, seed=1)
    prediction = RefinementPrediction(tile=AT_ONCE, ratios=(1.0,))
    axes = logical_axes(jax.eval_shape(generator.init, jax.random.key(0)))
    schedule, groups = ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), (GroupConfig(BASE, 0.0),)
    adamw = OptimizerConfig(schedule, "adamw", groups=groups)
    optimizer = make_optimizer(adamw, axes)
    keys = jax.random.split(jax.random.key(1), B)

    @jax.jit
    def step(params, opt_state):
        loss = lambda p: prediction.loss(generator, p, SAID, CODES, keys, jnp.int32(0))[0]  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value, grads

    params, opt_state, losses = direct, optimizer.init(direct), []
    for _ in range(3):
        params, opt_state, value, grads = step(params, opt_state)
        losses.append(float(value))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        before = leaf_at(direct, path)
        moved = bool(jnp.any(leaf != before))
        assert moved == ("'fine'" in name), name
        assert bool(jnp.any(leaf_at(grads, path) != 0)) <= ("'fine'" in name)
    assert losses[-1] < losses[0]


def leaf_at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_one_pass_draws_all(direct):
    prediction = RefinementPrediction(tile=AT_ONCE, ratios=(1.0,))
    prediction.check(DIRECT)
    settings = RefinementSampling(temperature=0.0).traced()
    keys = jax.random.split(jax.random.key(0), B)
    draw = jax.jit(lambda p: prediction.draw(DIRECT, p, SAID, keys, settings, guided=False))

    @jax.jit
    def likeliest(params):
        nothing = jnp.zeros((B, T), bool)
        hidden = DIRECT.hidden(params, DIRECT.read(params, SAID), CODES, nothing)
        return jnp.argmax(DIRECT.factor_logits(params, hidden), axis=-1)

    np.testing.assert_array_equal(draw(direct), likeliest(direct))


# ------------------------------------------------------------------ sizes


def test_cogview2_s_have_the_published_sizes():
    """48 blocks of 3,072: own projections and biases are 1.81 billion more."""
    stack = TransformerConfig(48, 48, 3072, 4 * 3072, activation="gelu", bias=True)
    small = Small(Codes((20, 20), (20000,)), (160, 160))
    text = TextCondition(130_000, 96, dropout=0.0)
    parts = {"text": text, "codes": CodesCondition("8")}
    condition = SeveralConditions(parts, 0.0).bound(lambda: small)
    fine = Codes((60, 60), (20000,))
    generators = (
        make_generator(EnlargerConfig(decoder=stack), condition, fine),
        make_generator(RefinerConfig(decoder=stack), TextCondition(130_000, 16, dropout=0.0), fine),
    )
    direct, iterative = (
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(generator)))
        for generator in generators
    )
    own = 48 * (4 * 3072**2 + 4 * 3072)
    assert direct - iterative == own
    assert own == pytest.approx(1.81e9, rel=2e-3)
    assert iterative == pytest.approx(5.90e9, rel=0.02)
    operations = generators[0].flops()
    assert {*operations} == {"stack", "logits"}


# ------------------------------------------------------------------ the condition


def test_codes_are_made_of_the_batch_s_pictures():
    condition = by_codes()
    large = np.zeros((1, 8, 12, 3), np.float32)
    large[0, :4, :4] = 1.0
    found = condition.encoded({"tokenizer": {}}, jnp.asarray(large))
    np.testing.assert_array_equal(found, [[V - 1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(condition.encoded({"tokenizer": {}}, SMALL), SMALL)
    assert condition.example(2).shape == (2, S) and condition.spec(2) == {}
    assert condition.of_batch({"image": large}) is large


def test_what_is_asked_for_is_codes_or_a_picture():
    condition = by_codes()
    np.testing.assert_array_equal(condition.ask(np.arange(S), None).row, np.arange(S))
    assert condition.ask(np.zeros((9, 9, 3), np.uint8), None).row.shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (np.zeros((3, 6, 3), np.uint8), "the picture is 6 x 3 px, smaller than the crop of 6 x 4"),
        ("a.png", r"'a.png' is given and level small reads an array: codes \[6\], or a picture"),
        (np.zeros((4, 6, 3)), r"the picture is float64 \[4, 6, 3\]; uint8 \[height, width, 3\] is"),
        (np.arange(6) + 6, "codes are given, int64 from 6 to 11, and level small has .* below 11"),
        (np.zeros(6), "codes are given, float64 from 0.0 to 0.0, and level small has whole num"),
        (np.arange(5), r"codes of the shape \(5,\) are given and level small has \(6,\)"),
    ],
)
def test_what_cannot_be_asked_for_is_told(words, line):
    with pytest.raises(UserError, match=line):
        by_codes().ask(words, None)


def test_pictures_that_the_level_s_do_not_divide_are_told():
    with pytest.raises(UserError, match="the pictures are 9 x 8 px and config.condition.level=sm"):
        by_codes().encoded({"tokenizer": {}}, jnp.zeros((1, 8, 9, 3)))


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("config", "condition", "codes", "line"),
    [
        (DIRECT.config, with_text(), Codes((4, 7), (V,)), "4 x 7 codes .* one of 2 x 3, which"),
        (DIRECT.config, with_text(), Codes((5, 6), (V,)), "5 x 6 codes .* one of 2 x 3, which"),
        (DIRECT.config, with_text(), Codes(FINE, (7,)), "both are of one codebook"),
        (DIRECT.config, TEXT, Codes(FINE, (V,)), "kind=enlarger and config.condition.kind=text"),
        (DIRECT.config, with_text(), Codes((T,), (V,)), "draws a grid of codes of one number each"),
        (
            dataclasses.replace(DIRECT.config, positions=11),
            with_text(),
            Codes(FINE, (V,)),
            "positions is 11 and 6 small codes behind position 5 need 12; take at least that many",
        ),
        (
            dataclasses.replace(ITERATIVE.config, start=2),
            TEXT,
            Codes(FINE, (V,)),
            "start is 2, the .*, and a text of 3 pieces lies below it; take a start of at least 3",
        ),
        (
            DIRECT.config,
            SeveralConditions(
                {"label": ClassCondition(3), "codes": CodesCondition("small")}, 0.0
            ).bound(Small),
            Codes(FINE, (V,)),
            "reads pieces of a text and the condition is of a class; take kind=text",
        ),
        (ITERATIVE.config, with_text(), Codes(FINE, (V,)), "kind=refiner and config.condition"),
        (
            dataclasses.replace(ITERATIVE.config, factor=3),
            TEXT,
            Codes(FINE, (V,)),
            "config.model.factor is 3, which does not divide the grid of 4 x 6",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(config, condition, codes, line):
    with pytest.raises(UserError, match=line):
        make_generator(config, condition, codes)


def test_a_level_of_no_name_is_told():
    with pytest.raises(UserError, match="config.condition.level is empty"):
        CodesCondition()
