"""A Llama's layers in plain NumPy, from the published modules', by which tests state ours.

Weights are named as LlamaGen's and SEED-Voken's. The sizes are those of the tests' small networks.
"""

import numpy as np

from tests.statements import linear, softmax

GRID, HEADS, BLOCKS = (2, 3), 2, 2


def rms(w, name, x):
    scale = w[f"{name}.weight"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def turned(x, before):
    """[slots, heads, H]: pairs of neighbours by row, then by column; zeros before the picture."""
    out, pairs = np.zeros_like(x), x.shape[-1] // 2
    rates = 10_000.0 ** (-np.arange(pairs // 2) / (pairs // 2))
    for slot in range(before, len(x)):
        row, column = divmod(slot - before, GRID[1])
        turn = np.exp(1j * np.concatenate([row * rates, column * rates]))
        value = (x[slot, :, 0::2] + 1j * x[slot, :, 1::2]) * turn
        out[slot, :, 0::2], out[slot, :, 1::2] = value.real, value.imag
    return out


def attention(w, name, x, before, seen):
    q, k, v = np.split(linear(w, f"{name}.wqkv", x), 3, axis=-1)
    q, k, v = (part.reshape(len(x), HEADS, -1) for part in (q, k, v))
    q, k = turned(q, before), turned(k, before)
    logits = np.einsum("tnh,snh->nts", q, k) / np.sqrt(q.shape[-1])
    out = np.einsum("nts,snh->tnh", softmax(np.where(seen, logits, -1e30)), v)
    return linear(w, f"{name}.wo", out.reshape(len(x), -1))


def block(w, name, x, before, seen, moves=None):
    ones = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0) if moves is None else moves
    gate, gate_ffn, scale, scale_ffn, shift, shift_ffn = ones
    read = rms(w, f"{name}.attention_norm", x) * (1 + scale) + shift
    x = x + gate * attention(w, f"{name}.attention", read, before, seen)
    read = rms(w, f"{name}.ffn_norm", x) * (1 + scale_ffn) + shift_ffn
    ffn = f"{name}.feed_forward"
    hidden = silu(linear(w, f"{ffn}.w1", read)) * linear(w, f"{ffn}.w3", read)
    return x + gate_ffn * linear(w, f"{ffn}.w2", hidden)


def causal(slots):
    return np.tri(slots, dtype=bool)


def logits_open_magvit2(w, label, codes):
    """[T, PRE] and [T, POST] of one picture's codes, int [T]; the second knows the first factor."""
    # The first factor is the lowest digit.
    post, pre = np.divmod(codes, len(w["pre_emb.weight"]))
    vectors = w["pre_emb.weight"][pre] + w["post_emb.weight"][post]
    x = np.stack([w["class_emb.embedding_table.weight"][label], *vectors[:-1]])
    for number in range(BLOCKS):
        x = block(w, f"spatial_blocks.{number}", x, 1, causal(len(x)))
    both = []
    for place, known in enumerate(pre):
        pair = np.stack([x[place], w["pre_emb.weight"][known]])
        both.append(rms(w, "norm", block(w, "factorized_blocks.0", pair, 1, causal(2))))
    both = np.stack(both)
    return [linear(w, f"head.{factor}", both[:, factor]) for factor in range(2)]
