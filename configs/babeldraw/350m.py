"""Babeldraw 350M: 12 encoder and 12 decoder blocks of width 1,024, feed-forward 4,096, 16 heads.

    babeldraw train --config=configs/babeldraw/350m.py --workdir=runs/babeldraw_350m \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m

Parti, Table 1; 352.4M parameters in the blocks. Batch 8192, 450,000 steps. Zero-shot FID on
MS-COCO 14.10 there, from data that are not public. Layout of the paper: data parallelism.

    babeldraw compile --config=configs/babeldraw/350m.py --topology=v4:4x4x8

Estimated on 128 chips (docs/compile.md): 18.9 GiB per chip, 0.696 s a step, 11,764 images/s, MFU
0.480 (capped; raw 0.391), 3.6 days for 450,000 steps.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {
    "heads": 16,
    "dim": 1024,
    "hidden": 4096,
    "dropout": 0.1,
    "compute": {"dtype": "bfloat16", "remat": "hidden"},
}
TOKENIZER = {"blocks": 8, "heads": 8, "dim": 512, "hidden": 2048}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "generator",
            "train": {
                "steps": 450_000,
                "batch_size": 8192,
                "accumulation": 2,
                "checkpoint_every": 1000,
            },
            "data": {
                "source": "tfds",
                "path": "laion400m",
                "split": "train[1%:]",
                "eval_split": "train[:1%]",
                "crop": "dalle_generator",
                "workers": 64,
            },
            "tokenizer": {
                "kind": "vit_vqgan",
                "encoder": TOKENIZER,
                "decoder": TOKENIZER,
                "output": "logit_laplace",
            },
            "condition": {"kind": "text"},
            "model": {
                "kind": "babeldraw",
                "encoder": {"blocks": 12, **STACK},
                "decoder": {"blocks": 12, **STACK},
            },
            # Adafactor, its constants and the schedule are the defaults: see OptimizerConfig.
            "optimizer": {},
            "mesh": {"rules": "data_parallel"},
        },
        variant,
    )
