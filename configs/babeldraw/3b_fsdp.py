"""Babeldraw 3B with its weights split over 16 chips, whole copies of these over the others.

    babeldraw train --config=configs/babeldraw/3b_fsdp.py --workdir=runs/babeldraw_3b \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m

Model, data and schedule of configs/babeldraw/3b.py; another layout for the same 512 chips.
REPORT
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("3b.py", beside=__file__).to_dict()
    config["mesh"] = {"stage": 16, "rules": "fsdp_hybrid"}
    config["train"]["accumulation"] = 2
    # Attention is not computed again, all else is.
    for side in ("encoder", "decoder"):
        config["model"][side]["remat"] = "context"
    return complete(config, variant)
