"""The demo's contrastive captioner: a small CoCa on the shapes world, 64 x 64 px.

    babeldraw train --config=configs/demo/coca.py --workdir=runs/coca

It scores what the demo's generator draws (docs/reranking.md).
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"heads": 4, "dim": 128, "hidden": 512, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 600
    config = {
        "objective": "contrastive_captioner",
        "train": {
            "steps": steps,
            "batch_size": 64,
            "log_every": 50,
            "checkpoint_every": 100,
            "eval_every": 200,
        },
        "data": {"source": "shapes"},
        "model": {
            "image_encoder": {"blocks": 3, **STACK},
            "unimodal": {"blocks": 2, **STACK},
            "multimodal": {"blocks": 1, **STACK},
            "image_size": (64, 64),
            "patch_size": 8,
            "text_vocab_size": 16_000,
            "text_length": 16,
            "queries": 16,
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
