"""The demo's tokenizer in one dimension: a small TiTok on the shapes world, 32 codes a picture.

    babeldraw train --config=configs/demo/titok.py --workdir=runs/titok

Width, blocks, codebook, losses and steps are those of configs/demo/tokenizer.py, whose ViT-VQGAN
gives 64 codes; its 8 x 8 patches are TiTok's cells. docs/examples/grid.py is to
compare the two: not trained to its end yet.

`configs/demo/titok.py:vae` has continuous codes of 8 channels in their place, which
configs/demo/dit.py draws.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

STACK = {
    "blocks": 2,
    "heads": 4,
    "dim": 128,
    "hidden": 512,
    "activation": "gelu_exact",
    "bias": True,
    "compute": {"scan": False},
}
TOKENIZER = {
    "kind": "titok",
    "encoder": STACK,
    "decoder": STACK,
    "tokens": 32,
    "image_size": (64, 64),
    "patch_size": 8,
    "quantizer": {"kind": "vq", "codebook_size": 1024, "code_dim": 8},
}


# A weight at which codes keep what pictures need and stay near a normal distribution: a guess.
VAE = {"quantizer": {"kind": "gaussian", "code_dim": 8}}
KL = 1e-6


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: vae for continuous codes; and runlocal for a few quick steps."""
    asked = chosen(argument, codes=("vq", "vae"))
    config = load_config("tokenizer.py", beside=__file__).to_dict()
    config["tokenizer"] = TOKENIZER
    if asked["codes"] == "vae":
        config["tokenizer"] = TOKENIZER | VAE
        config["loss"] |= {"kl": KL, "restart_below": 0.0}
    return complete(config, asked["variant"])
