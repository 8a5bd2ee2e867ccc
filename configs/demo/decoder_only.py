"""The demo's generator as one stack: the prompt's tokens stand before the picture's.

    babeldraw train --config=configs/demo/decoder_only.py --workdir=runs/decoder_only \\
        --config.tokenizer_run=runs/tokenizer

Seven blocks with a feed-forward of 548: as many parameters as configs/demo/text_to_image.py, with
which it is to be compared (docs/vim.md). All else is that config's.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

DECODER = {"blocks": 7, "heads": 4, "dim": 128, "hidden": 548, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    config["model"] = {"kind": "vim", "decoder": DECODER}
    return complete(config, variant)
