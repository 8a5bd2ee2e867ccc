"""The three maskings, slot by slot, against brute force in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.masks import by_role
from babeldraw.models.arrangement import EMPTY, SEES, Joint

H, W, S, CODES, PIECES, START = 5, 6, 6, 40, 20, 9
T = H * W
JOINT = Joint(CODES, PIECES, (H, W), S, START)
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, CODES, T).astype(np.int32)
# Four pieces, all six, one, none.
TEXTS = [[7, 3, 19, 2, 0, 0], [1, 2, 3, 4, 5, 6], [8, 0, 0, 0, 0, 0], [0] * 6]
BOI, BOT = CODES + PIECES, CODES + PIECES + 1


def slots(arrangement):
    """What of a sequence is not empty: id, position, target (None: none) of each; its mask."""
    a = jax.tree.map(np.asarray, arrangement)
    assert all(array.shape == (S + T,) for array in jax.tree.leaves(a))
    assert all(array.dtype == np.int32 for array in (a.ids, a.positions, a.roles, a.targets))
    there = np.flatnonzero(a.roles != EMPTY)
    assert not a.weights[a.roles == EMPTY].any() and set(a.weights) <= {0, 1}
    mask = np.asarray(by_role(SEES, arrangement.roles[None]))[0]
    # Nothing looks at an empty slot but another.
    assert not mask[np.ix_(there, np.flatnonzero(a.roles == EMPTY))].any()
    targets = [int(a.targets[i]) if a.weights[i] else None for i in there]
    return list(zip(a.ids[there], a.positions[there], targets, strict=True)), mask[
        np.ix_(there, there)
    ]


def expected(tokens, sees):
    """`tokens` of (id, position, target, kind, data); `sees(query, key)` of numbered tokens."""
    mask = np.zeros((len(tokens), len(tokens)), bool)
    for q, k in np.ndindex(mask.shape):
        mask[q, k] = sees(q, k)
    return [token[:3] for token in tokens], mask


def check(found, wanted):
    assert [tuple(map(_plain, token)) for token in found[0]] == [
        tuple(map(_plain, token)) for token in wanted[0]
    ]
    np.testing.assert_array_equal(found[1], wanted[1])


def _plain(value):
    return None if value is None else int(value)


@pytest.mark.parametrize("text", TEXTS)
def test_text_to_image(text):
    real = [piece for piece in text if piece]
    n = len(real)
    tokens = [(CODES + piece, i, None) for i, piece in enumerate(real)]
    tokens += [(BOI if i == 0 else PICTURE[i - 1], START + i, PICTURE[i]) for i in range(T)]
    arranged = jax.jit(JOINT.text_to_image)(jnp.array(text, jnp.int32), PICTURE)
    check(slots(arranged), expected(tokens, lambda q, k: k < n or (q >= n and k <= q)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("corners", [[], [0], [5, 0], [11, 4, 6]])
def test_image_to_text(text, corners):
    patch, real = 3, [piece for piece in text if piece]
    hidden, predicts = set(), set()
    for corner in corners:
        top, left = corner // (W - patch + 1), corner % (W - patch + 1)
        for row in range(top, top + patch):
            for column in range(left, left + patch):
                hidden.add(row * W + column)
                if column < left + patch - 1:
                    predicts.add(row * W + column)
    assert all(place + 1 in hidden for place in predicts)
    tokens = [
        (PICTURE[i], START + 1 + i, PICTURE[i + 1] if i in predicts else None) for i in range(T)
    ]
    ended = ([*real, 0] if real else [])[:S]
    said = [BOT, *(CODES + piece for piece in real)][: len(ended)]
    tokens += [(said[i], i, CODES + ended[i]) for i in range(len(ended))]

    def sees(q, k):
        if q >= T:
            return k <= q
        known = k < T and k not in hidden
        return known or (q in hidden and k in hidden and k <= q)

    ids = jnp.array(corners, jnp.int32)
    arranged = JOINT.image_to_text(jnp.array(text, jnp.int32), jnp.asarray(PICTURE), ids, patch)
    check(slots(arranged), expected(tokens, sees))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("firsts", "sizes"), [([0], [1]), ([1, 3], [2, 0]), ([0, 2], [1, 9]), ([4, 0], [3, 3])]
)
def test_text_spans(text, firsts, sizes):
    real = [piece for piece in text if piece]
    n, hidden, predicts = len(real), set(), set()
    for first, size in zip(firsts, sizes, strict=True):
        if size:
            hidden |= {i for i in range(first, first + size + 1) if i < n}
            predicts |= {i for i in range(first, first + size) if i + 1 < n}
    assert all(place + 1 in hidden for place in predicts)
    tokens = [
        (CODES + piece, i, CODES + real[i + 1] if i in predicts else None)
        for i, piece in enumerate(real)
    ]
    arranged = JOINT.text_spans(
        jnp.array(text, jnp.int32), jnp.array(firsts, jnp.int32), jnp.array(sizes, jnp.int32)
    )
    check(
        slots(arranged),
        expected(tokens, lambda q, k: k not in hidden or (q in hidden and k <= q)),
    )
