"""A classifier of pictures of one coloured shape, 64 x 64 px: the judge of configs/demo/vim.py.

babeldraw train --config=configs/demo/classifier.py --workdir=runs/shape_classifier
"""

from ml_collections import ConfigDict

from babeldraw.data.shapes import PAIRS
from babeldraw.train.presets import complete


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 600
    config = {
        "objective": "image_classifier",
        "train": {"steps": steps, "batch_size": 64, "log_every": 100, "checkpoint_every": 200},
        "data": {"source": "shape_pairs"},
        "model": {"num_classes": len(PAIRS), "image_size": (64, 64), "channels": 16},
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
    }
    return complete(config, variant)
