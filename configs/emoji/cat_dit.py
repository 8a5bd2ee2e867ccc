"""The emoji demo's generator by diffusion on one level of CAT's nested VAE: 4 x 4 codes by default.

    babeldraw train --config=configs/emoji/cat.py --workdir=runs/emoji_cat \\
        --config.data.path=data/emoji_64 --config.perceptual.file=vgg_lpips.safetensors
    babeldraw train --config=configs/emoji/cat_dit.py --workdir=runs/emoji_cat_dit \\
        --config.data.path=data/emoji_64 --config.tokenizer_run=runs/emoji_cat

The argument, as in `configs/emoji/cat_dit.py:8`, is the level: 8, 16 or 32 pixels to a code. All
else is that of configs/emoji/dit.py. Not trained to its end yet.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

TOKENIZER = load_config("cat.py", beside=__file__)["tokenizer"]


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a level, the first if not said; and runlocal for a few quick steps."""
    asked = chosen(argument, level=("16", "8", "32"))
    config = load_config("dit.py", beside=__file__).to_dict()
    config |= {"tokenizer": TOKENIZER.to_dict(), "level": asked["level"]}
    return complete(config, asked["variant"])
