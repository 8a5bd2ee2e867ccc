"""MaskGen: a text drawn by masked prediction of two streams, into TiTok's 128 tokens at 256 px.

    babeldraw train --config=configs/maskgen.py --workdir=runs/maskgen_l \\
        --config.tokenizer_run=runs/tatitok_bl128 --config.data.path=laion400m \\
        --config.condition.weights=clip_text.safetensors --config.condition.words=merges.txt

Kim et al., "Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware
One-Dimensional Tokens", 2025. Not trained here. As published, of 500,000 steps of 4,096 at a rate
of 4e-4 and 250,000 at 1e-4, on MJHQ-30K:

| row | FID | GenEval | parameters |
|---|---|---|---|
| l | 7.74 | 0.53 | 604.3M |
| xl | 7.51 | 0.57 | 1,176.6M |

CLIP reads the text once for both: the states before its last block and its embedding go to this
network, those of all its blocks to the decoder of configs/titok.py:tatitok_bl128. Where nothing is
said stands an empty text. With `text` the pieces are the run's own, learned from the beginning, and
with `features` states are given in Python; the tokenizer is bl128 then, whose decoder needs no
text. The first of the two rates is this config's. docs/masked.md and docs/titok.md tell more.

    babeldraw import --kind=maskgen --torch=maskgen_vq_l.bin --config=configs/maskgen.py \\
        --config.tokenizer_run=runs/tatitok_bl128 --workdir=runs/maskgen_l \\
        --config.condition.weights=clip_text.safetensors --config.condition.words=merges.txt
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

# Blocks and width.
ROWS = {"l": (16, 1024), "xl": (20, 1280)}
# And the tokenizer of each.
CONDITIONS = {
    "clip": ({"kind": "clip", "dropout": 0.1}, "tatitok_bl128"),
    "text": ({"kind": "text", "length": 77, "dropout": 0.1}, "bl128"),
    "features": ({"kind": "features", "length": 77, "dim": 768, "dropout": 0.1}, "bl128"),
}
# What the authors' names leave out: norms with what moves them, tables, the text's projection.
UNDECAYED = r"bias|norm|modulation|table|^text/"


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, what is drawn from, and runlocal, with commas between them."""
    asked = chosen(argument, row=(*ROWS,), condition=(*CONDITIONS,))
    blocks, dim = ROWS[asked["row"]]
    condition, tokenizer = CONDITIONS[asked["condition"]]
    stack = {
        "blocks": blocks,
        "heads": 16,
        "dim": dim,
        "hidden": 4 * dim,
        "activation": "gelu",
        "bias": True,
        "compute": {"dtype": "bfloat16", "remat": "hidden"},
    }
    config = {
        "objective": "generator",
        "train": {
            "steps": 500_000,
            "batch_size": 4096,
            "checkpoint_every": 1000,
            "ema": {"decay": 0.999},
        },
        "data": {
            "source": "tfds",
            "path": "laion400m",
            "split": "train[1%:]",
            "eval_split": "train[:1%]",
            "crop": "center",
            "workers": 64,
        },
        "tokenizer": load_config("titok.py", __file__, tokenizer)["tokenizer"],
        "condition": condition,
        # Rows of the codes' table beyond the mask are kept by the authors and read by none.
        "model": {"kind": "maskgen", "stack": stack, "spare": 1001},
        "prediction": {"kind": "masked"},
        "optimizer": {
            "name": "adamw",
            "b2": 0.96,
            "weight_decay": 0.03,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 4e-4,
                "warmup_steps": 10_000,
                "decay_start": 10_000,
                "decay_end": 500_000,
                "final_ratio": 0.025,
                "kind": "cosine",
            },
            "groups": ({"names": UNDECAYED, "decay": False},),
        },
        "sampling": {
            "steps": 16,
            "order": "logit",
            "temperature": 2.0,
            "temperature_schedule": "linear",
            "choice_temperature": 2.0,
            "logits_temperature": 0.5,
            "logits_annealing": 0.8,
            "guidance": 13.0,
            "guidance_schedule": "cosine",
        },
    }
    return complete(config, asked["variant"])
