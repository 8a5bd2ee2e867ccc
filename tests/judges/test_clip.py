"""CLIP against a NumPy statement of transformers' layer order; its layouts, published sizes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.convert import clip as tables
from babeldraw.convert.table import left_out, read, shapes, write
from babeldraw.errors import UserError
from babeldraw.judges.clip import (
    CLIP,
    CLIPS,
    DEVIATION,
    MEAN,
    CLIPConfig,
    TextTower,
    clip_shapes,
    prepared,
    text_shapes,
)
from babeldraw.judges.features import NETWORKS, network
from babeldraw.judges.pillow import cropped
from babeldraw.judges.vit import ViTConfig
from babeldraw.runs.weights import flatten
from tests.statements import attend, even_tensors, layer_norm, linear, patches

BASE = CLIPS["clip_b32"]
TEXT = dataclasses.replace(BASE.text, blocks=2, heads=2, dim=12, hidden=20)
IMAGE = dataclasses.replace(TEXT, blocks=3, dim=16)
SMALL = CLIPConfig(ViTConfig(IMAGE, 16, 1e-5, before=True, trained_side=32, side=32), TEXT, 6, 9, 7)
RNG = np.random.default_rng(0)
PICTURES = RNG.normal(size=(3, 32, 32, 3)).astype(np.float32)
# Of no word, of two, and of as many as there is room for.
IDS = np.array([[7, 8, 0, 0, 0, 0, 0], [7, 1, 0, 8, 0, 0, 0], [7, 5, 4, 3, 2, 1, 8]], np.int32)


def state():
    return even_tensors(shapes(tables.TRANSFORMERS, clip_shapes(SMALL)))


# ------------------------------------------------------------------ transformers', in NumPy


def blocks(weights, name, x, heads, count, seen=None):
    for i in range(count):
        layer = f"{name}.encoder.layers.{i}"
        y = layer_norm(weights, f"{layer}.layer_norm1", x, 1e-5)
        query, key, value = (linear(weights, f"{layer}.self_attn.{n}_proj", y) for n in "qkv")
        x = x + linear(
            weights, f"{layer}.self_attn.out_proj", attend(query, key, value, heads, seen)
        )
        y = linear(
            weights, f"{layer}.mlp.fc1", layer_norm(weights, f"{layer}.layer_norm2", x, 1e-5)
        )
        x = x + linear(weights, f"{layer}.mlp.fc2", y / (1 + np.exp(-1.702 * y)))
    return x


def of_pictures(weights, images, config):
    name, x = "vision_model", patches(weights, "vision_model.embeddings.patch_embedding", images)
    x = x.reshape(len(x), -1, x.shape[-1])
    row = np.broadcast_to(weights[f"{name}.embeddings.class_embedding"], (len(x), 1, x.shape[-1]))
    x = np.concatenate([row, x], axis=1) + weights[f"{name}.embeddings.position_embedding.weight"]
    x = layer_norm(weights, f"{name}.pre_layrnorm", x, 1e-5)
    x = blocks(weights, name, x, config.heads, config.blocks)
    x = layer_norm(weights, f"{name}.post_layernorm", x[:, 0], 1e-5)
    return linear(weights, "visual_projection", x)


def of_tokens(weights, ids, config, count):
    """What `count` blocks make of tokens, and the last norm of that."""
    name, length = "text_model", ids.shape[1]
    x = weights[f"{name}.embeddings.token_embedding.weight"].astype(np.float64)[ids]
    x = x + weights[f"{name}.embeddings.position_embedding.weight"][:length]
    x = blocks(weights, name, x, config.heads, count, np.tri(length, dtype=bool))
    return x, layer_norm(weights, f"{name}.final_layer_norm", x, 1e-5)


def of_texts(weights, ids, config):
    x = of_tokens(weights, ids, config, config.blocks)[1]
    ends = [list(row).index(SMALL.words - 1) for row in ids]
    return linear(weights, "text_projection", x[np.arange(len(ids)), ends])


# ------------------------------------------------------------------ the network


def test_both_towers_are_those_of_transformers_layer_order():
    weights = state()
    params = read(tables.TRANSFORMERS, weights, clip_shapes(SMALL))["clip"]
    images, texts = jax.jit(CLIP(SMALL).apply)({"params": params}, PICTURES, IDS)
    expected = of_pictures(weights, PICTURES.astype(np.float64), IMAGE)
    np.testing.assert_allclose(images, expected, atol=1e-4)
    np.testing.assert_allclose(texts, of_texts(weights, IDS, TEXT), atol=1e-4)
    assert expected.std() > 0.1 and np.std(texts) > 0.1


def test_states_are_those_before_the_last_block_and_the_normed_last_ones():
    weights = state()
    tower = read(tables.TRANSFORMERS, weights, clip_shapes(SMALL))["clip"]["text"]
    # Of shorter texts the first places are read.
    ids = IDS[:2, :5]
    run = jax.jit(functools.partial(TextTower(SMALL).apply, method="states"))
    found = run({"params": tower}, ids)
    before, last = of_tokens(weights, ids, TEXT, 1)[0], of_tokens(weights, ids, TEXT, 2)[1]
    np.testing.assert_allclose(found["states"], before, atol=1e-4)
    np.testing.assert_allclose(found["last"], last, atol=1e-4)
    np.testing.assert_allclose(found["pooled"], of_texts(weights, ids, TEXT), atol=1e-4)
    assert np.abs(before - last).max() > 0.1


@pytest.mark.parametrize("layout", ["TRANSFORMERS", "OPENAI"])
def test_the_tower_of_texts_is_read_alone_and_the_other_is_told(layout):
    table, whole = getattr(tables, layout), clip_shapes(SMALL)
    theirs = even_tensors(shapes(table, whole))
    expected = flatten(read(table, theirs, whole)["clip"]["text"])
    found = flatten(read(tables.of_text(table), theirs, text_shapes(SMALL))["clip"]["text"])
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    (why,) = left_out(tables.of_text(table), theirs, text_shapes(SMALL))
    assert why == "the tower of pictures"


def test_what_stands_behind_the_end_of_a_text_changes_nothing():
    params = read(tables.TRANSFORMERS, state(), clip_shapes(SMALL))["clip"]
    run = jax.jit(CLIP(SMALL).apply)
    others = np.where(IDS == 0, 3, IDS)
    others[1, 2] = 0
    _, first = run({"params": params}, PICTURES, IDS)
    _, second = run({"params": params}, PICTURES, others)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_openai_s_names_hold_the_same_numbers():
    abstract, held = clip_shapes(SMALL), state()
    params = read(tables.TRANSFORMERS, held, abstract)
    theirs = write(tables.OPENAI, params)
    layer = "vision_model.encoder.layers.1.self_attn"
    one = np.concatenate([held[f"{layer}.{name}_proj.weight"] for name in "qkv"])
    found = theirs["visual.transformer.resblocks.1.attn.in_proj_weight"]
    np.testing.assert_array_equal(found, one)
    np.testing.assert_array_equal(theirs["visual.proj"], held["visual_projection.weight"].T)
    np.testing.assert_array_equal(theirs["text_projection"], held["text_projection.weight"].T)
    half = {name: array.astype(np.float16) for name, array in theirs.items()}
    again = flatten(read(tables.OPENAI, half, abstract))
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(again[name], array.astype(np.float16).astype(np.float32))
    back = write(tables.TRANSFORMERS, params)
    assert all(back[name].tobytes() == array.tobytes() for name, array in held.items())


def published(width, patch, places, blocks, text_width, dim):
    """Names and shapes of a `CLIPModel`, by its config."""
    found = {"visual_projection.weight": (dim, width), "text_projection.weight": (dim, text_width)}
    for name, own, layers, norms in (
        ("vision_model", width, blocks, ("pre_layrnorm", "post_layernorm")),
        ("text_model", text_width, 12, ("final_layer_norm",)),
    ):
        each = {f"layer_norm{i}": (own,) for i in (1, 2)}
        each |= {f"self_attn.{part}_proj": (own, own) for part in ("q", "k", "v", "out")}
        each |= {"mlp.fc1": (4 * own, own), "mlp.fc2": (own, 4 * own)}
        for i in range(layers):
            for layer, shape in each.items():
                found[f"{name}.encoder.layers.{i}.{layer}.weight"] = shape
                found[f"{name}.encoder.layers.{i}.{layer}.bias"] = shape[:1]
        for norm in norms:
            found |= {f"{name}.{norm}.{kind}": (own,) for kind in ("weight", "bias")}
    return found | {
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.position_embedding.weight": (places, width),
        "text_model.embeddings.token_embedding.weight": (49408, text_width),
        "text_model.embeddings.position_embedding.weight": (77, text_width),
    }


@pytest.mark.parametrize(
    ("kind", "sizes", "count"),
    [
        ("clip_b32", (768, 32, 50, 12, 512, 512), 151_277_313),
        ("clip_b16", (768, 16, 197, 12, 512, 512), 149_620_737),
        ("clip_l14", (1024, 14, 257, 24, 768, 768), 427_616_513),
    ],
)
def test_the_published_ones_have_their_tensors(kind, sizes, count):
    abstract = clip_shapes(CLIPS[kind])
    found = shapes(tables.TRANSFORMERS, abstract)
    assert found == published(*sizes)
    # The temperature is one more.
    assert sum(int(np.prod(shape)) for shape in found.values()) + 1 == count
    others = ["logit_scale", "text_model.embeddings.position_ids"]
    spare = left_out(tables.TRANSFORMERS, [*found, *others], abstract)
    assert sorted(sum(spare.values(), [])) == others
    assert NETWORKS[kind].dim == sizes[-1]


# ------------------------------------------------------------------ features of pictures


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Weights of a small network of 224 px in place of B/32's."""
    image = dataclasses.replace(SMALL.image, patch_size=32, side=224, trained_side=224)
    small = dataclasses.replace(SMALL, image=image)
    monkeypatch.setitem(CLIPS, "clip_b32", small)
    weights = even_tensors(shapes(tables.TRANSFORMERS, clip_shapes(small)), 2)
    params = flatten(read(tables.TRANSFORMERS, weights, clip_shapes(small)))
    save_file(params, tmp_path / "clip.safetensors")
    return str(tmp_path / "clip.safetensors"), weights


@pytest.mark.slow
def test_features_are_embeddings_of_prepared_pictures(file):
    path, weights = file
    images = RNG.integers(0, 256, (2, 40, 60, 3), np.uint8)
    found = jax.jit(lambda f, x: f(x))(network("clip_b32", path), images)
    seen = (np.asarray(cropped(images), np.float64) - MEAN) / DEVIATION
    np.testing.assert_allclose(prepared(images), seen, atol=1e-5)
    np.testing.assert_allclose(found, of_pictures(weights, seen, IMAGE), atol=1e-4)


def test_a_file_of_another_size_is_one_line(file):
    path, _ = file
    with pytest.raises(UserError, match=r"^file=.*: clip/image/\S+ has the shape .* is needed$"):
        network("clip_b16", path)
    with pytest.raises(UserError, match=r"^file=.* holds clip/.*: of another network than"):
        network("dinov2_s14", path)
    with pytest.raises(UserError, match=r"^file=no.safetensors is not there$"):
        network("clip_l14", "no.safetensors")
