"""The emoji demo's generator by masked prediction: its tokenizer's 64 tokens in eight steps.

    babeldraw train --config=configs/emoji/maskgit.py --workdir=runs/emoji_maskgit \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_tokenizer

As many parameters as configs/emoji/text_to_image.py, whose all else is (docs/masked.md,
docs/emoji.md). After 1,700 steps 3.5 % of seen concepts are right; `sampling` is a guess.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

STACK = {"heads": 4, "dim": 192, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    config["model"] = {
        "kind": "maskgit",
        "encoder": {"blocks": 2, "hidden": 768, **STACK},
        "stack": {"blocks": 5, "hidden": 848, **STACK},
    }
    config["prediction"] = {"kind": "masked"}
    config["sampling"] = {"guidance": 1.5, "temperature": 0.3, "choice_temperature": 2.0}
    return complete(config, variant)
