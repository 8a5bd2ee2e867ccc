"""T5's encoder against NumPy; others' weights by their names; texts read by it as a condition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from babeldraw.convert.kinds import KINDS
from babeldraw.convert.t5 import T5
from babeldraw.convert.table import left_out, read, shapes, write
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.models.condition import Lexicon
from babeldraw.models.t5 import SIZES, FrozenT5, T5Config, distance_buckets, published
from babeldraw.models.t5_condition import T5Condition

CONFIG = T5Config(blocks=2, heads=3, head_dim=4, dim=10, hidden=14, vocab_size=30)
S = 12
TEXT = np.random.default_rng(0).integers(2, 30, (3, S)).astype(np.int32)
TEXT[1, 5:], TEXT[2, 1:] = 0, 0


@pytest.fixture(scope="module")
def theirs():
    """A state dict as transformers writes it, of random weights."""
    rng = np.random.default_rng(1)
    sizes = shapes(T5, FrozenT5(CONFIG).shapes())
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in sizes.items()}


@pytest.fixture(scope="module")
def params(theirs):
    return read(T5, theirs, FrozenT5(CONFIG).shapes())


def bucket(distance):
    """Of key - query, in integers: 8 distances each, then borders at 8 * 2 ** (k / 2)."""
    side, size = 16 * (distance > 0), abs(distance)
    if size < 8:
        return side + size
    # 8 * 2 ** (k / 2) <= size, squared.
    steps = sum(64 * 2**k <= size**2 for k in range(1, 8))
    return side + 8 + steps


def norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def by_numpy(w, text):
    """[S, D] of one text, by the tensors of transformers' names."""
    w = {name.removeprefix("encoder."): array.astype(np.float64) for name, array in w.items()}
    heads, size = CONFIG.heads, CONFIG.head_dim
    first = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    bias = np.array([[w[first][bucket(j - i)] for j in range(S)] for i in range(S)])
    hidden_keys = np.where(text > 0, 0.0, -1e30)
    x = w["shared.weight"][text]
    for layer in range(CONFIG.blocks):
        name = f"block.{layer}.layer.0"
        y = norm(x, w[f"{name}.layer_norm.weight"])
        q, k, v = (
            (y @ w[f"{name}.SelfAttention.{part}.weight"].T).reshape(S, heads, size)
            for part in "qkv"
        )
        out = []
        for head in range(heads):
            logits = q[:, head] @ k[:, head].T + bias[:, :, head] + hidden_keys
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out.append(weights / weights.sum(-1, keepdims=True) @ v[:, head])
        x = x + np.concatenate(out, axis=1) @ w[f"{name}.SelfAttention.o.weight"].T
        name = f"block.{layer}.layer.1"
        y = norm(x, w[f"{name}.layer_norm.weight"])
        dense = f"{name}.DenseReluDense"
        wide = gelu(y @ w[f"{dense}.wi_0.weight"].T) * (y @ w[f"{dense}.wi_1.weight"].T)
        x = x + wide @ w[f"{dense}.wo.weight"].T
    return norm(x, w["final_layer_norm.weight"])


def test_the_states_are_those_of_numpy(theirs, params):
    found = np.asarray(jax.jit(FrozenT5(CONFIG))(params, TEXT))
    assert found.dtype == np.float32
    for states, text in zip(found, TEXT, strict=True):
        real = text > 0
        np.testing.assert_allclose(states[real], by_numpy(theirs, text)[real], atol=1e-4)


def test_distances_share_buckets_as_published():
    found = distance_buckets(200, 32, 128)
    expected = [[bucket(j - i) for j in range(200)] for i in (0, 100, 199)]
    np.testing.assert_array_equal(found[[0, 100, 199]], expected)
    # A bucket each up to 7, then borders at 12, 16, 23, 32, 46, 64, 91.
    borders = np.flatnonzero(np.diff(found[0])) + 1
    assert borders.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    assert found[0, 1] == 17 and found[1, 0] == 1


# ------------------------------------------------------------------ others' weights


@pytest.mark.parametrize(
    ("size", "millions"),
    # Of transformers' encoder: the table of 32,128 pieces, blocks, the bias of the first.
    [("small", 35.3), ("base", 109.6), ("large", 341.2), ("xl", 1223.5), ("xxl", 4762.3)],
)
def test_published_sizes(size, millions):
    found = shapes(T5, FrozenT5(published(size)).shapes())
    total = sum(np.prod(shape, dtype=np.int64) for shape in found.values())
    assert abs(total / 1e6 - millions) < 0.1
    blocks, heads, dim, hidden = SIZES[size]
    last = f"encoder.block.{blocks - 1}.layer"
    assert found[f"{last}.0.SelfAttention.q.weight"] == (64 * heads, dim)
    assert found[f"{last}.0.SelfAttention.o.weight"] == (dim, 64 * heads)
    assert found[f"{last}.1.DenseReluDense.wi_0.weight"] == (hidden, dim)
    assert found["shared.weight"] == (32_128, dim)
    bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    assert found[bias.format(0)] == (32, heads) and bias.format(1) not in found
    assert f"t5_v1_1_{size}" in KINDS


def test_the_table_goes_both_ways_and_the_decoder_is_left_out(theirs, params):
    back = write(T5, params)
    assert back.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array)
    whole = {
        **theirs,
        "encoder.embed_tokens.weight": theirs["shared.weight"],
        "decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros(1),
        "lm_head.weight": np.zeros(1),
    }
    abstract = FrozenT5(CONFIG).shapes()
    found = read(T5, whole, abstract)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert sum(len(keys) for keys in left_out(T5, whole, abstract).values()) == 3
    # T5 1.0 has one product in place of the gated two.
    old = {name.replace("wi_0", "wi"): array for name, array in theirs.items()}
    with pytest.raises(UserError, match="wi_0.weight.*it is of another network"):
        read(T5, old, abstract)


# ------------------------------------------------------------------ a text, read by it


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A SentencePiece model with T5's ids: padding 0, end 1, unknown 2."""
    path = tmp_path_factory.mktemp("t5") / "spiece.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a red ring", "a blue ring", "two rings"] * 5),
            model_writer=file,
            vocab_size=24,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    return path


def test_a_text_ends_in_a_piece_of_its_own(words):
    vocabulary = Vocabulary(words)
    row, cut, empty = vocabulary.encode(["a red ring", "a red ring " * 9, ""], 12)
    count = vocabulary.lengths(["a red ring"])[0]
    assert row[count - 1] == 1 and (row[:count] > 0).all() and not row[count:].any()
    assert cut[-1] == 1 and (cut[:-1] > 2).all() and not empty.any()
    assert vocabulary.decode(row) == "a red ring"
    assert vocabulary.unknown("a ж ring") == "ж"
    assert vocabulary.lengths(["", "a red ring"]) == [0, count]


def test_a_condition_is_the_states_of_its_pieces_and_nothing_is_none(words, params):
    condition = T5Condition(length=S, encoder=CONFIG)
    row = condition.ask("a red ring", Lexicon(Vocabulary(words))).row
    said = np.stack([row, np.zeros_like(row), TEXT[1]])
    found = jax.jit(condition.encoded)({"text_encoder": params}, said)
    counts = [(row > 0).sum(), 1, 5]
    assert found["count"].tolist() == counts
    states = np.asarray(found["states"])
    assert not states[1].any() and not states[0, counts[0] :].any()
    expected = np.asarray(FrozenT5(CONFIG)(params, said))[2, :5]
    np.testing.assert_allclose(states[2, :5], expected, atol=1e-5)
    like = jax.tree.map(lambda a: (a.shape, a.dtype), condition.example(3))
    assert like == jax.tree.map(lambda a: (a.shape, a.dtype), found)
    nothing = condition.nothing(found)
    assert not np.any(nothing["states"]) and nothing["count"].tolist() == counts
    assert condition.asked_by({"text": ["a", "b"]}, Lexicon()) == ["a", "b"]


def test_what_does_not_go_together_is_one_line(words):
    condition = T5Condition(encoder=dataclasses.replace(CONFIG, vocab_size=400), words=str(words))
    size = Vocabulary(words).size
    with pytest.raises(
        UserError, match="has .* pieces and .*vocab_size is 400: the weights are of"
    ):
        condition.with_vocabulary(size)
    with pytest.raises(UserError, match="vocab_size is 5: the weights are of another vocabulary"):
        dataclasses.replace(condition, encoder=T5Config(vocab_size=5)).with_vocabulary(size)
    for name in ("files", "vocabulary_file"):
        field = {"files": "weights", "vocabulary_file": "words"}[name]
        with pytest.raises(UserError, match=f"config.condition.{field} is empty; name"):
            getattr(T5Condition(), name)
    with pytest.raises(UserError, match="config.condition.length is 1; at least 2"):
        T5Condition(length=1)
    assert T5Condition(encoder=CONFIG).with_vocabulary(size).encoder == CONFIG
    assert jnp.shape(T5Condition(encoder=CONFIG).example(2)["count"]) == (2,)
