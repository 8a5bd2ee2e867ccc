"""Babeldraw 20B: 16 encoder and 64 decoder blocks of width 4,096, feed-forward 16,384, 64 heads.

    babeldraw train --config=configs/babeldraw/20b.py --workdir=runs/babeldraw_20b \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m

Parti, Table 1; 20.40B parameters in the blocks. Batch 8192, 450,000 steps. Zero-shot FID on
MS-COCO 7.23 there, from data that are not public. Layout of the paper: pipelines of 16 stages, the
encoder's with one round and the decoder's with four, by 64-way data parallelism, 1,024 devices.
configs/babeldraw/20b_fsdp.py splits the weights instead.

    babeldraw compile --config=configs/babeldraw/20b.py --topology=v4:8x8x16

Estimated (docs/compile.md): 19.6 GiB per chip, 6.12 s per step, 1,338 images/s, MFU 0.470 (capped;
raw 0.426), 31.9 days for 450,000 steps.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {
    "heads": 64,
    "dim": 4096,
    "hidden": 16384,
    "dropout": 0.1,
    "compute": {"dtype": "bfloat16", "remat": "full"},
}
TOKENIZER = {"blocks": 8, "heads": 8, "dim": 512, "hidden": 2048}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "generator",
            "train": {"steps": 450_000, "batch_size": 8192, "checkpoint_every": 1000},
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
                "encoder": {"blocks": 16, **STACK},
                "decoder": {"blocks": 64, **STACK},
            },
            # Adafactor, its constants and the schedule are the defaults: see OptimizerConfig.
            "optimizer": {},
            # With 32 microbatches the decoder's bubble is 10 %, with as many as stages 19 %.
            "mesh": {"stage": 16, "rules": "pipeline", "zero1": True, "microbatches": 32},
        },
        variant,
    )
