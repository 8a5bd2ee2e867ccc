"""The demo's generator by masked prediction: all 64 tokens of a picture in eight steps.

    babeldraw train --config=configs/demo/maskgit.py --workdir=runs/maskgit \\
        --config.tokenizer_run=runs/tokenizer

As many parameters as configs/demo/text_to_image.py, with which it is to be compared: two blocks
read the prompt, once a picture, and five see it beside the picture's tokens at each step
(docs/masked.md). All else is that config's. At a temperature of 1 half of the pictures show things
that nobody asked for, after 3,200 steps: 32 % of seen pairs are exact in place of 93.

With `text`, on the 32 codes of configs/demo/titok.py:text, one small encoder reads the prompt for
the generator and for the tokenizer's decoder (docs/titok.md).

    babeldraw train --config=configs/demo/titok.py:text --workdir=runs/titok_text
    babeldraw train --config=configs/demo/maskgit.py:text --workdir=runs/maskgit_text \\
        --config.tokenizer_run=runs/titok_text
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

STACK = {"heads": 4, "dim": 128, "compute": {"scan": False}}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: text for a decoder that draws beside it; and runlocal for a few quick steps."""
    asked = chosen(argument, decoder=("alone", "text"))
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    config["model"] = {
        "kind": "maskgit",
        "encoder": {"blocks": 2, "hidden": 512, **STACK},
        "stack": {"blocks": 5, "hidden": 560, **STACK},
    }
    config["prediction"] = {"kind": "masked"}
    config["sampling"] = {
        "guidance": 2.0,
        "temperature": 0.5,
        "order": "logit",
        "choice_temperature": 2.0,
    }
    if asked["decoder"] == "text":
        tokenizer = load_config("titok.py", __file__, "text")
        config["tokenizer"] = tokenizer.tokenizer.to_dict()
        config["condition"] = tokenizer.condition.to_dict() | {"dropout": 0.1}
    return complete(config, asked["variant"])
