"""Latent diffusion's autoencoder, a VQGAN with a Gaussian at each place: 8 pixels, 4 channels.

    babeldraw train --config=configs/autoencoder_kl.py --workdir=runs/kl_f8 \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, and
`autoencoder_kl_32x32x4.yaml` there; rFID 0.90 and PSNR 24.2 dB after training on OpenImages, 83.7M
parameters. Not trained here. What DiT draws into (configs/dit.py).

Their losses are sums over a picture of 256 x 256 x 3 values in [-1, 1], ours means of values in
[0, 1]: so 2 for the absolute error, and for the divergence 1e-6 / 196,608. Their scale of all
errors is learned, ours is 1. Their number of devices is in no config: 8 of 12 pictures, and the
steps, are ours.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

VQGAN = load_config("vqgan.py", beside=__file__, variant="taming_16384")
NETWORK = {
    **VQGAN.tokenizer.network.to_dict(),
    "multipliers": (1, 2, 4, 4),
    "latent_channels": 4,
    "middle_attention_alone": True,
}
TOKENIZER = {
    "kind": "vqgan",
    "network": NETWORK,
    "quantizer": {"kind": "gaussian", "code_dim": 4},
    "projected": True,
    "centred": True,
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    config = VQGAN.to_dict()
    config["tokenizer"] = TOKENIZER
    config["loss"] |= {"kl": 1e-6 / (256 * 256 * 3), "adversarial": 0.5}
    config["adversarial"] |= {"start_step": 50_001}
    return complete(config, variant)
