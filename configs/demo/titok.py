"""The demo's tokenizer in one dimension: a small TiTok on the shapes world, 32 codes a picture.

    babeldraw train --config=configs/demo/titok.py --workdir=runs/titok

Width, blocks, codebook, losses and steps are those of configs/demo/tokenizer.py, whose ViT-VQGAN
gives 64 codes; its 8 x 8 patches are TiTok's cells. docs/examples/grid.py compares
the two: after seven minutes this one is far behind (docs/masked.md).

With `text`, as in `configs/demo/titok.py:text`, the decoder draws beside the states of the caption
(TA-TiTok), as configs/demo/maskgit.py:text does beside those of the prompt. They are an untrained
small encoder's, which tell its words apart, so that no file is needed; docs/titok.md has CLIP's.

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
# What reads captions; of its tokens as many as those of the demo have.
LENGTH = 32
TEXT = {"kind": "clip", "encoder": "untrained", "length": LENGTH}
# A weight at which codes keep what pictures need and stay near a normal distribution: a guess.
VAE = {"quantizer": {"kind": "gaussian", "code_dim": 8}}
KL = 1e-6


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: vae for continuous codes, text; and runlocal for a few quick steps."""
    asked = chosen(argument, codes=("vq", "vae"), decoder=("alone", "text"))
    config = load_config("tokenizer.py", beside=__file__).to_dict()
    config["tokenizer"] = TOKENIZER
    if asked["codes"] == "vae":
        config["tokenizer"] = TOKENIZER | VAE
        config["loss"] |= {"kl": KL, "restart_below": 0.0}
    if asked["decoder"] == "text":
        config["tokenizer"] = {**config["tokenizer"], "text": {"words": LENGTH, "dim": 32}}
        config["condition"] = TEXT | {"dropout": 0.0}
    return complete(config, asked["variant"])
