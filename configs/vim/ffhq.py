"""VIM Large on FFHQ without classes: faces from nothing.

    babeldraw train --config=configs/vim/ffhq.py --workdir=runs/vim_ffhq \\
        --config.tokenizer_run=runs/vit_vqgan_ffhq --config.data.path=ffhq

`ffhq` is a folder of pictures. Yu et al., ICLR 2022: FID 5.3 there. The tokenizer is one of
configs/vit_vqgan/small.py trained on the same folder:

    babeldraw train --config=configs/vit_vqgan/small.py --workdir=runs/vit_vqgan_ffhq \\
        --config.data.source=folder --config.data.path=ffhq --config.data.eval_split=test \\
        --config.perceptual.file=vgg_lpips.safetensors

Size, batch and steps are those of ImageNet; the paper names no others. Not trained here yet.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("../vit_vqgan/small.py", beside=__file__)["tokenizer"]


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "generator",
            "train": {"steps": 450_000, "batch_size": 1024, "checkpoint_every": 1000},
            "data": {"source": "folder", "workers": 64},
            "tokenizer": TOKENIZER,
            "condition": {"kind": "nothing"},
            "model": {
                "kind": "vim",
                "decoder": {
                    "blocks": 36,
                    "heads": 32,
                    "dim": 2048,
                    "hidden": 8192,
                    "dropout": 0.1,
                    "compute": {"dtype": "bfloat16", "remat": "context"},
                },
            },
            # ViT-VQGAN, section 4.2: 4.5e-4 to 1e-5, exponentially from step 80,000. Adafactor,
            # 0.9 and 0.96 are the defaults; weight decay and clipping are not published.
            "optimizer": {
                "schedule": {
                    "peak": 4.5e-4,
                    "warmup_steps": 5_000,
                    "decay_start": 80_000,
                    "decay_end": 450_000,
                    "final_ratio": 1 / 45,
                },
            },
        },
        variant,
    )
