"""The emoji demo's text encoder, before its generator: names in all languages, and pairs.

    babeldraw train --config=configs/emoji/text_encoder.py --workdir=runs/emoji_text_encoder \\
        --config.data.path=data/emoji --config.text_data.path=data/emoji

Pairs have the names of the generator's own language, `data.language`; the texts that are masked are
those of all languages that the folder knows (docs/text.md).
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

GENERATOR = load_config("text_to_image.py", beside=__file__)
STACK = {"heads": 4, "dim": 192, "hidden": 768, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 1500
    data = GENERATOR["data"].to_dict()
    config = {
        "objective": "text_encoder",
        "train": {"steps": steps, "batch_size": 64, "checkpoint_every": 500, "eval_every": 500},
        "data": data,
        "text_data": {**data, "language": "any"},
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
            "clip_norm": 1.0,
            "groups": ({"names": "text_encoder/embed", "rate": 3.0},),
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 100,
                "decay_start": 100,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {
            "retrieval": {"num_examples": 178, "batch_size": 89},
            "validation_loss": {"num_examples": 512},
        },
    }
    return complete(config, variant)
