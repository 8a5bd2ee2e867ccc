"""TiTok's and TA-TiTok's layers in plain NumPy, float64, in 1d-tokenizer's order and names.

Stated from the published code's `modeling/modules/blocks.py` and `quantizer/quantizer.py`. A
`state` is a state dict, kernels [out, in, h, w]; pictures are [B, h, w, C].
"""

import math

import numpy as np

from tests.statements import attend, gelu, layer_norm, linear

State = dict[str, np.ndarray]


def norm(x, state, name):
    return layer_norm(state, name, x, 1e-5)


def attention(x, state, name, heads):
    """torch.nn.MultiheadAttention of x to itself."""
    qkv = x @ state[f"{name}.in_proj_weight"].astype(np.float64).T + state[f"{name}.in_proj_bias"]
    return linear(state, f"{name}.out_proj", attend(*np.split(qkv, 3, axis=-1), heads))


def blocks(x, state, side, heads):
    x, layer = norm(x, state, f"{side}.ln_pre"), 0
    while f"{side}.transformer.{layer}.ln_1.weight" in state:
        name = f"{side}.transformer.{layer}"
        x = x + attention(norm(x, state, f"{name}.ln_1"), state, f"{name}.attn", heads)
        y = linear(state, f"{name}.mlp.c_fc", norm(x, state, f"{name}.ln_2"))
        x = x + linear(state, f"{name}.mlp.c_proj", gelu(y))
        layer += 1
    return x


def repeated(rows, x):
    return np.broadcast_to(x, (rows, *x.shape))


def encoder(images, state, heads, legacy):
    """[B, N, token_size], before the quantizer."""
    kernel = state["encoder.patch_embed.weight"].astype(np.float64)
    b, height, width, _ = images.shape
    p = kernel.shape[-1]
    cells = images.reshape(b, height // p, p, width // p, p, 3)
    x = np.einsum("bhywxc,dcyx->bhwd", cells, kernel) + state["encoder.patch_embed.bias"]
    x = x.reshape(b, -1, len(kernel))
    x = np.concatenate([repeated(b, state["encoder.class_embedding"]), x], 1)
    x = x + state["encoder.positional_embedding"]
    latents = state["latent_tokens"] + state["encoder.latent_token_positional_embedding"]
    x = blocks(np.concatenate([x, repeated(b, latents)], 1), state, "encoder", heads)
    x = norm(x[:, -len(latents) :], state, "encoder.ln_post")
    if legacy:
        # [B, N, W] read as [B, W, N, 1], of which a convolution takes W for channels.
        x = x.reshape(b, x.shape[2], x.shape[1]).transpose(0, 2, 1)
    return linear(state, "encoder.conv_out", x)


def quantized(z, state, l2):
    """Codes int [B, N], what they stand for, and the two sides as they are compared."""
    book = state["quantize.embedding.weight"].astype(np.float64)
    if l2:
        z, book = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (z, book))
    codes = np.argmin(np.square(z[..., None, :] - book).sum(-1), axis=-1)
    return codes, book[codes], z


def decoder(z, state, heads, legacy, grid, text=None):
    """Logits [B, cells, V] of the legacy head, else pictures [B, height, width, 3]."""
    b, cells = len(z), grid[0] * grid[1]
    x = repeated(b, repeated(cells, state["decoder.mask_token"][0, 0]))
    x = np.concatenate([repeated(b, state["decoder.class_embedding"]), x], 1)
    x = x + state["decoder.positional_embedding"]
    z = linear(state, "decoder.decoder_embed", z)
    parts = [x, z + state["decoder.latent_token_positional_embedding"]]
    if text is not None:
        words = linear(state, "decoder.text_guidance_proj", text)
        parts.append(words + state["decoder.text_guidance_positional_embedding"])
    x = blocks(np.concatenate(parts, 1), state, "decoder", heads)
    x = norm(x[:, 1 : 1 + cells], state, "decoder.ln_post")
    x = linear(state, "decoder.ffn.0", x)
    if legacy:
        return linear(state, "decoder.ffn.2", np.tanh(x))
    p = math.isqrt(x.shape[-1] // 3)
    x = x.reshape(b, *grid, p, p, 3).transpose(0, 1, 3, 2, 4, 5)
    return smoothed(x.reshape(b, grid[0] * p, grid[1] * p, 3), state)


def smoothed(x, state):
    """The 3 x 3 convolution over the picture, with a border of zeros."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    kernel = state["decoder.conv_out.weight"].astype(np.float64)
    return np.einsum("bhwiyx,oiyx->bhwo", windows, kernel) + state["decoder.conv_out.bias"]


# ------------------------------------------------------------------ names and shapes


def _linears(shapes, name, inside, out, kernel=()):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inside, *kernel), (out,)


def _norms(shapes, name, width):
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)


def _transformer(shapes, side, width, layers, cells, tokens):
    shapes[f"{side}.class_embedding"] = (1, width)
    shapes[f"{side}.positional_embedding"] = (1 + cells, width)
    shapes[f"{side}.latent_token_positional_embedding"] = (tokens, width)
    for name in ("ln_pre", "ln_post"):
        _norms(shapes, f"{side}.{name}", width)
    for layer in range(layers):
        name = f"{side}.transformer.{layer}"
        _norms(shapes, f"{name}.ln_1", width)
        _norms(shapes, f"{name}.ln_2", width)
        shapes[f"{name}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{name}.attn.in_proj_bias"] = (3 * width,)
        _linears(shapes, f"{name}.attn.out_proj", width, width)
        _linears(shapes, f"{name}.mlp.c_fc", width, 4 * width)
        _linears(shapes, f"{name}.mlp.c_proj", 4 * width, width)


def titok_shapes(
    encoder, decoder, tokens, codes, dim, *, proxy=0, text=(), patch=16, cells=256
) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a checkpoint.

    Args:
      encoder, decoder: (width, layers) of each.
      tokens: latent ones.
      codes, dim: of the codebook; no codes: continuous ones.
      proxy: codes that the legacy head tells apart; 0: the head of pixels.
      text: (words, dim) of a guiding text.
      patch, cells: side and number of the patches.
    """
    (inside, layers), (out, more), shapes = encoder, decoder, {}
    shapes["latent_tokens"] = (tokens, inside)
    _linears(shapes, "encoder.patch_embed", 3, inside, (patch, patch))
    _transformer(shapes, "encoder", inside, layers, cells, tokens)
    _linears(shapes, "encoder.conv_out", inside, dim if codes else 2 * dim, (1, 1))
    _transformer(shapes, "decoder", out, more, cells, tokens)
    shapes["decoder.mask_token"] = (1, 1, out)
    _linears(shapes, "decoder.decoder_embed", dim, out)
    _linears(shapes, "decoder.ffn.0", out, 2 * out if proxy else 3 * patch**2, (1, 1))
    if proxy:
        _linears(shapes, "decoder.ffn.2", 2 * out, proxy, (1, 1))
    else:
        _linears(shapes, "decoder.conv_out", 3, 3, (3, 3))
    if text:
        _linears(shapes, "decoder.text_guidance_proj", text[1], out)
        shapes["decoder.text_guidance_positional_embedding"] = (text[0], out)
    return shapes | ({"quantize.embedding.weight": (codes, dim)} if codes else {})


def drawn(shapes, seed=0) -> State:
    """A state of random numbers, through which values keep their size."""
    rng = np.random.default_rng(seed)

    def one(name, shape):
        scale = 0.3 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        if "embedding" in name or "token" in name:
            scale = 0.5
        offset = 1.0 if ("ln_" in name or "norm" in name) and name.endswith("weight") else 0.0
        return rng.normal(offset, scale, shape).astype(np.float32)

    return {name: one(name, shape) for name, shape in shapes.items()}
