"""IBQ's tokenizer: 1,024 to 262,144 codes of 256 dimensions, every one trained at every step.

    babeldraw train --config=configs/ibq.py --workdir=runs/ibq \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

The argument, as in `configs/ibq.py:262144`, is a row. Shi et al., "Scalable Image
Tokenization with Index Backpropagation Quantization", 2024, and the configs in its code; not
trained here. Published weights are read by `babeldraw import` (docs/ibq.md). 256 px,
16 x 16 codes; on ImageNet as published:

| row | parameters | rFID | LPIPS | codes used |
|---|---|---|---|---|
| 16384 | 111M | 1.37 | 0.2235 | 96 % |
| 1024 | 107M | 2.24 | 0.2580 | 99 % |
| 8192 | 109M | 1.87 | 0.2437 | 98 % |
| 262144 | 174M | 1.00 | 0.2030 | 84 % |

64 Ascend 910B took 4 to 7 days. Pictures there are in [-1, 1], so absolute errors weigh twice as
much here, and LeCam twice, for they halve the discriminator's loss. Its step goes before the
tokenizer's.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

BASE = load_config("vqgan.py", __file__).to_dict()
ROWS = ("16384", "1024", "8192", "262144")
BATCH = 256
# Steps of an epoch of ImageNet.
EPOCH = 1_281_167 / BATCH


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, the first if empty; and runlocal for a few quick steps of it."""
    asked = chosen(argument, row=ROWS)
    short = asked["row"] == "8192"
    # Epochs: all of them, and those behind which the rate falls to a tenth.
    count, drops = (280, (250,)) if short else (330, (250, 300))
    config = {**BASE}
    schedule = {"peak": 1e-4, "drops": tuple(int(EPOCH * epoch) for epoch in drops)}
    optimizer = BASE["optimizer"] | {"schedule": BASE["optimizer"]["schedule"] | schedule}
    quantizer = {"kind": "ibq", "codebook_size": int(asked["row"]), "code_dim": 256}
    network = BASE["tokenizer"]["network"] | {"encoder_blocks": 4, "decoder_blocks": 5}
    config |= {
        "tokenizer": BASE["tokenizer"] | {"network": network, "quantizer": quantizer},
        "optimizer": optimizer,
        "discriminator_optimizer": optimizer,
        "adversarial": {
            "loss": "hinge_non_saturating",
            "r1_gamma": 0.0,
            "lecam": 0.1,
            "discriminator_first": True,
        },
    }
    config["loss"] = BASE["loss"] | {"adversarial": 0.1, "entropy": 0.05}
    config["train"] = BASE["train"] | {
        "steps": int(EPOCH * count),
        "batch_size": BATCH,
        "ema": {"decay": 0.999, "warmup": False},
    }
    return complete(config, asked["variant"])
