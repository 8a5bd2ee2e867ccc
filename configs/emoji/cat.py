"""CAT's nested VAE on emoji, 64 px: 8 x 8, 4 x 4 or 2 x 2 codes of 8 channels, with LPIPS.

    babeldraw emoji --out=data/emoji_64 --size=64
    babeldraw train --config=configs/emoji/cat.py --workdir=runs/emoji_cat \\
        --config.data.path=data/emoji_64 --config.perceptual.file=vgg_lpips.safetensors

Losses are those of configs/emoji/tokenizer.py; the weight of the divergence is a guess. Not trained
to its end yet. A generator draws into one level of it: docs/cat.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

# A place of the first level is 4 x 4 pixels: filters of 16 and 32 channels over all pixels were
# 60 % of a step at 128 px on a CPU.
NETWORK = {
    "channels": 16,
    "multipliers": (4, 6, 8, 8),
    "patch_size": 4,
    "encoder_blocks": 1,
    "decoder_blocks": 2,
    "latent_channels": 8,
    "latent_kernel": 3,
    "attention": True,
    "middle_attention_alone": True,
    "shortcut": "input",
    "bias": True,
    "down": "convolution",
    "groups": 8,
}
TOKENIZER = {
    "kind": "nested_vae",
    "network": NETWORK,
    "strides": (8, 16, 32),
    "image_size": (64, 64),
    "linear_shortcut": True,
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("tokenizer.py", beside=__file__).to_dict()
    config["tokenizer"] = TOKENIZER
    config["loss"] |= {"kl": 1e-6, "restart_below": 0.0}
    return complete(config, variant)
