"""A generator by class for your own pictures, a sub-folder for each class; no captions are needed.

    babeldraw train --config=configs/folder/class_to_image.py --workdir=runs/my_classes \\
        --config.data.path=my_pictures --config.tokenizer_run=runs/my_tokenizer \\
        --config.condition.num_classes=10

The class is the folder that holds a picture, or the topmost: `--config.data.class_folder=outer`.
`num_classes` is their number; a wrong one is told with the right one. The tokenizer's sizes must be
those of the run that `tokenizer_run` names. Then `babeldraw sample --class=cats`.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = load_config("text_to_image.py", beside=__file__).to_dict()
    decoder = config["model"]["decoder"]
    config["condition"] = {"kind": "class", "num_classes": 10, "dropout": 0.1}
    config["model"] = {"kind": "vim", "decoder": decoder}
    config["optimizer"]["groups"] = ()
    return complete(config, variant)
