"""RAR on ImageNet by class: next token in random orders, annealed to raster order.

    babeldraw import --kind=maskgit_vqgan --torch=maskgit-vqgan-imagenet-f16-256.bin \\
        --config=configs/maskgit_vqgan.py --config.loss.perceptual=0 --workdir=runs/maskgit_vqgan
    babeldraw tokenize --workdir=runs/maskgit_vqgan --source=tfds --path=imagenet2012 \\
        --split=train --views=10 --out=tokens
    babeldraw train --config=configs/rar.py --workdir=runs/rar_b \\
        --config.tokenizer_run=runs/maskgit_vqgan --config.data.path=tokens

Yu et al., "Randomized Autoregressive Visual Generation", 2024, and the configs in its code; not
trained here. 256 tokens of MaskGIT's VQGAN a picture, 400 epochs.

| row | width x blocks | parameters | FID | IS | images/s, one A100 |
|---|---|---|---|---|---|
| b | 768 x 24 | 260.9M | 1.95 | 290.5 | 17.0 |
| l | 1024 x 24 | 461.7M | 1.70 | 299.5 | 15.0 |
| xl | 1280 x 32 | 955.4M | 1.50 | 306.9 | 8.3 |
| xxl | 1408 x 40 | 1498.5M | 1.48 | 326.0 | 6.4 |

Of L (Table 2 there): raster order alone 3.08, random orders to the end 3.01, annealed from epoch
200 to 300 2.18. What differs from theirs is in `models/rar.py`. Parameters count the rows of tables
that no one reads (`config.model.spare`), which published weights have. These become a run by

    babeldraw import --kind=rar --torch=rar_b.bin --config=configs/rar.py:b \\
        --config.tokenizer_run=runs/maskgit_vqgan --workdir=runs/rar_b
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

TOKENIZER = load_config("maskgit_vqgan.py", beside=__file__)["tokenizer"]
# Width, blocks, feed-forward; guidance, its power and the temperature of the published figures.
ROWS = {
    "b": ((768, 24, 3072), (16.0, 2.75, 1.0)),
    "l": ((1024, 24, 4096), (15.5, 2.5, 1.02)),
    "xl": ((1280, 32, 5120), (6.9, 1.5, 1.02)),
    "xxl": ((1408, 40, 6144), (8.0, 1.2, 1.02)),
}
# What the authors' names leave out: the last norm's modulation too, those of the blocks not.
UNDECAYED = r"bias|norm|table"


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: a row, the first if empty; and runlocal for a few quick steps of it."""
    asked = chosen(variant, row=(*ROWS,))
    (dim, blocks, hidden), (guidance, power, temperature) = ROWS[asked["row"]]
    steps = 250_000
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": 2048, "checkpoint_every": 1000},
        "data": {"source": "tokens", "views": 10},
        "tokenizer": TOKENIZER,
        "condition": {"kind": "class", "num_classes": 1000, "dropout": 0.1},
        "model": {
            "kind": "rar",
            "decoder": {
                "blocks": blocks,
                "heads": 16,
                "dim": dim,
                "hidden": hidden,
                "dropout": 0.1,
                "attention_dropout": 0.1,
                "activation": "gelu_exact",
                "bias": True,
                "compute": {"dtype": "bfloat16", "remat": "hidden"},
            },
            "spare": {"codes": 1, "positions": 1022, "times": 98},
        },
        # Epochs 200 and 300 of 400.
        "prediction": {
            "kind": "permuted_next_token",
            "anneal_start": 125_000,
            "anneal_end": 187_500,
        },
        "sampling": {
            "guidance": guidance,
            "guidance_schedule": "power_cosine",
            "guidance_power": power,
            "temperature": temperature,
        },
        "optimizer": {
            "name": "adamw",
            "b1": 0.9,
            "b2": 0.96,
            "weight_decay": 0.03,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 4e-4,
                "warmup_steps": 62_500,
                "decay_start": 62_500,
                "decay_end": steps,
                "final_ratio": 1 / 40,
                "kind": "cosine",
            },
            # A vector of ours, of three dimensions there: it decays.
            "groups": (
                {"names": "^start$", "decay": True},
                {"names": UNDECAYED, "decay": False},
            ),
        },
        "evaluators": {"samples": {"num": 10, "each": 8}},
    }
    return complete(config, asked["variant"])
