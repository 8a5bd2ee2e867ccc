"""The emoji demo's generator: the Babeldraw encoder-decoder on its tokenizer's 64 tokens.

    babeldraw train --config=configs/emoji/text_to_image.py --workdir=runs/emoji_generator \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_tokenizer

`--config.evaluators.concepts.file=alexnet_lpips.safetensors` has it judged: docs/emoji.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("tokenizer.py", beside=__file__)
STACK = {"heads": 4, "dim": 256, "hidden": 1024, "dropout": 0.1, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 2500
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": 32, "checkpoint_every": 250, "eval_every": 500},
        # Whole pictures: four wordings of each are what varies.
        "data": {**TOKENIZER["data"].to_dict(), "crop": "center"},
        "tokenizer": TOKENIZER["tokenizer"],
        "condition": {"kind": "text", "length": 24},
        "model": {
            "kind": "babeldraw",
            "encoder": {"blocks": 4, **STACK},
            "decoder": {"blocks": 8, **STACK},
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.98,
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
        "sampling": {"guidance": 2.0, "temperature": 0.7},
        "evaluators": {"validation_loss": {"num_examples": 178, "batch_size": 89}},
    }
    return complete(config, variant)
