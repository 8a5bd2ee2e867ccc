"""The demo's tokenizer with nine tokens a picture: shapes, 48 x 48 px, patches of 16, L2 alone.

    babeldraw train --config=configs/demo/tokenizer_coarse.py --workdir=runs/coarse

What configs/demo/decoder_gan.py sharpens.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("tokenizer_gan.py", beside=__file__).to_dict()
    config["tokenizer"]["patch_size"] = 16
    config["loss"]["adversarial"] = 0.0
    config["discriminator"]["kind"] = "none"
    return complete(config, variant)
