"""The emoji demo's generator by diffusion on CAT's nested VAE: 4 x 4 codes by default.

    babeldraw train --config=configs/emoji/cat.py --workdir=runs/emoji_cat \\
        --config.data.path=data/emoji_64 --config.perceptual.file=vgg_lpips.safetensors
    babeldraw train --config=configs/emoji/cat_dit.py --workdir=runs/emoji_cat_dit \\
        --config.data.path=data/emoji_64 --config.tokenizer_run=runs/emoji_cat

The argument, as in `configs/emoji/cat_dit.py:8`, is the level: 8, 16 or 32 pixels to a code; or
`all`, one network for all three, of four pictures two at 16 pixels, packed. All else is that of
configs/emoji/dit.py. Not trained to its end yet.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

TOKENIZER = load_config("cat.py", beside=__file__)["tokenizer"]


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a level, 16 if not said, or all; and runlocal for a few quick steps."""
    level = (asked := chosen(argument, level=("16", "8", "32", "all")))["level"]
    config = load_config("dit.py", beside=__file__).to_dict()
    config |= {"tokenizer": TOKENIZER.to_dict(), "level": "16" if level == "all" else level}
    if level == "all":
        config["levels"] = {"counts": (1, 2, 1), "packed": True}
    return complete(config, asked["variant"])
