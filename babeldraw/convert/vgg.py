"""torchvision's VGG16 and LPIPS's linear weights to the parameters of `VGGDistance`."""

from collections.abc import Mapping

import numpy as np

from babeldraw.errors import UserError
from babeldraw.judges.perceptual import CONVOLUTIONS, WIDTHS


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


def to_perceptual(
    vgg: Mapping[str, np.ndarray],
    lpips: Mapping[str, np.ndarray] | None,
    widths: tuple[int, ...] = WIDTHS,
) -> dict[str, np.ndarray]:
    """The content of the file that `config.perceptual.file` names.

    Args:
      vgg: torchvision's state dict: `features.N.weight` [features, C, 3, 3], `features.N.bias`;
        its classifier is left out.
      lpips: LPIPS's: `linN.model.1.weight` [1, C, 1, 1], N from 0; None for weights of one.
      widths: channels of the five stages.

    Returns:
      float32 arrays by our names, `vgg/conv1_1/weight` [3, 3, C, features] and so on.

    Raises:
      UserError: an array is missing or has another shape.
    """
    found, channels = {}, 3
    for name, key in torchvision_keys().items():
        features = widths[int(name[4]) - 1]
        weight = _take(vgg, "--vgg", f"{key}.weight", (features, channels, 3, 3))
        bias = _take(vgg, "--vgg", f"{key}.bias", (features,))
        found[f"vgg/{name}/weight"] = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        found[f"vgg/{name}/bias"] = bias
        channels = features
    for stage, width in enumerate(widths):
        linear = np.ones((1, width, 1, 1), np.float32)
        if lpips is not None:
            linear = _take(lpips, "--lpips", f"lin{stage}.model.1.weight", linear.shape)
        found[f"linear{stage + 1}"] = np.ascontiguousarray(linear[0, :, 0, 0])
    return found


def _take(
    arrays: Mapping[str, np.ndarray], flag: str, key: str, shape: tuple[int, ...]
) -> np.ndarray:
    if key not in arrays:
        raise UserError(f"the file of {flag} holds no {key} of shape {shape}")
    if arrays[key].shape != shape:
        raise UserError(
            f"{key} in the file of {flag} has the shape {arrays[key].shape} and {shape} is needed"
        )
    return arrays[key].astype(np.float32)
