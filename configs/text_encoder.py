"""Pretraining of Babeldraw's text encoders: BERT's objective on C4, and contrastive on pairs.

    babeldraw train --config=configs/text_encoder.py --workdir=runs/text_encoder \\
        --config.data.path=laion400m --config.text_data.path=c4/en

Argument: 350m (the default; 750m has the same encoder), 3b or 20b, the generator's size, as in
`configs/text_encoder.py:20b`. The generator begins from it by

    --config.starts='({"run": "runs/text_encoder", "names": "text_encoder/.*"},)'

Parti (arXiv 2206.10789, section 2.3) names the two objectives and C4; "joint BERT and CLIP
objectives" in its Table 9. Its 20B model begins so. Published are neither batch, steps, rates and
weights nor the tower, which is left behind: here a batch of 4,096 and CLIP's ViT-B/16, BERT's share
of 15 %, weights of 1 (docs/unconfirmed.md). Not trained here.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

SIZES = ("350m", "3b", "20b")
TOWER = {
    "blocks": 12,
    "heads": 12,
    "dim": 768,
    "hidden": 3072,
    "activation": "gelu",
    "bias": True,
    "compute": {"dtype": "bfloat16", "remat": "full"},
}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: 350m, 3b or 20b, and runlocal for a few quick steps."""
    words = chosen(argument, size=SIZES)
    generator = load_config(f"babeldraw/{words['size']}.py", beside=__file__)
    steps = 100_000
    return complete(
        {
            "objective": "text_encoder",
            "train": {"steps": steps, "batch_size": 4096, "checkpoint_every": 1000},
            "data": {
                "source": "tfds",
                "path": "laion400m",
                "split": "train[1%:]",
                "eval_split": "train[:1%]",
                "workers": 64,
            },
            "text_data": {
                "source": "tfds",
                "path": "c4/en",
                "eval_split": "validation",
                "workers": 16,
            },
            "condition": generator["condition"].to_dict(),
            "model": {
                "encoder": {
                    **generator["model"]["encoder"].to_dict(),
                    "compute": {"dtype": "bfloat16", "remat": "full"},
                },
                "image_encoder": TOWER,
                "image_size": (256, 256),
                "patch_size": 16,
                "embedding_dim": 512,
            },
            "optimizer": {
                "name": "adafactor",
                "b1": 0.9,
                "b2": 0.96,
                "weight_decay": 4.5e-2,
                "clip_norm": 4.0,
                "schedule": {
                    "peak": 1e-3,
                    "warmup_steps": 5000,
                    "decay_start": 5000,
                    "decay_end": steps,
                    "final_ratio": 0.0,
                    "kind": "linear",
                },
            },
            "mesh": {"rules": "fsdp"},
        },
        words["variant"],
    )
