"""The emoji demo's generator: the Babeldraw encoder-decoder on its tokenizer's 64 tokens.

    babeldraw train --config=configs/emoji/text_to_image.py --workdir=runs/emoji_generator \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_tokenizer

`--config.evaluators.concepts.file=alexnet_lpips.safetensors` has it judged: docs/emoji.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("tokenizer.py", beside=__file__)
STACK = {"heads": 4, "dim": 192, "hidden": 768, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 3500
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": 32, "checkpoint_every": 500, "eval_every": 1000},
        # Whole pictures: four wordings of each are what varies.
        "data": {**TOKENIZER["data"].to_dict(), "crop": "center"},
        "tokenizer": TOKENIZER["tokenizer"],
        # Most words come with a few pictures only, which are soon known by their first codes: words
        # that are told apart from the start, and codes that cannot all be trusted.
        "condition": {"kind": "text", "length": 24, "stddev": 0.5},
        "prediction": {"kind": "next_token", "noise": 0.5},
        "model": {
            "kind": "babeldraw",
            "encoder": {"blocks": 2, **STACK},
            "decoder": {"blocks": 4, **STACK},
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.98,
            "clip_norm": 1.0,
            # Of the words, whatever the network.
            "groups": ({"names": "(text_encoder|prefix)/embed", "rate": 3.0},),
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 200,
                "decay_start": 200,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "sampling": {"guidance": 1.5, "temperature": 0.3},
        "evaluators": {"validation_loss": {"num_examples": 178, "batch_size": 89}},
    }
    return complete(config, variant)
