"""The demo's tokenizer: a small ViT-VQGAN on the shapes world, 64 x 64 px to 8 x 8 tokens.

babeldraw train --config=configs/demo/tokenizer.py --workdir=runs/tokenizer
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 2, "heads": 4, "dim": 128, "hidden": 512, "compute": {"scan": False}}
TOKENIZER = {
    "kind": "vit_vqgan",
    "encoder": STACK,
    "decoder": STACK,
    "image_size": (64, 64),
    "patch_size": 8,
    "quantizer": {"kind": "vq", "codebook_size": 1024, "code_dim": 8},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 3000
    config = {
        "objective": "image_tokenizer",
        "train": {
            "steps": steps,
            "batch_size": 16,
            "log_every": 100,
            "checkpoint_every": 200,
            "eval_every": 750,
        },
        "data": {"source": "shapes"},
        "tokenizer": TOKENIZER,
        # Thirty-five thousand pictures are few: without restarts ten codes take everything.
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
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 3e-3,
                "warmup_steps": 100,
                "decay_start": 100,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {"reconstruction": {"num_examples": 512}},
    }
    return complete(config, variant)
