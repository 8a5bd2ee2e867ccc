"""VIM Large on ImageNet by class: 36 blocks, 32 heads, width 2048, feed-forward 8192.

    babeldraw train --config=configs/vim/large.py --workdir=runs/vim_large \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=imagenet2012

Yu et al., ICLR 2022, Table 2; there on 128 TPU v4. Tokens of ViT-VQGAN Small, 32 x 32 a picture.
FID 4.17 and IS 175.1 there without rejection, 3.04 and 227.4 with an acceptance of 0.5 by a
ResNet-101. Not trained here yet. `--config.condition.kind=nothing` trains it without classes, for
the linear probe: 73.2 % there at block 15, without dropout (`--config.model.decoder.dropout=0`) and
from a tokenizer without perceptual loss. Its 36 blocks without biases have 1,812M parameters; the
paper's table says 1,697M in all.

    babeldraw compile --config=configs/vim/large.py --topology=v4:4x4x8

Estimated (docs/compile.md): 24.9 GiB per chip, 0.725 s per step, 1,413 images/s, MFU 0.473 (capped;
raw 0.405), 3.8 days for 450,000 steps on 128 chips.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("../vit_vqgan/small.py", beside=__file__)["tokenizer"]


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "generator",
            "train": {"steps": 450_000, "batch_size": 1024, "checkpoint_every": 1000},
            "data": {
                "source": "tfds",
                "path": "imagenet2012",
                "eval_split": "validation",
                "workers": 64,
            },
            "tokenizer": TOKENIZER,
            "condition": {"kind": "class", "num_classes": 1000},
            "model": {
                "kind": "vim",
                "decoder": {
                    "blocks": 36,
                    "heads": 32,
                    "dim": 2048,
                    "hidden": 8192,
                    "dropout": 0.1,
                    "compute": {"dtype": "bfloat16", "remat": "context"},
                },
            },
            "evaluators": {"samples": {"num": 10, "each": 8}},
            # ViT-VQGAN, section 4.2: 4.5e-4 to 1e-5, exponentially from step 80,000. Adafactor,
            # 0.9 and 0.96 are the defaults; weight decay and clipping are not published.
            "optimizer": {
                "schedule": {
                    "peak": 4.5e-4,
                    "warmup_steps": 5_000,
                    "decay_start": 80_000,
                    "decay_end": 450_000,
                    "final_ratio": 1 / 45,
                },
            },
        },
        variant,
    )
