"""A tokenizer of scikit-learn's handwritten digits: 24 x 24 px to 6 x 6 tokens of 256 codes.

    babeldraw train --config=configs/digits/tokenizer.py --workdir=runs/digits/tokenizer

Real pictures without a download; `pip install -e ".[examples]"` brings them. No perceptual loss:
its network has seen labels, and what the generator understands is measured later.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 2, "heads": 4, "dim": 128, "hidden": 512, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 1200
    config = {
        "objective": "image_tokenizer",
        "train": {
            "steps": steps,
            "batch_size": 32,
            "log_every": 100,
            "checkpoint_every": 300,
            "eval_every": 400,
        },
        "data": {"source": "digits"},
        "tokenizer": {
            "kind": "vit_vqgan",
            "encoder": STACK,
            "decoder": STACK,
            "image_size": (24, 24),
            "patch_size": 4,
            "quantizer": {"kind": "vq", "codebook_size": 256, "code_dim": 8},
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
        "evaluators": {"reconstruction": {"num_examples": 360, "batch_size": 128}},
    }

    return complete(config, variant)
