"""Babeldraw 20B with its weights split over 32 chips, whole copies of these over the others.

    babeldraw train --config=configs/babeldraw/20b_fsdp.py --workdir=runs/babeldraw_20b \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m

Model, data and schedule of configs/babeldraw/20b.py; another layout for the same 1,024 chips.

    babeldraw compile --config=configs/babeldraw/20b_fsdp.py --topology=v4:8x8x16

Estimated (docs/compile.md): 16.5 GiB per chip, 5.42 s a step, 1,512 images/s, MFU 0.531 (capped;
raw 0.504), 28.2 days for 450,000 steps; the paper's pipelines in configs/babeldraw/20b.py take
31.9.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("20b.py", beside=__file__).to_dict()
    config["mesh"] = {"stage": 32, "rules": "fsdp_hybrid"}
    config["train"]["accumulation"] = 1
    return complete(config, variant)
