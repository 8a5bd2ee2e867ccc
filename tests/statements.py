"""Layers in plain NumPy, float64, by which tests state others' networks apart from ours.

`weights` are a state dict; a layer reads those under its name, as PyTorch lays them out.
"""

import math

import numpy as np

erf = np.vectorize(math.erf)


def random_tensors(shapes, seed=0):
    """Values at which every tensor is felt: {name: float32}, of {name: shape}."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0.0, 0.3 if len(shape) > 1 else 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def even_tensors(shapes, seed=0):
    """Values that keep the variance from layer to layer: {name: float32}, of {name: shape}."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        scale = 0.5 if len(shape) < 2 else np.prod(shape[1:]) ** -0.5
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        found[name] = rng.normal(around, scale, shape).astype(np.float32)
    return found


def patches(weights, name, images):
    """float64 [B, rows, columns, D]: a convolution without overlap; its bias where there is one."""
    kernel = weights[f"{name}.weight"].astype(np.float64)
    side = kernel.shape[-1]
    rows, columns = (size // side for size in images.shape[1:3])
    cells = images.reshape(len(images), rows, side, columns, side, 3)
    y = np.einsum("brycxi,oiyx->brco", cells, kernel)
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def linear(weights, name, x):
    """Of the last dimension, a 1 x 1 convolution's too; the bias is added where there is one."""
    weight = weights[f"{name}.weight"].astype(np.float64)
    y = x @ weight.reshape(weight.shape[:2]).T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def normalized(x, epsilon):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)


def layer_norm(weights, name, x, epsilon):
    return normalized(x, epsilon) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(query, key, value, heads, seen=None):
    """[B, T, D] each -> [B, T, D]; `seen`, bool [T, S], says who sees whom, None: all see all."""

    def split(x):
        return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    query, key, value = map(split, (query, key, value))
    logits = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    found = softmax(logits if seen is None else np.where(seen, logits, -np.inf)) @ value
    return found.swapaxes(1, 2).reshape(found.shape[0], found.shape[2], -1)
