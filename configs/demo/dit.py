"""The demo's generator by diffusion: a small DiT on 32 continuous codes of a picture.

    babeldraw train --config=configs/demo/titok.py:vae --workdir=runs/titok_vae
    babeldraw train --config=configs/demo/dit.py --workdir=runs/dit \\
        --config.tokenizer_run=runs/titok_vae

As many blocks as configs/demo/text_to_image.py, of its width: two read the prompt, once a picture,
and four attend to it at each step of drawing; what moves their norms comes on top
(docs/diffusion.md). All else is that config's, but for an average of the weights. Not trained to
its end yet: `sampling` is a guess.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("titok.py", beside=__file__, variant="vae")["tokenizer"]
STACK = {
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
    config["tokenizer"] = TOKENIZER
    config["train"] |= {"ema": {"decay": 0.999}}
    config["model"] = {
        "kind": "dit",
        "patch_size": 1,
        "encoder": {"blocks": 2, **STACK},
        "stack": {"blocks": 4, **STACK},
    }
    config["prediction"] = {"kind": "diffusion", "times": "logit_normal", "sampled": True}
    config["sampling"] = {"guidance": 2.0, "steps": 25, "sampler": "heun"}
    return complete(config, variant)
