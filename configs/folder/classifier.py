"""A classifier of your own pictures, a sub-folder for each class, 64 x 64 px.

    babeldraw train --config=configs/folder/classifier.py --workdir=runs/my_classifier \\
        --config.data.path=my_pictures --config.model.num_classes=10

`num_classes` is the number of folders that hold pictures; a wrong one is told with the right one.
It is the judge of what a generator by class draws (`sample --keep --judge`, `class_accuracy`).
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 2000
    config = {
        "objective": "image_classifier",
        "train": {"steps": steps, "batch_size": 64, "checkpoint_every": 200},
        "data": {"source": "folder"},
        "model": {"num_classes": 10, "image_size": (64, 64), "channels": 32, "stages": 4},
        "optimizer": {
            "name": "adamw",
            "b2": 0.99,
            "weight_decay": 1e-2,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 1e-3,
                "warmup_steps": 100,
                "decay_start": 100,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {"classification": {"num_examples": 256, "batch_size": 64}},
    }
    return complete(config, variant)
