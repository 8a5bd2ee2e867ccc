"""A tokenizer for a folder of your own pictures: ViT-VQGAN, 64 px, 8 x 8 tokens.

    babeldraw train --config=configs/folder/tokenizer.py --workdir=runs/my_tokenizer \\
        --config.data.path=my_pictures

Sizes for one machine; `--config.tokenizer.image_size="(128, 128)"` and the fields of
`--config.tokenizer.encoder` make it larger. Captions are not needed here.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 4, "heads": 4, "dim": 256, "hidden": 1024, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 3000
    config = {
        "objective": "image_tokenizer",
        "train": {"steps": steps, "batch_size": 32, "checkpoint_every": 500, "eval_every": 500},
        "data": {"source": "folder"},
        "tokenizer": {
            "kind": "vit_vqgan",
            "encoder": STACK,
            "decoder": STACK,
            "image_size": (64, 64),
            "quantizer": {"kind": "vq", "codebook_size": 1024, "code_dim": 8},
        },
        "loss": {
            "perceptual": 0.0,
            "adversarial": 0.0,
            "logit_laplace": 0.0,
            "restart_below": 0.05,
        },
        "discriminator": {"kind": "none"},
        "optimizer": {
            "name": "muon",
            "b2": 0.99,
            "weight_decay": 1e-4,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 200,
                "decay_start": 200,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {"reconstruction": {"num_examples": 256, "batch_size": 64}},
    }
    return complete(config, variant)
