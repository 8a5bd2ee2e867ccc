"""What probes read of a tokenizer: its encoder's output, the mean over its places."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.layers.block import TransformerConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.titok import TiTokConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig

STACK = TransformerConfig(blocks=1, heads=2, dim=16, hidden=32)
SIZES = {"image_size": (8, 12), "patch_size": 4, "quantizer": VQConfig(7, 4)}
# Each with the method that gives its latents.
KINDS = {
    "vit_vqgan": (ViTVQGANConfig(STACK, STACK, **SIZES), "latents"),
    "titok": (TiTokConfig(STACK, STACK, tokens=3, **SIZES), "encoded"),
}
IMAGES = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_a_product_of_them(kind):
    config, latents = KINDS[kind]
    tokenizer = make_tokenizer(config)
    params = nn.unbox(jax.jit(tokenizer.init)(jax.random.key(0)))
    found = jax.jit(tokenizer.features)(params, IMAGES)
    assert found.shape == (2, 16)
    to_code = params["to_code"]
    made = np.asarray(found) @ np.asarray(to_code["weight"]) + np.asarray(to_code["bias"])[None]
    network = tokenizer.network
    each = jax.jit(lambda params: network.apply({"params": params}, IMAGES, method=latents))
    np.testing.assert_allclose(made, np.asarray(each(params)).mean(axis=1), atol=1e-5)
