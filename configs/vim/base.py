"""VIM Base on ImageNet by class: 24 blocks, 16 heads, width 1536, feed-forward 6144.

    babeldraw train --config=configs/vim/base.py --workdir=runs/vim_base \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=imagenet2012

Yu et al., ICLR 2022, Table 2; there on 128 TPU v4. Tokens of ViT-VQGAN Small, 32 x 32 a picture.
FID 8.81 and IS 110.8 there without rejection (Table 8). Not trained here yet.
`--config.condition.kind=nothing` trains it without classes, for the linear probe: 65.1 % there at
block 10, from a tokenizer without perceptual loss. Its 24 blocks without biases have 679M
parameters; the paper's table says 650M in all.

    babeldraw compile --config=configs/vim/base.py --topology=v4:4x4x8

Estimated (docs/compile.md): 14.6 GiB per chip, 0.281 s per step, 3,650 images/s, MFU 0.472 (capped;
raw 0.387), 1.5 days for 450,000 steps on 128 chips.
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
                    "blocks": 24,
                    "heads": 16,
                    "dim": 1536,
                    "hidden": 6144,
                    "dropout": 0.1,
                    "compute": {"dtype": "bfloat16", "remat": "hidden"},
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
