"""MaskGIT's network: as TiTok and Google published it, and what any condition and codes ask."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert import maskgit
from babeldraw.convert.table import read, write
from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.layers.dropout import example_keys
from babeldraw.models.conditions import ClassCondition, NoCondition, TextCondition
from babeldraw.models.kinds import make_generator
from babeldraw.models.maskgit import MaskGITConfig
from babeldraw.models.several import SeveralConditions
from babeldraw.tokenizers.base import Codes
from tests.networks import abstract_params, random_params
from tests.statements import attend, gelu, layer_norm, linear, normalized, random_tensors

B, T, V, CLASSES, HEADS, D = 3, 6, 11, 5, 2, 16
RNG = np.random.default_rng(0)
WRITTEN = ComputeConfig(scan=False)
STACK = TransformerConfig(2, HEADS, D, 4 * D, bias=True, activation="gelu_exact", compute=WRITTEN)
FORMS = {
    "titok": MaskGITConfig(STACK, style="bert", token_types=2),
    "google": MaskGITConfig(
        dataclasses.replace(STACK, activation="gelu"),
        style="bert",
        head="mlm",
        mask_is_no_class=True,
    ),
}
TABLES = {form: getattr(maskgit, form)(config) for form, config in FORMS.items()}


def network(form, condition=None, codes=None):
    codes = codes or Codes((T,), (V,))
    return make_generator(FORMS[form], condition or ClassCondition(CLASSES, 0.1), codes)


def large(form):
    """The same with the published sizes."""
    stack = dataclasses.replace(FORMS[form].stack, blocks=24, heads=16, dim=768, hidden=3072)
    return dataclasses.replace(FORMS[form], stack=stack)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "codes", "parameters", "tensors"),
    [
        ("titok", Codes((32,), (4096,)), 177_202_432, 391),
        ("titok", Codes((64,), (4096,)), 177_227_008, 391),
        ("google", Codes((16, 16), (1024,)), 172_457_193, 393),
    ],
    ids=["L-32", "B-64", "google 256"],
)
def test_the_published_ones_have_the_published_sizes(form, codes, parameters, tensors):
    generator = make_generator(large(form), ClassCondition(1000, 0.1), codes)
    leaves = jax.tree.leaves(abstract_params(generator))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters
    stack = dataclasses.replace(STACK, blocks=24)
    deep = dataclasses.replace(FORMS[form], stack=stack)
    narrow = make_generator(deep, ClassCondition(CLASSES, 0.1), Codes((T,), (V,)))
    assert len(write(TABLES[form], random_params(narrow))) == tensors


# ------------------------------------------------------------------ stated in NumPy


def titok(weights, ids):
    """Logits of a BertModel and a linear head, float64 [B, T, V]; ids into its whole table."""
    words = "model.embeddings"
    table = {name: weights[f"{words}.{name}_embeddings.weight"] for name in ("word", "token_type")}
    x = table["word"][ids] + weights[f"{words}.position_embeddings.weight"]
    x = layer_norm(weights, f"{words}.LayerNorm", x + table["token_type"][0], 1e-12)
    for number in range(STACK.blocks):
        layer = f"model.encoder.layer.{number}"
        heads = [
            linear(weights, f"{layer}.attention.self.{name}", x)
            for name in ("query", "key", "value")
        ]
        seen = linear(weights, f"{layer}.attention.output.dense", attend(*heads, HEADS))
        x = layer_norm(weights, f"{layer}.attention.output.LayerNorm", x + seen, 1e-12)
        wide = gelu(linear(weights, f"{layer}.intermediate.dense", x))
        wide = linear(weights, f"{layer}.output.dense", wide)
        x = layer_norm(weights, f"{layer}.output.LayerNorm", x + wide, 1e-12)
    return linear(weights, "model.lm_head", x[:, 1:])


def google(weights, ids):
    """Logits of MaskGIT's Flax transformer, those of codes alone, float64 [B, T, V]."""

    def dense(name, x):
        kernel = weights[f"{name}/kernel"].astype(np.float64)
        return x @ kernel.reshape(x.shape[-1], -1) + weights[f"{name}/bias"].reshape(-1)

    def norm(name, x):
        return normalized(x, 1e-12) * weights[f"{name}/scale"] + weights[f"{name}/bias"]

    def tanh_gelu(x):
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    table = weights["Embed_0/word_embeddings/embedding"]
    x = table[ids] + weights["Embed_0/position_embeddings/embedding"]
    x = norm("Embed_0/embeddings_ln", x)
    for number in range(STACK.blocks):
        layer = f"TransformerLayer_{number}"
        own = f"{layer}/Attention_0/self_attention"
        heads = [dense(f"{own}/{name}", x) for name in ("query", "key", "value")]
        seen = dense(f"{own}/out", attend(*heads, HEADS))
        x = norm(f"{layer}/Attention_0/attention_output_ln", x + seen)
        wide = tanh_gelu(dense(f"{layer}/Mlp_0/intermediate_output", x))
        wide = dense(f"{layer}/Mlp_0/layer_output", wide)
        x = norm(f"{layer}/Mlp_0/layer_output_ln", x + wide)
    x = norm("MlmLayer_0/mlm_ln", tanh_gelu(dense("MlmLayer_0/mlm_dense", x)))
    logits = x @ table.T.astype(np.float64) + weights["MlmLayer_0/mlm_bias/bias"]
    return logits[:, 1:, :V]


@pytest.mark.parametrize(
    # How each numbers the mask and the first class.
    ("form", "stated", "mask", "first"),
    [("titok", titok, V, V + 1), ("google", google, -1, V)],
)
def test_it_is_the_published_network_and_is_given_back_bit_for_bit(form, stated, mask, first):
    generator, table = network(form), TABLES[form]
    shapes = {name: a.shape for name, a in write(table, random_params(generator)).items()}
    weights = random_tensors(shapes)
    params = read(table, weights, abstract_params(generator))
    again = write(table, params)
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(again[name], tensor, strict=True)

    codes, known = RNG.integers(0, V, (B, T)), RNG.random((B, T)) < 0.5
    # The last says no class.
    classes = np.array([0, 3, CLASSES])
    ids = np.concatenate([first + classes[:, None], np.where(known, codes, mask)], axis=1)
    found = logits(generator, params, jnp.int32(classes), jnp.int32(codes), jnp.asarray(known))
    np.testing.assert_allclose(found, stated(weights, ids), atol=1e-4, rtol=1e-4)


def logits(generator, params, condition, codes, known):
    hidden = generator.hidden(params, generator.read(params, condition), codes, known)
    return generator.factor_logits(params, hidden)


# ------------------------------------------------------------------ any condition, any codes

TEXT = TextCondition(20, 4, 0.1)
CONDITIONS = {
    "text": (TEXT, jnp.int32([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]])),
    "nothing": (NoCondition(), jnp.zeros(B, jnp.int32)),
    "several": (
        SeveralConditions({"words": TEXT, "kind": ClassCondition(CLASSES, 0.1)}),
        {
            "words": jnp.int32([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]]),
            "kind": jnp.int32([0, 3, CLASSES]),
        },
    ),
}
CODES = [Codes((2, 3), (V,)), Codes((T,), (5, 4))]
PLAIN = dataclasses.replace(STACK, blocks=1)


@pytest.mark.slow
@pytest.mark.parametrize("asked", CONDITIONS)
@pytest.mark.parametrize("encoder", [None, PLAIN], ids=["", "encoder"])
def test_each_place_is_told_by_the_condition_and_what_is_known_alone(asked, encoder):
    condition, said = CONDITIONS[asked]
    codes = CODES[encoder is None]
    config = MaskGITConfig(PLAIN, encoder)
    generator = make_generator(config, condition, codes)
    params = random_params(generator)
    drawn = jnp.int32(RNG.integers(0, 4, (B, *codes.each)))
    known = jnp.arange(T)[None] < jnp.array([0, 3, T])[:, None]
    context = generator.read(params, said)
    hidden = jax.jit(lambda context, codes: generator.hidden(params, context, codes, known))
    found = hidden(context, drawn)

    def moved(changed):
        """[B, T]: whether it reaches a place."""
        return np.abs(np.asarray(changed - found)).max(-1) > 1e-4

    other = drawn.at[:, 4].set((drawn[:, 4] + 1) % 4)
    # Place 4 is known in the last row alone, where it reaches every place.
    np.testing.assert_array_equal(moved(hidden(context, other)), [[0] * T, [0] * T, [1] * T])
    nothing = generator.read(params, condition.nothing(said))
    unsaid = np.array([asked != "nothing"] * 2 + [False])
    np.testing.assert_array_equal(moved(hidden(nothing, drawn)).any(axis=1), unsaid)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["pre_norm", "bert"])
def test_dropout_hangs_on_the_example_and_decoding_reads_the_compute_type(style):
    compute = ComputeConfig(scan=False, dtype="bfloat16")
    stack = dataclasses.replace(PLAIN, dropout=0.5, compute=compute)
    condition, said = CONDITIONS["text"]
    generator = make_generator(MaskGITConfig(stack, stack, style), condition, CODES[0])
    params = random_params(generator)
    codes, known = jnp.zeros((B, T), jnp.int32), jnp.zeros((B, T), bool)
    keys = example_keys(jax.random.key(0), B)
    args = (said, codes, known)
    nll = jax.jit(lambda *args: generator.masked_nll(params, *args)[0])
    found = nll(*args, keys)
    np.testing.assert_allclose(found[1:2], nll(*(a[1:2] for a in args), keys[1:2]), atol=5e-2)
    assert np.abs(found - nll(*args)).max() > 0.1
    decoded = generator.for_decoding(params)
    for name in ("encoder", "stack"):
        (block,) = decoded[name]["blocks"]
        assert block["ffn"]["up"]["weight"].dtype == jnp.bfloat16
    read = jax.jit(lambda params: logits(generator, params, *args))
    np.testing.assert_array_equal(read(decoded), read(params))


def test_it_knows_its_operations():
    generator = make_generator(MaskGITConfig(PLAIN, PLAIN), TEXT, CODES[0])
    found = {name: count for name, (count, _) in generator.flops().items()}
    assert found["encoder"] == 8 * 4 * D**2 + 4 * 4**2 * D + 4 * 4 * D * 4 * D
    assert found["stack"] == 8 * 10 * D**2 + 4 * 10**2 * D + 4 * 10 * D * 4 * D
    assert found["logits"] == 2 * T * D * V


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"style": "t5"}, "style is 't5'; the choices are pre_norm, bert"),
        ({"head": "tied"}, "head is 'tied'; the choices are linear, mlm"),
        (
            {"encoder": dataclasses.replace(PLAIN, dim=32)},
            "encoder.dim is 32 and stack.dim 16; they must be equal",
        ),
        (
            {"mask_is_no_class": True},
            "config.model.mask_is_no_class is set and config.condition.kind 'text': there is no",
        ),
    ],
)
def test_what_does_not_go_together_is_told(fields, line):
    with pytest.raises(UserError, match=line):
        make_generator(MaskGITConfig(PLAIN, **fields), TEXT, CODES[0])


@pytest.mark.slow
def test_a_packed_stack_gives_what_each_row_by_itself_gives():
    one, three = (
        make_generator(dataclasses.replace(FORMS["titok"], packed=packed), *rest)
        for packed in (1, 3)
        for rest in [(ClassCondition(CLASSES, 0.1), Codes((T,), (V,)))]
    )
    params = random_params(one)
    codes = jnp.asarray(RNG.integers(0, V, (6, T)), jnp.int32)
    known, weight = jnp.asarray(RNG.random((6, T)) < 0.5), jnp.float32(RNG.normal(size=(6, T)))
    label = jnp.arange(6, dtype=jnp.int32) % CLASSES

    def slopes(generator):
        def loss(params):
            nll, _ = generator.masked_nll(params, label, codes, known)
            return jnp.mean(nll * weight), nll

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    pairs = zip(*map(jax.tree.leaves, map(slopes, (three, one))), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    # The packed rows are there: who sees whom is by pictures of 7 slots.
    assert three.for_rows(6).packing.lengths == (T + 1,) * 3
    assert three.for_rows(5).packing is None
    assert three.together == (3, "examples of config.model.packed")
