"""DiT's weights: every tensor has its place, and a forward pass is that of the published module.

The module is stated here in NumPy, from its article and names; see `models.dit`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.dit import dit
from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import read
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.dit import DiTConfig, DiTGenerator
from babeldraw.runs.weights import write_weights
from babeldraw.tokenizers.base import Codes
from tests.statements import attend, linear, normalized, random_tensors

C, D, HEADS, BLOCKS, CLASSES, PATCH, GRID = 3, 16, 4, 2, 5, 2, (4, 6)
STACK = TransformerConfig(BLOCKS, HEADS, D, 4 * D, activation="gelu", bias=True)
LABELS, TIMES = np.array([0, 4, CLASSES]), np.array([999.0, 250.0, 3.0])
NOISY = np.random.default_rng(1).normal(size=(3, *GRID, C))


def generator(stack, patch, codes, classes):
    config = DiTConfig(stack, patch_size=patch, learned_sigma=True)
    return DiTGenerator(config, ClassCondition(classes, 0.1), codes)


SMALL = generator(STACK, PATCH, Codes(GRID, (), C), CLASSES)


def shapes(blocks, dim, patch, channels, slots, classes):
    """{name: shape} of the published module with learned sigma."""
    found = {
        "pos_embed": (1, slots, dim),
        "x_embedder.proj.weight": (dim, channels, patch, patch),
        "x_embedder.proj.bias": (dim,),
        "y_embedder.embedding_table.weight": (classes + 1, dim),
    }
    linears = {
        "t_embedder.mlp.0": (dim, 256),
        "t_embedder.mlp.2": (dim, dim),
        "final_layer.linear": (patch * patch * channels * 2, dim),
        "final_layer.adaLN_modulation.1": (2 * dim, dim),
    }
    for block in range(blocks):
        linears |= {
            f"blocks.{block}.attn.qkv": (3 * dim, dim),
            f"blocks.{block}.attn.proj": (dim, dim),
            f"blocks.{block}.mlp.fc1": (4 * dim, dim),
            f"blocks.{block}.mlp.fc2": (dim, 4 * dim),
            f"blocks.{block}.adaLN_modulation.1": (6 * dim, dim),
        }
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def abstract(generator):
    return nn.unbox(jax.eval_shape(generator.init, jax.random.key(0)))


TENSORS = random_tensors(shapes(BLOCKS, D, PATCH, C, 6, CLASSES))

# ------------------------------------------------------------------ the module, in NumPy


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def modulated(x, shift, scale):
    return normalized(x, 1e-6) * (1 + scale[:, None]) + shift[:, None]


def positions():
    """The first half by the column, the second by the row; sines, then cosines of each."""
    rates = 1 / 10_000 ** (np.arange(D // 4) / (D // 4))
    found = []
    for row in range(GRID[0] // PATCH):
        for column in range(GRID[1] // PATCH):
            angles = [column * rates, row * rates]
            found.append(np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)]))
    return np.stack(found)


def block(w, name, x, vector):
    moves = np.split(linear(w, f"{name}.adaLN_modulation.1", silu(vector)), 6, axis=-1)
    shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = moves
    qkv = np.split(linear(w, f"{name}.attn.qkv", modulated(x, shift, scale)), 3, axis=-1)
    x = x + gate[:, None] * linear(w, f"{name}.attn.proj", attend(*qkv, HEADS))
    hidden = gelu_tanh(linear(w, f"{name}.mlp.fc1", modulated(x, shift_ffn, scale_ffn)))
    return x + gate_ffn[:, None] * linear(w, f"{name}.mlp.fc2", hidden)


def denoised(w, noisy, times, labels):
    """[B, h, w, 2 C]."""
    (h, wide), p = GRID, PATCH
    cells = noisy.reshape(-1, h // p, p, wide // p, p, C).transpose(0, 1, 3, 5, 2, 4)
    # A convolution sees channels first.
    flat = cells.reshape(len(noisy), (h // p) * (wide // p), -1)
    proj = w["x_embedder.proj.weight"].astype(np.float64).reshape(D, -1)
    x = flat @ proj.T + w["x_embedder.proj.bias"] + positions()
    angles = times[:, None] * np.exp(-math.log(10_000) * np.arange(128) / 128)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    time = linear(w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", waves)))
    vector = time + w["y_embedder.embedding_table.weight"][labels]
    for number in range(BLOCKS):
        x = block(w, f"blocks.{number}", x, vector)
    moves = linear(w, "final_layer.adaLN_modulation.1", silu(vector))
    shift, scale = np.split(moves, 2, axis=-1)
    x = linear(w, "final_layer.linear", modulated(x, shift, scale))
    x = x.reshape(-1, h // p, wide // p, p, p, 2 * C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(noisy), h, wide, 2 * C)


def test_a_forward_pass_is_that_of_the_published_module():
    params = read(dit(SMALL.config), TENSORS, abstract(SMALL))
    inputs = jnp.int32(LABELS), jnp.float32(NOISY), jnp.float32(TIMES)
    found = jax.jit(SMALL.predicted)(params, *inputs)
    expected = denoised(TENSORS, NOISY, TIMES, LABELS)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------ every tensor has its place


def test_export_after_import_gives_the_same_bytes(tmp_path):
    file, network = tmp_path / "dit.safetensors", NETWORKS["dit"]
    write_weights(file, TENSORS, {})
    params, left, _ = network.read("torch", str(file), SMALL.config, abstract(SMALL))
    assert left == {"positions, computed from the sizes": ["pos_embed"]}
    again = network.write("torch", SMALL.config, params)
    assert again.keys() == TENSORS.keys() - {"pos_embed"}
    for name, tensor in again.items():
        assert tensor.tobytes() == TENSORS[name].tobytes(), name


@pytest.mark.parametrize(
    ("dim", "blocks", "heads", "patch", "millions"),
    [
        (1152, 28, 16, 2, 675.130),
        (1024, 24, 16, 2, 458.103),
        (768, 12, 12, 4, 130.476),
        (384, 12, 6, 8, 33.148),
    ],
    ids=["XL/2", "L/2", "B/4", "S/8"],
)
def test_the_published_sizes(dim, blocks, heads, patch, millions):
    stack = TransformerConfig(blocks, heads, dim, 4 * dim, activation="gelu", bias=True)
    ours = generator(stack, patch, Codes((32, 32), (), 4), 1000)
    slots, params = (32 // patch) ** 2, abstract(ours)
    theirs = shapes(blocks, dim, patch, 4, slots, 1000)
    total = sum(math.prod(shape) for shape in theirs.values())
    assert total == pytest.approx(millions * 1e6, abs=500)
    # They count the positions, which are no parameters here.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total - slots * dim
    needed = {n: np.broadcast_to(np.float32(0), s) for n, s in theirs.items()}
    if dim == 384:
        read(dit(ours.config), needed, params)


def test_a_file_of_another_size_is_refused():
    others = random_tensors(shapes(BLOCKS, D, 1, C, 24, CLASSES))
    with pytest.raises(UserError, match=r"x_embedder.proj.weight.*\(16, 3, 2, 2\)"):
        read(dit(SMALL.config), others, abstract(SMALL))
