"""A classifier of scikit-learn's handwritten digits, 24 x 24 px: the judge of what VIM draws.

babeldraw train --config=configs/digits/classifier.py --workdir=runs/digits/classifier
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 600
    config = {
        "objective": "image_classifier",
        "train": {"steps": steps, "batch_size": 64, "log_every": 100, "checkpoint_every": 200},
        "data": {"source": "digits"},
        "model": {"num_classes": 10, "image_size": (24, 24), "channels": 16},
        "optimizer": {
            "name": "adamw",
            "b2": 0.99,
            "weight_decay": 1e-2,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 3e-3,
                "warmup_steps": 50,
                "decay_start": 50,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {"classification": {"num_examples": 360, "batch_size": 120}},
    }
    return complete(config, variant)
