"""The emoji demo's generator as LlamaGen's: one stack over a text and its tokenizer's 64 tokens.

    babeldraw train --config=configs/emoji/llama.py --workdir=runs/emoji_llama \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_tokenizer

As many parameters as configs/emoji/text_to_image.py, whose all else is (docs/llamagen.md,
docs/emoji.md); docs/masked.md has what 25 minutes of one core came to, on three tokenizers' codes.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

DECODER = {
    "blocks": 6,
    "heads": 4,
    "dim": 192,
    "hidden": 680,
    "activation": "silu",
    "compute": {"scan": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    config["model"] = {"kind": "llama", "decoder": DECODER, "prefix": "plain"}
    return complete(config, variant)
