"""Super-resolution of a 256 px tokenizer's pictures to 512 px: 12 blocks of 128 channels (14M).

    babeldraw train --config=configs/super_resolution/512.py --workdir=runs/to_512 \\
        --config.tokenizer_run=runs/vit_vqgan_decoder --config.data.path=my_pictures \\
        --config.perceptual.file=vgg_lpips.safetensors

Pictures need sides of at least 512 px: smaller ones are enlarged first, and teach blur. Parti
(arXiv 2206.10789), section 2.1, gives the network, the losses and their weights, no hardware and no
figure; batch, steps and schedule are not published and are those of its tokenizer here.

On 128 TPU v4 (`babeldraw compile --topology=v4:4x4x8`): 10.1 GiB per chip; estimated 0.295 s a
step, 867 images/s, MFU 0.212 (capped; raw 0.490 s); docs/compile.md says how good such an estimate
is.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("../vit_vqgan/decoder.py", beside=__file__)["tokenizer"]


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "super_resolution",
            "train": {"steps": 500_000, "batch_size": 256, "checkpoint_every": 5000},
            "data": {"source": "folder", "workers": 64},
            "tokenizer": TOKENIZER,
            "super_resolution": {
                "factor": 2,
                "blocks": 12,
                "channels": 128,
                "expansion": 4,
                "compute": {"dtype": "bfloat16", "remat": "full"},
            },
            # ViT-VQGAN, section 3.2, which Parti refers to.
            "loss": {"l2": 1.0, "perceptual": 0.1, "adversarial": 0.1},
            # As wide as StyleGAN2's at 512 px.
            "discriminator": {"kind": "stylegan", "channels": 64},
            "optimizer": {
                "name": "adamw",
                "b1": 0.9,
                "b2": 0.99,
                "weight_decay": 1e-4,
                "clip_norm": 0.0,
                "schedule": {
                    "peak": 1e-4,
                    "warmup_steps": 50_000,
                    "decay_start": 50_000,
                    "decay_end": 500_000,
                    "final_ratio": 0.5,
                    "kind": "cosine",
                },
            },
        },
        variant,
    )
