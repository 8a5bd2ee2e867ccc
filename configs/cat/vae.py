"""CAT's nested VAE: latents of 16 channels at 8, 16 or 32 pixels each, from one set of weights.

    babeldraw train --config=configs/cat/vae.py --workdir=runs/cat_vae \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Shen et al., "CAT: Content-Adaptive Image Tokenization", 2025. Not trained here. What is published
of it, as far as we could read: 256 px, so 32 x 32, 16 x 16 or 8 x 8 codes; the losses of
reconstruction, LPIPS and an adversary; 380M pictures, a set that is not public. Its widths, the
channels of a code, all weights of losses and the steps are not told: those here are latent
diffusion's at 8 pixels (configs/autoencoder_kl.py), two levels of 512 channels deeper, with the 16
channels that latent diffusion has at 16 pixels. 140.5M parameters; a picture costs 932 GFLOP
forward in training, where all levels are computed, 895, 877 and 873 at one level.

The divergence is a sum over a picture's codes, of which 32 pixels have a sixteenth of 8's: its
weight is the same for all.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

AUTOENCODER = load_config("../autoencoder_kl.py", beside=__file__)
TOKENIZER = {"kind": "nested_vae", "strides": (8, 16, 32)}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(AUTOENCODER.to_dict() | {"tokenizer": TOKENIZER}, variant)
