"""TiTok on emoji, 48 px: three sizes, three numbers of tokens, in one stage or in two.

    babeldraw train --config=configs/emoji/titok.py --workdir=runs/emoji_titok \\
        --config.data.path=data/emoji --config.perceptual.file=vgg_lpips.safetensors

The argument, as in `configs/emoji/titok.py:small,16`, names a size, a number of tokens and a way;
docs/titok.md tells how two stages go, with configs/emoji/tokenizer.py for a proxy. With `vae` codes
are continuous, of 16 channels, for configs/emoji/dit.py. Not trained to its end yet.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

PROXY = load_config("tokenizer.py", beside=__file__)
# Blocks, heads and width of each side, the base's as in configs/emoji/tokenizer.py; and steps of
# about as many operations as 330 of that config, its perceptual term included.
SIZES = {"base": (4, 4, 256, 240), "small": (3, 3, 192, 430), "tiny": (2, 2, 128, 750)}
TOKENS = ("32", "16", "64")
WAYS = ("single", "stage1", "stage2", "nested")
CODES = {
    "vq": {"kind": "vq", "codebook_size": 1024, "code_dim": 8},
    "vae": {"kind": "gaussian", "code_dim": 16},
}


def stack(size: str) -> dict:
    blocks, heads, dim, _ = SIZES[size]
    wide = {"hidden": 4 * dim, "activation": "gelu_exact", "bias": True}
    return {"blocks": blocks, "heads": heads, "dim": dim, **wide, "compute": {"scan": False}}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: of `SIZES`, `TOKENS`, `WAYS` and `CODES` one each, and runlocal for few steps."""
    asked = chosen(argument, size=(*SIZES,), tokens=TOKENS, way=WAYS, codes=(*CODES,))
    size, tokens, way = asked["size"], int(asked["tokens"]), asked["way"]
    config = PROXY.to_dict()
    tokenizer = {
        "kind": "titok",
        "encoder": stack(size),
        "decoder": stack(size),
        "tokens": tokens,
        "image_size": (48, 48),
        "patch_size": 6,
        "quantizer": CODES[asked["codes"]],
    }
    if asked["codes"] == "vae":
        # Of the divergence's sum over a picture: a guess.
        config["loss"] |= {"kl": 1e-6, "restart_below": 0.0}
    if way == "nested":
        tokenizer["nested"] = tuple(n for n in (8, 16, 32, 64) if n <= tokens)
    if way in ("stage1", "stage2"):
        tokenizer["proxy"] = PROXY.tokenizer.to_dict()
        tokenizer["through_proxy"] = way == "stage2"
    config["tokenizer"], steps = tokenizer, SIZES[size][-1]
    config["train"] |= {"steps": steps, "log_every": 50}
    schedule = {"warmup_steps": 50, "decay_start": 50, "decay_end": steps}
    config["optimizer"]["schedule"] |= schedule
    if way == "stage1":
        config["loss"] |= {"l2": 0.0, "perceptual": 0.0}
    if way == "stage2":
        config["train_groups"] = config["start_groups"] = ("decoder",)
        config["loss"] |= {"restart_below": 0.0}
        config["optimizer"]["schedule"]["peak"] = 5e-4
    return complete(config, asked["variant"])
