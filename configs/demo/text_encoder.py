"""The demo's text encoder, before its generator: masked captions and pairs of the shapes world.

    babeldraw train --config=configs/demo/text_encoder.py --workdir=runs/text_encoder

The generator of configs/demo/text_to_image.py begins from it by

    --config.starts='({"run": "runs/text_encoder", "names": "text_encoder/.*"},)'

as docs/text.md tells.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

GENERATOR = load_config("text_to_image.py", beside=__file__)
STACK = {"heads": 4, "dim": 128, "hidden": 512, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 1000
    config = {
        "objective": "text_encoder",
        "train": {
            "steps": steps,
            "batch_size": 64,
            "log_every": 50,
            "checkpoint_every": 200,
            "eval_every": 500,
        },
        "data": {"source": "shapes"},
        "condition": GENERATOR["condition"].to_dict(),
        "model": {
            "encoder": GENERATOR["model"]["encoder"].to_dict(),
            "image_encoder": {"blocks": 2, **STACK},
            "image_size": (64, 64),
            "patch_size": 8,
            "embedding_dim": 64,
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.98,
            "weight_decay": 0.0,
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
        "evaluators": {
            "retrieval": {"num_examples": 512},
            "validation_loss": {"num_examples": 512},
        },
    }
    return complete(config, variant)
