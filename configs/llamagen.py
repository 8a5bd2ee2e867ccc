"""LlamaGen: next token by a Llama, from a class or a text, into a convolutional VQGAN's codes.

    babeldraw tokenize --workdir=runs/llamagen_vq --source=tfds --path=imagenet2012 \\
        --split=train --views=10 --out=tokens
    babeldraw train --config=configs/llamagen.py --workdir=runs/llamagen_b \\
        --config.tokenizer_run=runs/llamagen_vq --config.data.path=tokens

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024, and
its code; not trained here. Rows of classes at 256 px, 256 codes of configs/vqgan.py:llamagen_16;
the figures of XL and larger are of models at 384 px, 576 codes, drawn there and made smaller. Of
`1b`, which the code has and the paper has not, none is published; it draws as xl and xxl do.

| row | width x blocks, heads | parameters | FID | guidance |
|---|---|---|---|---|
| b | 768 x 12, 12 | 110.9M | 5.46 | 2.0 |
| l | 1024 x 24, 16 | 342.9M | 3.80 | 2.0 |
| xl | 1280 x 36, 20 | 774.7M | 2.62 | 1.75 |
| xxl | 1536 x 48, 24 | 1,411.0M | 2.34 | 1.75 |
| 1b | 2048 x 22, 32 | 1,199.6M | | |
| 3b | 3200 x 24, 32 | 3,096.7M | 2.18 | 1.65 |

`text` reads a text by pieces of its own, `features` states of FLAN-T5-XL, as published (XL:
777.7M), from beside the stored tokens; docs/llamagen.md says who makes them. As published 50M
pictures of LAION-COCO were learned at 256 px; top-k 1,000 and guidance 7.5 draw. docs/llamagen.md
tells what differs and how published weights become a run.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

TOKENIZER = load_config("vqgan.py", __file__, "llamagen_16")["tokenizer"]
# Width, blocks, heads, guidance.
ROWS = {
    "b": (768, 12, 12, 2.0),
    "l": (1024, 24, 16, 2.0),
    "xl": (1280, 36, 20, 1.75),
    "xxl": (1536, 48, 24, 1.75),
    "1b": (2048, 22, 32, 1.75),
    "3b": (3200, 24, 32, 1.65),
}
CONDITIONS = {
    "class": {"kind": "class", "num_classes": 1000, "dropout": 0.1},
    # Words begin as large as their positions, not 25 times smaller; see docs/llamagen.md.
    "text": {"kind": "text", "length": 120, "dropout": 0.1, "stddev": 0.5},
    "features": {
        "kind": "features",
        "encoder": "t5",
        "length": 120,
        "dim": 2048,
        "dropout": 0.1,
    },
}
BATCH = 256
# 300 epochs of ImageNet.
STEPS = 300 * 1_281_167 // BATCH


def hidden(dim: int) -> int:
    """Of SwiGLU: two thirds of four times the width, up to a multiple of 256."""
    return -(-(8 * dim // 3) // 256) * 256


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, what is drawn from, and runlocal, with commas between them."""
    asked = chosen(argument, row=(*ROWS,), condition=(*CONDITIONS,))
    dim, blocks, heads, guidance = ROWS[asked["row"]]
    classes = asked["condition"] == "class"
    decoder = {
        "blocks": blocks,
        "heads": heads,
        "dim": dim,
        "hidden": hidden(dim),
        "dropout": 0.1,
        "activation": "silu",
        "compute": {"dtype": "bfloat16", "remat": "hidden"},
    }
    config = {
        "objective": "generator",
        "train": {"steps": STEPS, "batch_size": BATCH, "checkpoint_every": 5000},
        # Ten crops, mirrored or not, are published of the models by class alone.
        "data": {"source": "tokens", "views": 10 if classes else 0},
        "tokenizer": TOKENIZER,
        "condition": CONDITIONS[asked["condition"]],
        "model": {
            "kind": "llama",
            "decoder": decoder,
            "token_dropout": 0.1,
            # Pieces are looked up by what they say; states of T5 and classes are seen alike.
            "prefix": "plain" if asked["condition"] == "text" else "zeros",
        },
        "optimizer": {
            "name": "adamw",
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.05,
            "clip_norm": 1.0,
            "schedule": {"peak": 1e-4, "warmup_steps": 0, "kind": "constant"},
        },
        "sampling": {"guidance": guidance} if classes else {"guidance": 7.5, "top_k": 1000},
        # States of a text are drawn from by `babeldraw sample --features` alone.
        "evaluators": {
            "samples": None if asked["condition"] == "features" else {"num": 10, "each": 8}
        },
    }
    return complete(config, asked["variant"])
