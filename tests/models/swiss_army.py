"""CogView2's networks in plain NumPy, float64, in SwissArmyTransformer's layer order and names.

Stated from the public code: its `model/transformer.py` with `layernorm_order=sandwich`, CogView2's
`sr_pipeline/dsr_model.py` and `itersr_model.py`. A `state` is a state dict, `ids` are those of its
one table; an example has no padding but what the code itself puts before a text.
"""

import math

import numpy as np

from tests.statements import layer_norm, linear, softmax

CODES = 20_000
EPSILON = 1e-5


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def heads_of(x, heads):
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def attended(query, key, value, heads, mask):
    """[T, D] each, `mask` bool [T, S]."""
    query, key, value = (heads_of(x, heads) for x in (query, key, value))
    scores = query / math.sqrt(query.shape[-1]) @ key.swapaxes(1, 2)
    scores = scores * mask - 10_000.0 * (1.0 - mask)
    return (softmax(scores) @ value).swapaxes(0, 1).reshape(mask.shape[0], -1)


def projected(state, name, x):
    """Queries, keys and values of one product, one third behind the other."""
    return np.split(linear(state, name, x), 3, axis=-1)


def stacked(state, x, attention):
    """The blocks and the last norm, of [T, D]; `attention` is of a block's number and its input."""
    number = 0
    while f"transformer.layers.{number}.input_layernorm.weight" in state:
        name = f"transformer.layers.{number}"
        y = attention(number, layer_norm(state, f"{name}.input_layernorm", x, EPSILON))
        x = x + layer_norm(state, f"{name}.third_layernorm", y, EPSILON)
        y = layer_norm(state, f"{name}.post_attention_layernorm", x, EPSILON)
        y = gelu(linear(state, f"{name}.mlp.dense_h_to_4h", y))
        y = linear(state, f"{name}.mlp.dense_4h_to_h", y)
        x = x + layer_norm(state, f"{name}.fourth_layernorm", y, EPSILON)
        number += 1
    return layer_norm(state, "transformer.final_layernorm", x, EPSILON)


def vectors(state, ids, positions):
    table = state["transformer.word_embeddings.weight"].astype(np.float64)
    return table[ids] + state["transformer.position_embeddings.weight"][positions]


def logits(state, hidden, rows=slice(None)):
    return hidden @ state["transformer.word_embeddings.weight"][rows].astype(np.float64).T


def coglm(state, ids, positions, mask, heads):
    """Hidden states of one sequence, [T, D]."""

    def attention(number, x):
        name = f"transformer.layers.{number}.attention"
        y = attended(*projected(state, f"{name}.query_key_value", x), heads, mask)
        return linear(state, f"{name}.dense", y)

    return stacked(state, vectors(state, ids, positions), attention)


# ------------------------------------------------------------------ super-resolution


def window(fine, coarse, size):
    """bool [fine cells, coarse cells], around the cell in which each lies, whole for one grid."""
    factor = fine[0] // coarse[0]
    found = np.zeros((*fine, *coarse), bool)
    for y in range(fine[0]):
        for x in range(fine[1]):
            row, column = y // factor, x // factor
            for other_row in range(coarse[0]):
                for other in range(coarse[1]):
                    down, right = abs(other_row - row), abs(other - column)
                    inside = down <= size[0] // 2 and right <= size[1] // 2
                    found[y, x, other_row, other] = inside
    return found.reshape(fine[0] * fine[1], -1)


def fine_vectors(state, ids):
    table = state["mixins.extra_position_embedding.position_embeddings.weight"]
    return state["transformer.word_embeddings.weight"][ids].astype(np.float64) + table


def direct(state, ids, positions, mask, fine_ids, across, around, heads):
    """Hidden states of the large codes, [T, D].

    Args:
      ids, positions, mask: of what the base sees, whose last cells are the small codes.
      fine_ids: of the large codes.
      across, around: bool [T, small cells] and [T, T], the windows.
    """
    base = len(ids)

    def attention(number, x):
        name, plus = f"transformer.layers.{number}.attention", "mixins.attention_plus"
        q0, k0, v0 = projected(state, f"{name}.query_key_value", x[:base])
        q1, k1, v1 = projected(state, f"{plus}.query_key_value.{number}", x[base:])
        small = across.shape[1]
        keys, values = np.concatenate([k0[-small:], k1]), np.concatenate([v0[-small:], v1])
        both = np.concatenate([across, around], axis=1)
        y0 = linear(state, f"{name}.dense", attended(q0, k0, v0, heads, mask))
        y1 = attended(q1, keys, values, heads, both)
        return np.concatenate([y0, linear(state, f"{plus}.dense.{number}", y1)])

    x = np.concatenate([vectors(state, ids, positions), fine_vectors(state, fine_ids)])
    return stacked(state, x, attention)[base:]


def iterative(state, ids, fine_ids, around, heads):
    """Hidden states of the large codes, which see all of a text and a window."""
    text = len(ids)
    mask = np.zeros((text + len(fine_ids),) * 2, bool)
    mask[:, :text], mask[text:, text:] = True, around

    def attention(number, x):
        name = f"transformer.layers.{number}.attention"
        y = attended(*projected(state, f"{name}.query_key_value", x), heads, mask)
        return linear(state, f"{name}.dense", y)

    x = np.concatenate([vectors(state, ids, np.arange(text)), fine_vectors(state, fine_ids)])
    return stacked(state, x, attention)[text:]
