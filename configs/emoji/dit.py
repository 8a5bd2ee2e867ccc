"""The emoji demo's generator by diffusion: a DiT on its TiTok's 32 continuous codes.

    babeldraw train --config=configs/emoji/titok.py:vae --workdir=runs/emoji_titok_vae \\
        --config.data.path=data/emoji --config.perceptual.file=vgg_lpips.safetensors
    babeldraw train --config=configs/emoji/dit.py --workdir=runs/emoji_dit \\
        --config.data.path=data/emoji --config.tokenizer_run=runs/emoji_titok_vae

As many blocks as configs/emoji/text_to_image.py, of its width, whose all else is but for an average
of the weights (docs/diffusion.md). Not trained to its end yet: `sampling` is a guess.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("titok.py", beside=__file__, variant="vae")["tokenizer"]
STACK = {
    "heads": 4,
    "dim": 192,
    "hidden": 768,
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
