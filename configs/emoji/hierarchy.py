"""A hierarchy on emoji: 8 x 8 codes of 64 px and 24 x 24 of 192 px from one codebook, with LPIPS.

    babeldraw emoji --out=data/emoji_192 --size=192
    babeldraw train --config=configs/emoji/hierarchy.py --workdir=runs/emoji_hierarchy \\
        --config.data.path=data/emoji_192 --config.perceptual.file=vgg_lpips.safetensors

CogView2's two sizes (configs/cogview2/tokenizer.py), 20 x 20 and 60 x 60 there; the tile of its
iterative super-resolution, 6 x 6, divides 24. Losses L1 + MS-SSIM + perceptual; training sees 64
px at 4, 8 and 16 pixels to a code; level 8x3 is that of 192 px.
Trained for 556 steps of 16 pictures: docs/coglm.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

NETWORK = {
    "channels": 32,
    "multipliers": (1, 2, 2, 2, 2),
    "encoder_blocks": 1,
    "decoder_blocks": 1,
    "middle_blocks": 1,
    "latent_channels": 32,
    "latent_kernel": 3,
    "shortcut": "input",
    "bias": True,
    "down": "convolution",
    "groups": 8,
}
TOKENIZER = {
    "kind": "hierarchy",
    "network": NETWORK,
    "decoders": ((1, 2, 2), (1, 1, 2, 2), (1, 1, 1, 2, 2)),
    "image_size": (64, 64),
    "levels": ((8, 1), (8, 3)),
    "quantizer": {"kind": "running_mean", "codebook_size": 1024, "code_dim": 32},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("tokenizer.py", beside=__file__).to_dict()
    config["tokenizer"] = TOKENIZER
    config["loss"] |= {"l1": 1.0, "l2": 0.0, "ms_ssim": 0.2}
    return complete(config, variant)
