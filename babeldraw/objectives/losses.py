"""The terms that train a tokenizer, each a function of its own.

ViT-VQGAN (Yu et al., ICLR 2022), section 3.2, sums them as

  L = L_VQ + 0.1 L_adversarial + 0.1 L_perceptual + 0.1 L_logit-Laplace + 1.0 L_2.

L_VQ is in `babeldraw.tokenizers.quantizers`, the perceptual distance in
`babeldraw.judges.perceptual`. All results are float32 scalars unless said.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from babeldraw.judges import similarity
from babeldraw.tokenizers.pixels import map_pixels


def l2(images: jax.Array, targets: jax.Array) -> jax.Array:
    """mean (x - y)^2: the negative log-likelihood of Gaussian noise, up to constants."""
    return jnp.mean(jnp.square(images - targets))


def l1(images: jax.Array, targets: jax.Array) -> jax.Array:
    """mean |x - y|: the negative log-likelihood of Laplace noise, up to constants."""
    return jnp.mean(jnp.abs(images - targets))


def gradient(images: jax.Array, targets: jax.Array) -> jax.Array:
    """mean |d(x - y)|, d the difference of two neighbours, of a column and of a row.

    After the gradient difference loss of Mathieu et al., "Deep multi-scale video prediction beyond
    mean square error", 2016, which compares the differences' sizes and not their signs.

    Args:
      images, targets: float32 [B, height, width, C].
    """
    error = images - targets
    return l1(error[:, 1:], error[:, :-1]) + l1(error[:, :, 1:], error[:, :, :-1])


def ms_ssim(images: jax.Array, targets: jax.Array) -> jax.Array:
    """1 - multi-scale structural similarity, mean; see `babeldraw.judges.similarity`.

    Zhao et al., "Loss Functions for Image Restoration with Neural Networks", 2017, section III-C.

    Args:
      images, targets: float32 [B, height, width, C] in [0, 1], sides of at least 11 pixels.
    """
    with jax.named_scope("ms_ssim"):
        return 1 - jnp.mean(similarity.ms_ssim(images, targets))


def logit_laplace(mean: jax.Array, log_scale: jax.Array, images: jax.Array) -> jax.Array:
    """-ln f(y | mu, b), mean over values, of the pixels y = (1 - 2 epsilon) x + epsilon.

    f(y | mu, b) = exp(-|logit y - mu| / b) / (2 b y (1 - y)), so that
    -ln f = |logit y - mu| / b + ln b + ln(2 y (1 - y)). DALL-E, appendix A.3.

    Args:
      mean, log_scale: mu and ln b, float32 of the shape of `images`.
      images: float32 in [0, 1].
    """
    y = map_pixels(images)
    logit = jnp.log(y) - jnp.log1p(-y)
    return jnp.mean(
        jnp.abs(logit - mean) * jnp.exp(-log_scale) + log_scale + jnp.log(2 * y * (1 - y))
    )


def non_saturating_generator(fake: jax.Array) -> jax.Array:
    """-ln sigmoid(D(fake)) = softplus(-D(fake)), mean. Goodfellow et al., 2014, section 3."""
    return jnp.mean(jax.nn.softplus(-fake))


def non_saturating_generator_of_means(fake: jax.Array) -> jax.Array:
    """The same of each picture's mean logit, where it has one per patch: Open-MAGVIT2's and IBQ's.

    A picture whose patches look real on the whole is then pulled little by the others.
    """
    return non_saturating_generator(jnp.mean(fake.reshape(fake.shape[0], -1), axis=1))


def non_saturating_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """-ln sigmoid(D(real)) - ln(1 - sigmoid(D(fake))), each a mean. Goodfellow et al., 2014."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def hinge_generator(fake: jax.Array) -> jax.Array:
    """-D(fake), mean. Lim and Ye, "Geometric GAN", 2017."""
    return -jnp.mean(fake)


def hinge_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), each a mean. Lim and Ye, 2017."""
    return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def least_squares_generator(fake: jax.Array) -> jax.Array:
    """(D(fake) - 1)^2, mean. Mao et al., "Least Squares Generative Adversarial Networks", 2017."""
    return jnp.mean(jnp.square(fake - 1))


def least_squares_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """(D(real) - 1)^2 + D(fake)^2, each a mean. Mao et al., 2017."""
    return jnp.mean(jnp.square(real - 1)) + jnp.mean(jnp.square(fake))


def lecam(
    logits_real: jax.Array, logits_fake: jax.Array, real: jax.Array, fake: jax.Array
) -> jax.Array:
    """max(0, D(x) - fake)^2 + max(0, real - D(G))^2, each a mean over all logits.

    Tseng et al., "Regularizing Generative Adversarial Networks under Limited Data", 2021,
    has no max; their code and all that follow it keep only what lies beyond the mean of
    the other side, and so do not draw the two together past each other.

    Args:
      logits_real, logits_fake: of real and drawn pictures, float32 [B], [B, h, w] or [].
      real, fake: running means of both, scalars, constants.
    """
    apart_real = jax.nn.relu(logits_real - fake)
    apart_fake = jax.nn.relu(real - logits_fake)
    return jnp.mean(jnp.square(apart_real)) + jnp.mean(jnp.square(apart_fake))


def r1_and_gradient(
    discriminate: Callable[[Any, jax.Array], jax.Array], params: Any, images: jax.Array
) -> tuple[jax.Array, Any]:
    """E |grad_x D(x)|^2 over real pictures, and its gradient; the penalty is gamma / 2 times it.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, equation 9.

    The gradient of |g|^2 is twice that of D's derivative along g, held constant. So nothing is
    differentiated in reverse twice, for which libtpu 0.0.42 aborts the process at strided
    convolutions of even sizes, such as PatchGAN's.

    Args:
      discriminate: of params and pictures, to logits, float32 [B] or [B, h, w]; D(x) is their mean.
      params: of the discriminator.
      images: real ones, [B, height, width, 3].

    Returns:
      The mean, a scalar, and its gradient as a tree like `params`.
    """

    def total(params: Any, x: jax.Array) -> jax.Array:
        logits = discriminate(params, x)
        return jnp.sum(jnp.mean(logits.reshape(logits.shape[0], -1), axis=1))

    slope = jax.grad(total, argnums=1)(params, images)

    def along_slope(params: Any) -> jax.Array:
        return jax.jvp(functools.partial(total, params), (images,), (slope,))[1]

    squared, gradient = jax.value_and_grad(along_slope)(params)
    count = images.shape[0]
    return squared / count, jax.tree.map(lambda leaf: 2 * leaf / count, gradient)


def adaptive_weight(reconstruction: Any, adversarial: Any) -> jax.Array:
    """|grad reconstruction| / (|grad adversarial| + 1e-4), at most 1e4, itself a constant.

    Both gradients are with respect to the decoder's last weight, so that the adversarial term pulls
    as hard as the rest. Esser et al., "Taming Transformers", equation 7.
    """
    ratio = optax.tree.norm(reconstruction) / (optax.tree.norm(adversarial) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))


def beside(images: jax.Array, raw: jax.Array | None) -> jax.Array:
    """Each picture as often as it is drawn, [B K, ...]; see `Reconstruction`."""
    times = 1 if raw is None else raw.shape[0] // images.shape[0]
    return images if times == 1 else jnp.repeat(images, times, axis=0)
