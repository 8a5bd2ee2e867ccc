"""Babeldraw 3B with its weights split over 16 chips, whole copies of these over the others.

    babeldraw train --config=configs/babeldraw/3b_fsdp.py --workdir=runs/babeldraw_3b \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m

Model, data and schedule of configs/babeldraw/3b.py; another layout for the same 512 chips.

    babeldraw compile --config=configs/babeldraw/3b_fsdp.py --topology=v4:4x8x16

Estimated (docs/compile.md): 13.8 GiB per chip, 1.63 s a step, 5,040 images/s, MFU 0.517 (capped;
raw 0.466), 8.5 days for 450,000 steps; with `--config.train.accumulation=2` 8.9 GiB and 0.470.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("3b.py", beside=__file__).to_dict()
    config["mesh"] = {"stage": 16, "rules": "fsdp_hybrid"}
    config["train"]["accumulation"] = 1
    # Attention is not computed again, all else is.
    for side in ("encoder", "decoder"):
        config["model"][side]["compute"]["remat"] = "context"
    return complete(config, variant)
