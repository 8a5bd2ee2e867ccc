"""Babeldraw 3B: 12 encoder and 36 decoder blocks of width 2,048, feed-forward 8,192, 32 heads.

    babeldraw train --config=configs/babeldraw/3b.py --workdir=runs/babeldraw_3b \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m

Parti, Table 1; 3.02B parameters in the blocks. Batch 8192, 450,000 steps. Zero-shot FID on
MS-COCO 8.10 there, from data that are not public. Layout of the paper: 4-way in-layer model
parallelism by 128-way data parallelism, 512 devices.
configs/babeldraw/3b_fsdp.py splits the weights instead, and is 1.8 times as fast by estimate.

    babeldraw compile --config=configs/babeldraw/3b.py --topology=v4:4x8x16

Estimated (docs/compile.md): 20.0 GiB per chip, 2.92 s a step, 2,800 images/s, MFU 0.287 (capped;
raw 0.243), 15.2 days for 450,000 steps.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {
    "heads": 32,
    "dim": 2048,
    "hidden": 8192,
    "dropout": 0.1,
    "compute": {"dtype": "bfloat16", "remat": "hidden"},
}
GATHERED = {"dtype": "bfloat16", "remat": "gathered"}
TOKENIZER = {"blocks": 8, "heads": 8, "dim": 512, "hidden": 2048}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "generator",
            "train": {
                "steps": 450_000,
                "batch_size": 8192,
                "accumulation": 8,
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
                # Of the encoder's few tokens gathering again is quick.
                "decoder": {"blocks": 36, **STACK, "compute": GATHERED},
            },
            # Adafactor, its constants and the schedule are the defaults: see OptimizerConfig.
            "optimizer": {},
            "mesh": {"model": 4, "rules": "in_layer"},
        },
        variant,
    )
