"""RAR on the demo's tokenizer: codes in random orders first, in raster order at the end.

    babeldraw train --config=configs/demo/rar.py --workdir=runs/rar \\
        --config.tokenizer_run=runs/tokenizer

As many parameters as configs/demo/text_to_image.py, with which it is to be compared; a third of
them make scales and gates of the text (`models/rar.py`). Orders are random for the first half of
the steps and annealed over the next quarter, as published for ImageNet. Who changes `train.steps`
changes `prediction.anneal_start` and `anneal_end` with it.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

DECODER = {
    "blocks": 5,
    "heads": 4,
    "dim": 128,
    "hidden": 432,
    "activation": "gelu_exact",
    "bias": True,
    "compute": {"scan": False},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    steps = config["train"]["steps"]
    config["model"] = {"kind": "rar", "decoder": DECODER}
    config["prediction"] = {
        "kind": "permuted_next_token",
        "anneal_start": steps // 2,
        "anneal_end": 3 * steps // 4,
    }
    return complete(config, variant)
