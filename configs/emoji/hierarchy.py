"""A hierarchy on emoji: 8 x 8 codes of 64 px and 24 x 24 of 192 px from one codebook, with LPIPS.

    babeldraw emoji --out=data/emoji_192 --size=192
    babeldraw train --config=configs/emoji/hierarchy.py --workdir=runs/emoji_hierarchy \\
        --config.data.path=data/emoji_192 --config.perceptual.file=vgg_lpips.safetensors

CogView2's two sizes (configs/cogview2/tokenizer.py), 20 x 20 and 60 x 60 there; the tile of its
iterative super-resolution, 6 x 6, divides 24. Losses L1 + MS-SSIM + perceptual; training sees 64
px at 4, 8 and 16 pixels to a code; level 8x3 is that of 192 px.
Argument: 4, as many codes of 4 pixels: of pictures of 32 and, as level 4x3, of 96 px, at a quarter
of the work. Trained for 556 steps of 16 pictures (docs/coglm.md), with 4 for 487
(docs/super_resolution.md).
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

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
    "quantizer": {"kind": "running_mean", "codebook_size": 1024, "code_dim": 32},
}


# Pixels to a code of both sizes, and the side of what training sees.
SIDES = {"8": 64, "4": 32}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: one of `SIDES`, the first if empty; runlocal for a few quick steps."""
    asked = chosen(argument, pixels=(*SIDES,))
    pixels, side = int(asked["pixels"]), SIDES[asked["pixels"]]
    config = load_config("tokenizer.py", beside=__file__).to_dict()
    sizes = {"image_size": (side, side), "levels": ((pixels, 1), (pixels, 3))}
    config["tokenizer"] = TOKENIZER | sizes
    config["loss"] |= {"l1": 1.0, "l2": 0.0, "ms_ssim": 0.2}
    return complete(config, asked["variant"])
