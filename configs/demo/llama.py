"""LlamaGen's network on the demo's tokenizer, after the pieces of a text.

    babeldraw train --config=configs/demo/llama.py --workdir=runs/llama \\
        --config.tokenizer_run=runs/tokenizer

As many parameters as configs/demo/text_to_image.py, with which it is to be compared. The text has
no encoder of its own: its pieces go through the same blocks, and are looked up by what they say
(`prefix="plain"`, docs/llamagen.md). Its vectors begin as large as its positions: 25 times smaller,
as elsewhere in the demo, words were bound late to what they are said of (docs/masked.md).
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

DECODER = {
    "blocks": 6,
    "heads": 4,
    "dim": 128,
    "hidden": 456,
    "activation": "silu",
    "compute": {"scan": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    config["model"] = {"kind": "llama", "decoder": DECODER, "prefix": "plain"}
    config["condition"] |= {"stddev": 0.5}
    return complete(config, variant)
