"""CogView2's image tokenizer, that of icetk: 20,000 codes shared at 4, 8 and 16 pixels each.

    babeldraw train --config=configs/cogview2/tokenizer.py --workdir=runs/cogview2_tokenizer \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Ding et al., "CogView2", 2022, and icetk's public code: channels 128, codes of 256 values as running
means, 2 residual blocks to a level of the encoder, decoders without any; losses L1 + MS-SSIM +
perceptual, no adversary, on ImageNet. Not trained here. Pictures of 160 px are 20 x 20 codes at 8
pixels, those of 480 px 60 x 60: levels 8 and 8x3. Not told in what we read, and ours: the
weights of the losses, the rates of learning and of the means, the steps, the size of pictures in
training (160 px here) and the widths of the encoder below 4 pixels.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

BASE = load_config("../maskgit_vqgan.py", beside=__file__)
TOKENIZER = {
    "kind": "hierarchy",
    "image_size": (160, 160),
    "levels": ((8, 1), (8, 3)),
    "quantizer": {"kind": "running_mean", "codebook_size": 20000, "code_dim": 256},
}
LOSS = {"l1": 1.0, "l2": 0.0, "ms_ssim": 1.0, "perceptual": 1.0, "adversarial": 0.0}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = BASE.to_dict()
    # Its codes are running means already.
    config["train"].pop("ema")
    config["tokenizer"] = TOKENIZER
    config["loss"] = LOSS
    config["discriminator"] = {"kind": "none"}
    return complete(config, variant)
