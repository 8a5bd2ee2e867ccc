"""Others' convolutional tokenizers in plain NumPy, float64, in their layer order and names.

Stated from the published code: 1d-tokenizer's `maskgit_vqgan.py` (MaskGIT's) and LlamaGen's
`vq_model.py`, whose layers are taming's. A `state` is a state dict, kernels [out, in, h, w];
pictures are [B, h, w, C].
"""

import numpy as np

State = dict[str, np.ndarray]


def conv(x, state, name, stride=1, zeros=None):
    kernel = np.asarray(state[f"{name}.weight"], np.float64)
    side = kernel.shape[2]
    before, after = zeros or (side // 2, side // 2)
    x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    y = np.einsum("bhwiyx,oiyx->bhwo", windows[:, ::stride, ::stride], kernel, optimize=True)
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def norm(x, state, name, groups, epsilon=1e-6):
    split = x.reshape(*x.shape[:3], groups, -1)
    mean = split.mean((1, 2, 4), keepdims=True)
    variance = split.var((1, 2, 4), keepdims=True)
    y = ((split - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    return y * state[f"{name}.weight"] + state[f"{name}.bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def branch(x, state, name, groups):
    x = conv(silu(norm(x, state, f"{name}.norm1", groups)), state, f"{name}.conv1")
    return conv(silu(norm(x, state, f"{name}.norm2", groups)), state, f"{name}.conv2")


def mean_pool(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def twice(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def indices(state, pattern):
    """0, 1, ... as long as there is a tensor whose name begins with the pattern's."""
    found = []
    while any(key.startswith(pattern.format(len(found))) for key in state):
        found.append(len(found))
    return found


# ------------------------------------------------------------------ MaskGIT's


def maskgit_block(x, state, name, groups):
    """The slip: the shortcut reads what the branch gives, and the input is lost."""
    y = branch(x, state, name, groups)
    if f"{name}.nin_shortcut.weight" in state:
        return y + conv(y, state, f"{name}.nin_shortcut")
    return x + y


def maskgit_encoder(x, state, groups):
    x = conv(x, state, "encoder.conv_in")
    levels = indices(state, "encoder.down.{}.")
    for level in levels:
        for i in indices(state, f"encoder.down.{level}.block.{{}}."):
            x = maskgit_block(x, state, f"encoder.down.{level}.block.{i}", groups)
        x = mean_pool(x) if level != levels[-1] else x
    for i in indices(state, "encoder.mid.{}."):
        x = maskgit_block(x, state, f"encoder.mid.{i}", groups)
    return conv(silu(norm(x, state, "encoder.norm_out", groups)), state, "encoder.conv_out")


def maskgit_decoder(z, state, groups):
    x = conv(z, state, "decoder.conv_in")
    for i in indices(state, "decoder.mid.{}."):
        x = maskgit_block(x, state, f"decoder.mid.{i}", groups)
    for level in reversed(indices(state, "decoder.up.{}.")):
        for i in indices(state, f"decoder.up.{level}.block.{{}}."):
            x = maskgit_block(x, state, f"decoder.up.{level}.block.{i}", groups)
        if level > 0:
            x = conv(twice(x), state, f"decoder.up.{level}.upsample_conv")
    return conv(silu(norm(x, state, "decoder.norm_out", groups)), state, "decoder.conv_out")


def maskgit_codes(z, state):
    """The nearest row by squared distance, int [B, h, w]."""
    book = np.asarray(state["quantize.embedding.weight"], np.float64)
    return np.argmin(np.square(z[..., None, :] - book).sum(-1), axis=-1)


# ------------------------------------------------------------------ taming's, as LlamaGen names it


def taming_block(x, state, name, groups):
    y = branch(x, state, name, groups)
    if f"{name}.nin_shortcut.weight" in state:
        x = conv(x, state, f"{name}.nin_shortcut")
    return x + y


def taming_attention(x, state, name, groups):
    y = norm(x, state, f"{name}.norm", groups)
    q, k, v = (conv(y, state, f"{name}.{part}").reshape(len(x), -1, x.shape[-1]) for part in "qkv")
    logits = np.einsum("btc,bsc->bts", q, k) * x.shape[-1] ** -0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    y = np.einsum("bts,bsc->btc", weights, v).reshape(x.shape)
    return x + conv(y, state, f"{name}.proj_out")


def middle_of(first, attention, second):
    """What a side has in the middle, by the names of its parts."""

    def middle(x, state, side, groups):
        x = taming_block(x, state, f"{side}.mid.{first}", groups)
        x = taming_attention(x, state, f"{side}.mid.{attention}", groups)
        return taming_block(x, state, f"{side}.mid.{second}", groups)

    return middle


def level_of(block):
    """A level, whose blocks have this name and attention behind each where there is some."""

    def level(x, state, name, groups):
        for i in indices(state, f"{name}.{block}.{{}}."):
            x = taming_block(x, state, f"{name}.{block}.{i}", groups)
            if f"{name}.attn.{i}.q.weight" in state:
                x = taming_attention(x, state, f"{name}.attn.{i}", groups)
        return x

    return level


llamagen_middle, llamagen_level = middle_of("0", "1", "2"), level_of("res")


def llamagen_encoder(x, state, groups):
    x = conv(x, state, "encoder.conv_in")
    for level in indices(state, "encoder.conv_blocks.{}."):
        name = f"encoder.conv_blocks.{level}"
        x = llamagen_level(x, state, name, groups)
        if f"{name}.downsample.conv.weight" in state:
            x = conv(x, state, f"{name}.downsample.conv", stride=2, zeros=(0, 1))
    x = llamagen_middle(x, state, "encoder", groups)
    return conv(silu(norm(x, state, "encoder.norm_out", groups)), state, "encoder.conv_out")


def llamagen_decoder(z, state, groups):
    x = conv(z, state, "decoder.conv_in")
    x = llamagen_middle(x, state, "decoder", groups)
    # The first is of the lowest resolution.
    for level in indices(state, "decoder.conv_blocks.{}."):
        name = f"decoder.conv_blocks.{level}"
        x = llamagen_level(x, state, name, groups)
        if f"{name}.upsample.conv.weight" in state:
            x = conv(twice(x), state, f"{name}.upsample.conv")
    return conv(silu(norm(x, state, "decoder.norm_out", groups)), state, "decoder.conv_out")


# ------------------------------------------------------------------ Open-MAGVIT2's


def magvit2_blocks(x, state, name, groups):
    for i in indices(state, f"{name}.{{}}."):
        x = taming_block(x, state, f"{name}.{i}", groups)
    return x


def magvit2_encoder(x, state, groups):
    x = conv(x, state, "encoder.conv_in")
    for level in indices(state, "encoder.down.{}."):
        x = magvit2_blocks(x, state, f"encoder.down.{level}.block", groups)
        if f"encoder.down.{level}.downsample.weight" in state:
            x = conv(x, state, f"encoder.down.{level}.downsample", stride=2)
    x = magvit2_blocks(x, state, "encoder.mid_block", groups)
    return conv(silu(norm(x, state, "encoder.norm_out", groups)), state, "encoder.conv_out")


def magvit2_decoder(z, state, groups):
    x = magvit2_blocks(conv(z, state, "decoder.conv_in"), state, "decoder.mid_block", groups)
    plain = {"n.weight": 1, "n.bias": 0}
    spread = {"gamma": np.sqrt(z.var((1, 2), ddof=1) + 1e-6), "beta": z.mean((1, 2))}
    for level in reversed(indices(state, "decoder.up.{}.")):
        scale, bias = (
            (value @ state[f"decoder.adaptive.{level}.{part}.weight"].T.astype(np.float64))
            + state[f"decoder.adaptive.{level}.{part}.bias"]
            for part, value in spread.items()
        )
        x = norm(x, plain, "n", groups) * scale[:, None, None] + bias[:, None, None]
        x = magvit2_blocks(x, state, f"decoder.up.{level}.block", groups)
        if level > 0:
            x = conv(x, state, f"decoder.up.{level}.upsample.conv1")
            b, h, w, c = x.shape
            x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
            x = x.reshape(b, 2 * h, 2 * w, c // 4)
    return conv(silu(norm(x, state, "decoder.norm_out", groups)), state, "decoder.conv_out")


# ------------------------------------------------------------------ icetk's


icetk_middle, icetk_level = middle_of("block_1", "attn_1", "block_2"), level_of("block")


def icetk_latents(x, state, halvings, groups):
    """Before the codebook, at a quarter of the size and so many halvings below it."""
    x = conv(x, state, "enc.conv_in")
    for level in indices(state, "enc.down.{}."):
        x = icetk_level(x, state, f"enc.down.{level}", groups)
        if f"enc.down.{level}.downsample.conv.weight" in state:
            x = conv(x, state, f"enc.down.{level}.downsample.conv", stride=2, zeros=(0, 1))
    x = icetk_middle(x, state, "enc", groups)
    x = conv(silu(norm(x, state, "enc.norm_out", groups)), state, "enc.conv_out")
    for i in range(halvings):
        down = f"down_samplers.{i}.conv_down_sampler.conv"
        x = mean_pool(x) + conv(x, state, down, stride=2, zeros=(0, 1))
    return conv(x, state, "quantize.proj")


def icetk_decoder(z, state, halvings, groups):
    """The decoders are counted from the coarsest rate."""
    side = f"decs.{2 - halvings}"
    x = icetk_middle(conv(z, state, f"{side}.conv_in"), state, side, groups)
    for level in reversed(indices(state, f"{side}.up.{{}}.")):
        x = icetk_level(x, state, f"{side}.up.{level}", groups)
        if level > 0:
            x = conv(twice(x), state, f"{side}.up.{level}.upsample.conv")
    return conv(silu(norm(x, state, f"{side}.norm_out", groups)), state, f"{side}.conv_out")


# ------------------------------------------------------------------ names and shapes


def _convs(shapes, name, inside, out, side, bias=True):
    shapes[f"{name}.weight"] = (out, inside, side, side)
    if bias:
        shapes[f"{name}.bias"] = (out,)


def _block(shapes, name, inside, out, shortcut, bias):
    _norms(shapes, f"{name}.norm1", inside)
    _convs(shapes, f"{name}.conv1", inside, out, 3, bias)
    _norms(shapes, f"{name}.norm2", out)
    _convs(shapes, f"{name}.conv2", out, out, 3, bias)
    if inside != out:
        _convs(shapes, f"{name}.nin_shortcut", shortcut, out, 1, bias)


def _norms(shapes, name, width):
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)


def _attentions(shapes, name, width):
    _norms(shapes, f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        _convs(shapes, f"{name}.{part}", width, width, 1)


def maskgit_shapes(channels, multipliers, latent, codes):
    """{name: shape} of 1d-tokenizer's port of MaskGIT's tokenizer, two blocks to a level."""
    widths, shapes, top = [channels * m for m in multipliers], {}, len(multipliers) - 1
    _convs(shapes, "encoder.conv_in", 3, channels, 3, bias=False)
    _convs(shapes, "encoder.conv_out", widths[-1], latent, 1)
    _convs(shapes, "decoder.conv_in", latent, widths[-1], 3)
    _convs(shapes, "decoder.conv_out", widths[0], 3, 3)
    for level, width in enumerate(widths):
        below = [channels, *widths][level]
        above = widths[min(level + 1, top)]
        for i in (0, 1):
            down, up = (f"{side}.{level}.block.{i}" for side in ("encoder.down", "decoder.up"))
            _block(shapes, down, width if i else below, width, width, bias=False)
            _block(shapes, up, width if i else above, width, width, bias=False)
        if level:
            _convs(shapes, f"decoder.up.{level}.upsample_conv", width, width, 3)
    for side, width in (("encoder", widths[-1]), ("decoder", widths[0])):
        _norms(shapes, f"{side}.norm_out", width)
        for i in (0, 1):
            _block(shapes, f"{side}.mid.{i}", widths[-1], widths[-1], 0, bias=False)
    return shapes | {"quantize.embedding.weight": (codes, latent)}


def llamagen_shapes(channels, multipliers, latent, codes, code):
    """{name: shape} of LlamaGen's tokenizer, two blocks to a level and three in the decoder."""
    widths, shapes, top = [channels * m for m in multipliers], {}, len(multipliers) - 1
    _convs(shapes, "encoder.conv_in", 3, channels, 3)
    _convs(shapes, "encoder.conv_out", widths[-1], latent, 3)
    _convs(shapes, "decoder.conv_in", latent, widths[-1], 3)
    _convs(shapes, "decoder.conv_out", widths[0], 3, 3)
    for level, width in enumerate(widths):
        below, above = [channels, *widths][level], widths[min(level + 1, top)]
        for side, number, count, first in (
            ("encoder", level, 2, below),
            ("decoder", top - level, 3, above),
        ):
            name = f"{side}.conv_blocks.{number}"
            for i in range(count):
                inside = width if i else first
                _block(shapes, f"{name}.res.{i}", inside, width, inside, bias=True)
                if level == top:
                    _attentions(shapes, f"{name}.attn.{i}", width)
        if level < top:
            _convs(shapes, f"encoder.conv_blocks.{level}.downsample.conv", width, width, 3)
        if level:
            _convs(shapes, f"decoder.conv_blocks.{top - level}.upsample.conv", width, width, 3)
    for side, width in (("encoder", widths[-1]), ("decoder", widths[0])):
        _norms(shapes, f"{side}.norm_out", width)
        for i in (0, 2):
            _block(shapes, f"{side}.mid.{i}", widths[-1], widths[-1], 0, bias=True)
        _attentions(shapes, f"{side}.mid.1", widths[-1])
    _convs(shapes, "quant_conv", latent, code, 1)
    _convs(shapes, "post_quant_conv", code, latent, 1)
    return shapes | {"quantize.embedding.weight": (codes, code)}


def drawn(shapes, seed=0):
    """A state of random numbers, through which values keep their size."""
    rng = np.random.default_rng(seed)

    def one(name, shape):
        scale = 0.3 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        scale = 0.6 if name.startswith("quantize") else scale
        return rng.normal(offset, scale, shape).astype(np.float32)

    return {name: one(name, shape) for name, shape in shapes.items()}
