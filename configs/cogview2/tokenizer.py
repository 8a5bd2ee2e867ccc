"""CogView2's image tokenizer, that of icetk: 20,000 codes shared at 4, 8 and 16 pixels each.

    babeldraw train --config=configs/cogview2/tokenizer.py --workdir=runs/cogview2_tokenizer \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Ding et al., "CogView2", 2022, and icetk's public code: channels 128, codes of 256 values as running
means, 2 residual blocks to a level of the encoder, which ends at 4 pixels, 1 of the decoders;
latents at 8 and 16 pixels are those at 4, halved; losses L1 + MS-SSIM + perceptual, no adversary,
on ImageNet; 97.4M parameters. Not trained here. Pictures of 160 px are 20 x 20 codes at 8 pixels,
those of 480 px 60 x 60: levels 8 and 8x3. Not told in what we read, and ours: the weights of the
losses, the rates of learning and of the means, the steps and the size of pictures in training (160
px here).

The published weights are imported by (docs/coglm.md)

    babeldraw import --kind=icetk_image --torch=ice_image.pt \\
        --config=configs/cogview2/tokenizer.py --config.loss.perceptual=0 \\
        --workdir=runs/cogview2_tokenizer
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

BASE = load_config("../maskgit_vqgan.py", beside=__file__)
NETWORK = {
    "channels": 128,
    "multipliers": (1, 2, 4),
    "encoder_blocks": 2,
    "decoder_blocks": 1,
    "middle_blocks": 2,
    "latent_channels": 256,
    "latent_kernel": 3,
    "attention": True,
    "middle_attention_alone": True,
    "shortcut": "input",
    "bias": True,
    "down": "convolution",
}
TOKENIZER = {
    "kind": "hierarchy",
    "network": NETWORK,
    "decoders": ((1, 2, 4), (1, 1, 2, 4), (1, 1, 1, 2, 4)),
    "coarser": "halved",
    "attends": (16,),
    "mean": (0.79093, 0.76271, 0.75340),
    "deviation": (0.30379, 0.32279, 0.32800),
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
