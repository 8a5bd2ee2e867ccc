"""torchvision's VGG16 and LPIPS's linear weights, for the parameters of `VGGDistance`."""

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.judges.perceptual import CONVOLUTIONS


def torchvision_keys() -> dict[str, str]:
    """{"conv1_1": "features.0", ...}: where torchvision's VGG16 keeps each convolution."""
    keys, index = {}, 0
    for stage, count in enumerate(CONVOLUTIONS, 1):
        for i in range(1, count + 1):
            # Each convolution is followed by its ReLU, each stage by a pooling.
            keys[f"conv{stage}_{i}"] = f"features.{index}"
            index += 2
        index += 1
    return keys


def _convolution(ours: str, theirs: str) -> Table:
    return (
        Row(f"vgg/{ours}/weight", f"{theirs}.weight", "o i h w -> h w i o"),
        Row(f"vgg/{ours}/bias", f"{theirs}.bias"),
    )


VGG16: Table = (
    *(row for names in torchvision_keys().items() for row in _convolution(*names)),
    Ignored(r"classifier\.\d+\.(weight|bias)", "the dense layers, which classify"),
)
# Of `lpips/weights/v0.1/vgg.pth`, which counts the stages from 0.
LPIPS: Table = tuple(
    Row(f"linear{stage + 1}", f"lin{stage}.model.1.weight", "1 c 1 1 -> c")
    for stage in range(len(CONVOLUTIONS))
)
