"""The emoji demo's generator as CogLM: one stack that draws, tells in words and fills in.

    babeldraw train --config=configs/emoji/coglm.py --workdir=runs/emoji_coglm \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_tokenizer

Argument: hierarchy, for the 8 x 8 codes of configs/emoji/hierarchy.py, which super-resolution by
codes goes on from, or hierarchy_4, for those of hierarchy.py:4:

    babeldraw train --config=configs/emoji/coglm.py:hierarchy --workdir=runs/emoji_coglm \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_hierarchy

Of the size of configs/emoji/text_to_image.py, whose data and optimizer it has (docs/coglm.md,
docs/emoji.md). A smaller one was trained: docs/coglm.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

DECODER = {
    "blocks": 6,
    "heads": 4,
    "dim": 192,
    "hidden": 768,
    "activation": "gelu",
    "bias": True,
    "compute": {"scan": False},
}
# Whose codes, and the level of the hierarchy.
CODES = {"tokenizer": "", "hierarchy": "8", "hierarchy_4": "4"}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: one of `CODES`, the first if empty; runlocal for a few quick steps."""
    asked = chosen(argument, codes=(*CODES,))
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    if level := CODES[asked["codes"]]:
        hierarchy = load_config("hierarchy.py", __file__, level).to_dict()
        config |= {"tokenizer": hierarchy["tokenizer"], "level": level}
    config["model"] = {
        "kind": "coglm",
        "decoder": DECODER,
        "start": 32,
        "positions": 128,
        "stddev": 0.1,
    }
    # Its table of words is one with that of codes, drawn with the model's own `stddev`.
    del config["condition"]["stddev"]
    config["optimizer"]["groups"] = ()
    config["prediction"] = {
        "kind": "coglm",
        "odds": {"text_to_image": 0.65, "image_to_text": 0.3, "text": 0.05},
    }
    return complete(config, asked["variant"])
