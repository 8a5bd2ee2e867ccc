"""DINOv2 against a NumPy statement of its layer order; its layouts, published sizes."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.convert import dinov2 as tables
from babeldraw.convert.table import left_out, read, shapes, write
from babeldraw.errors import UserError
from babeldraw.judges.dinov2 import DINOS, dinov2_shapes
from babeldraw.judges.features import NETWORKS, network
from babeldraw.judges.pillow import squeezed
from babeldraw.judges.vit import ViT
from babeldraw.runs.weights import flatten
from tests.statements import attend, even_tensors, gelu, layer_norm, linear, patches

BASE = DINOS["dinov2_s14"]
STACK = dataclasses.replace(BASE.stack, blocks=3, heads=2, dim=12, hidden=20)
# A table of 5 x 5 places, pictures of 3 x 3.
SMALL = dataclasses.replace(BASE, stack=STACK, trained_side=70, side=42)
RNG = np.random.default_rng(0)


def state(config=SMALL, seed=0):
    return even_tensors(shapes(tables.TRANSFORMERS, dinov2_shapes(config)), seed)


# ------------------------------------------------------------------ transformers', in NumPy


def interpolated(grid, wanted):
    """[h, w, D] to [wanted, wanted, D], cell by cell: cubic, a = -3/4, of 0.1 cells more."""

    def weight(x):
        x = abs(x)
        if x < 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0

    size = len(grid)
    found = np.zeros((wanted, wanted, grid.shape[-1]))
    places = [(i + 0.5) / ((wanted + 0.1) / size) - 0.5 for i in range(wanted)]
    for row, y in enumerate(places):
        for column, x in enumerate(places):
            for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    cell = grid[min(max(i, 0), size - 1), min(max(j, 0), size - 1)]
                    found[row, column] += weight(y - i) * weight(x - j) * cell
    return found


def stated(weights, images, config):
    x = patches(weights, "embeddings.patch_embeddings.projection", images)
    wanted, dim = x.shape[1], x.shape[-1]
    places = weights["embeddings.position_embeddings"].astype(np.float64)[0]
    size = round(len(places[1:]) ** 0.5)
    grid = interpolated(places[1:].reshape(size, size, dim), wanted).reshape(-1, dim)
    row = np.broadcast_to(weights["embeddings.cls_token"], (len(x), 1, dim))
    x = np.concatenate([row, x.reshape(len(x), -1, dim)], axis=1)
    x = x + np.concatenate([places[:1], grid])
    for i in range(config.blocks):
        name = f"encoder.layer.{i}"
        y = layer_norm(weights, f"{name}.norm1", x, 1e-6)
        heads = (
            linear(weights, f"{name}.attention.attention.{part}", y)
            for part in ("query", "key", "value")
        )
        y = linear(weights, f"{name}.attention.output.dense", attend(*heads, config.heads))
        x = x + weights[f"{name}.layer_scale1.lambda1"] * y
        y = linear(weights, f"{name}.mlp.fc1", layer_norm(weights, f"{name}.norm2", x, 1e-6))
        x = x + weights[f"{name}.layer_scale2.lambda1"] * linear(
            weights, f"{name}.mlp.fc2", gelu(y)
        )
    return layer_norm(weights, "layernorm", x, 1e-6)[:, 0]


# ------------------------------------------------------------------ the network


def test_the_class_row_is_that_of_the_published_layer_order():
    weights = state()
    params = read(tables.TRANSFORMERS, weights, dinov2_shapes(SMALL))["dinov2"]
    images = RNG.normal(size=(2, 42, 42, 3)).astype(np.float32)
    found = jax.jit(ViT(SMALL).apply)({"params": params}, images)
    expected = stated(weights, images.astype(np.float64), STACK)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_meta_s_names_hold_the_same_numbers():
    abstract, held = dinov2_shapes(SMALL), state()
    params = read(tables.TRANSFORMERS, held, abstract)
    theirs = write(tables.META, params)
    layer = "encoder.layer.2.attention.attention"
    one = np.concatenate([held[f"{layer}.{name}.bias"] for name in ("query", "key", "value")])
    np.testing.assert_array_equal(theirs["blocks.2.attn.qkv.bias"], one)
    scale = held["encoder.layer.1.layer_scale2.lambda1"]
    np.testing.assert_array_equal(theirs["blocks.1.ls2.gamma"], scale)
    again = flatten(read(tables.META, theirs, abstract))
    assert all((again[name] == array).all() for name, array in flatten(params).items())
    back = write(tables.TRANSFORMERS, params)
    assert all(back[name].tobytes() == array.tobytes() for name, array in held.items())
    with pytest.raises(UserError, match="holds register_tokens, which no row of the table takes"):
        read(tables.META, theirs | {"register_tokens": np.zeros((1, 4, 12))}, abstract)


def published(width, blocks):
    """Names and shapes of Meta's state dict of a table of 37 x 37 places."""
    found = {"cls_token": (1, 1, width), "pos_embed": (1, 1370, width)}
    found |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    each = {"norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width)}
    each |= {"attn.proj": (width, width)}
    each |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for i in range(blocks):
        for layer, shape in each.items():
            found[f"blocks.{i}.{layer}.weight"] = shape
            found[f"blocks.{i}.{layer}.bias"] = shape[:1]
        found |= {f"blocks.{i}.ls{part}.gamma": (width,) for part in (1, 2)}
    return found | {f"norm.{kind}": (width,) for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("kind", "sizes", "count"),
    [
        ("dinov2_s14", (384, 12), 22_056_576),
        ("dinov2_b14", (768, 12), 86_580_480),
        ("dinov2_l14", (1024, 24), 304_368_640),
    ],
)
def test_the_published_ones_have_their_tensors(kind, sizes, count):
    abstract = dinov2_shapes(DINOS[kind])
    found = shapes(tables.META, abstract)
    assert found == published(*sizes)
    # What stands for hidden patches is one vector more.
    assert sum(int(np.prod(shape)) for shape in found.values()) + sizes[0] == count
    spare = left_out(tables.META, [*found, "mask_token"], abstract)
    assert [*spare.values()] == [["mask_token"]]
    assert NETWORKS[kind].dim == sizes[0]


@pytest.mark.slow
def test_features_are_of_whole_pictures_at_224_px(tmp_path, monkeypatch):
    small = dataclasses.replace(SMALL, patch_size=56, side=224, trained_side=280)
    monkeypatch.setitem(DINOS, "dinov2_s14", small)
    weights = state(small, 1)
    params = flatten(read(tables.TRANSFORMERS, weights, dinov2_shapes(small)))
    save_file(params, tmp_path / "dinov2.safetensors")
    images = RNG.integers(0, 256, (2, 40, 60, 3), np.uint8)
    features = network("dinov2_s14", str(tmp_path / "dinov2.safetensors"))
    found = jax.jit(lambda f, x: f(x))(features, images)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    seen = (np.asarray(squeezed(images), np.float64) - mean) / deviation
    np.testing.assert_allclose(found, stated(weights, seen, STACK), atol=1e-4)
