"""CogLM on the demo's tokenizer: draws a picture from a text, tells one in words, fills in.

    babeldraw train --config=configs/demo/coglm.py --workdir=runs/coglm \\
        --config.tokenizer_run=runs/tokenizer

As many parameters as configs/demo/text_to_image.py, with which it is to be compared. Three maskings
are learned (docs/coglm.md); `--config.prediction.odds.text=0` leaves one out.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

DECODER = {
    "blocks": 6,
    "heads": 4,
    "dim": 128,
    "hidden": 512,
    "activation": "gelu",
    "bias": True,
    "compute": {"scan": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    config["model"] = {
        "kind": "coglm",
        "decoder": DECODER,
        "start": 32,
        "positions": 128,
        "stddev": 0.1,
    }
    config["prediction"] = {
        "kind": "coglm",
        "odds": {"text_to_image": 0.65, "image_to_text": 0.3, "text": 0.05},
    }
    return complete(config, variant)
