"""Operations of a step by formula, against the trace of the forward pass and published sizes."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from babeldraw.layers.flops import blocks_forward
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from babeldraw.train.traced_flops import traced_flops

ROOT = Path(__file__).parents[2]


def experiment(name):
    config = load_config(f"configs/{name}.py", ROOT / "pyproject.toml", "")
    config.tokenizer_run = "unused"
    return parse(config)


def test_the_formula_is_three_times_the_traced_forward_pass_less_half_of_causal_attention():
    found = experiment("babeldraw/350m")
    generator = found.generator
    params = jax.eval_shape(generator.init, jax.random.key(0))
    text = jax.ShapeDtypeStruct((1, 128), jnp.int32)
    tokens = jax.ShapeDtypeStruct((1, 1024), jnp.int32)

    def logits(params, text, tokens):
        return generator.logits(params, text, tokens)

    traced = traced_flops(logits, nn.unbox(params), text, tokens)
    half = found.model.decoder.blocks * 2 * 1024 * 1024 * found.model.decoder.dim
    parts = found.flops().parts
    ours = sum(number for name, number in parts.items() if "tokenizer" not in name)
    assert ours == pytest.approx(3 * (traced - half), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "condition", "slots"), [("vim/base", (1,), 1024), ("demo/decoder_only", (1, 16), 79)]
)
def test_the_formula_of_a_decoder_only_model_counts_its_prefix(name, condition, slots):
    found = experiment(name)
    generator = found.generator
    params = nn.unbox(jax.eval_shape(generator.init, jax.random.key(0)))
    given = jax.ShapeDtypeStruct(condition, jnp.int32)
    image = jax.ShapeDtypeStruct((1, generator.codes.length), jnp.int32)
    traced = traced_flops(generator.logits, params, given, image)
    half = found.model.decoder.blocks * 2 * slots * slots * found.model.decoder.dim
    parts = found.flops().parts
    assert parts["decoder"] + parts["logits"] == pytest.approx(3 * (traced - half), rel=1e-3)


@pytest.mark.parametrize("name", ["vit_vqgan/decoder", "super_resolution/512", "coca/base"])
def test_recipes_of_several_networks_are_counted_part_by_part(name):
    config = load_config(f"configs/{name}.py", ROOT / "pyproject.toml", "")
    if "perceptual" in config:
        config.perceptual.file, config.tokenizer_run = "unused", "unused"
    found = parse(config).flops()
    assert found.formula.keys() == found.parts.keys()
    assert min(found.parts.values()) > 0


@pytest.mark.slow
def test_a_perceptual_term_of_every_fourth_picture_costs_a_quarter():
    config = load_config("configs/vit_vqgan/small.py", ROOT / "pyproject.toml", "")
    config.perceptual.file = "unused"
    whole = parse(config).flops().parts
    config.perceptual.every = 4
    part = parse(config).flops().parts
    assert part.pop("perceptual network") == pytest.approx(whole.pop("perceptual network") / 4)
    assert part == whole


@pytest.mark.slow
def test_a_discriminator_on_a_frozen_network_counts_that_four_times():
    config = load_config("configs/vit_vqgan/small.py", ROOT / "pyproject.toml", "").to_dict()
    config["perceptual"]["file"] = "unused"
    pair = parse(config).flops().parts["perceptual network"] // 3
    config["loss"]["perceptual"] = 0.0
    config["discriminator"] = {"kind": "projected", "channels": 1, "max_channels": 1}
    config["discriminator"]["mixing"] = "none"
    found = parse(config).flops().parts
    assert "perceptual network" not in found
    # Heads of one channel are nothing beside it.
    assert found["discriminator"] == pytest.approx(4 * pair, rel=0.02)


def test_a_decoder_that_is_trained_alone_counts_three_times_and_its_encoder_once():
    config = load_config("configs/vit_vqgan/decoder.py", ROOT / "pyproject.toml", "")
    config.perceptual.file, config.tokenizer_run = "unused", "unused"
    found, tokens = parse(config), 32 * 32
    parts = found.flops().parts
    # Patches, codes and positions are small beside the blocks.
    encoder = blocks_forward(found.tokenizer.encoder, tokens)
    assert parts["encoder (forward)"] == pytest.approx(encoder, rel=0.15)
    decoder = 3 * blocks_forward(found.tokenizer.decoder, tokens)
    assert parts["decoder"] == pytest.approx(decoder, rel=0.05)


@pytest.mark.parametrize(("name", "chips", "tera"), [("20b", 1024, 790), ("3b", 512, 230)])
def test_operations_of_a_step_of_8192_images_are_known(name, chips, tera):
    found = experiment(f"babeldraw/{name}").flops()
    generator = found.per_example - found.parts["tokenizer (forward)"]
    assert generator * 8192 / chips / 1e12 == pytest.approx(tera, rel=0.005)


def test_a_trace_counts_loops_and_convolutions():
    def fn(x, w, image, kernel):
        y = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]
        conv = jax.lax.conv(image, kernel, (1, 1), "SAME")
        return jnp.sum(y) + jnp.sum(conv)

    shapes = [(3, 4), (4, 4), (2, 6, 8, 8), (7, 6, 3, 3)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert traced_flops(fn, *arrays) == 5 * 2 * 3 * 4 * 4 + 2 * (2 * 7 * 8 * 8) * 6 * 3 * 3
