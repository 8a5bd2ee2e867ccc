"""The discriminator's side of a recipe: its network, its losses, its own optimizer and update.

ViT-VQGAN trains with StyleGAN's discriminator; whether hinge or not, R1, a start step or an
adaptive weight is not published (docs/unconfirmed.md), so each is a field here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.config import require
from babeldraw.judges.discriminators import DISCRIMINATORS, DiscriminatorConfig
from babeldraw.judges.perceptual import PerceptualNetwork
from babeldraw.objectives import losses
from babeldraw.objectives.base import Metrics
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer, optimizer_axes
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.constraint import logical_axes

# The generator's loss, the discriminator's, and what lies between drawn and real for it.
LOSSES = {
    "non_saturating": (losses.non_saturating_generator, losses.non_saturating_discriminator, 0.0),
    "hinge": (losses.hinge_generator, losses.hinge_discriminator, 0.0),
    # Open-MAGVIT2's and IBQ's.
    "hinge_non_saturating": (
        losses.non_saturating_generator_of_means,
        losses.hinge_discriminator,
        0.0,
    ),
    "least_squares": (losses.least_squares_generator, losses.least_squares_discriminator, 0.5),
}
# ViT-VQGAN, section 5: the same for both networks.
STAGE_1_OPTIMIZER = OptimizerConfig(
    ScheduleConfig(
        peak=1e-4,
        warmup_steps=50_000,
        decay_start=50_000,
        decay_end=500_000,
        final_ratio=0.5,
        kind="cosine",
    ),
    name="adamw",
    b1=0.9,
    b2=0.99,
    weight_decay=1e-4,
    clip_norm=0.0,
)


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """How a discriminator and what it judges are trained against each other.

    Attributes:
    loss: of `LOSSES`. Of the discriminator's it is the sum over real and drawn pictures; where a
      paper halves it, `r1_gamma` and `lecam` are twice the paper's for the same balance.
    start_step: neither network feels the adversarial term before; the discriminator rests.
    head_start: steps from then on that the discriminator alone learns. A generator that is tuned
      against one that knows nothing yet runs in any direction.
    adaptive: weigh the term by gradients, see `losses.adaptive_weight`.
    r1_gamma: weight of the R1 penalty on real pictures, gradients counted for pictures in [-1, 1];
      0: none. StyleGAN2 has 10 at 1024 px; small pictures want less, about in proportion to their
      pixels.
    r1_every: the penalty is computed at every so many steps, that many times as heavy (StyleGAN2,
      appendix B: lazy regularisation).
    lecam: weight of `losses.lecam` in the discriminator's loss; 0: none, and nothing is kept.
      Open-MAGVIT2 and IBQ have 0.05, TiTok 0.001.
    lecam_decay: of its running means of logits, which begin at 0; 0.999 in all three.
    lecam_of_means: the penalty is on the mean logit of a batch, as in TiTok, in place of each logit
      (IBQ, Open-MAGVIT2): logits may then lie apart as long as their mean does not.
    discriminator_first: its step goes before the other network's, which it then judges as it is
      after it, as in IBQ; not with `objectives.super_resolution`.
    """

    loss: str = "non_saturating"
    start_step: int = 0
    head_start: int = 0
    adaptive: bool = False
    r1_gamma: float = 10.0
    r1_every: int = 16
    lecam: float = 0.0
    lecam_decay: float = 0.999
    lecam_of_means: bool = False
    discriminator_first: bool = False

    def __post_init__(self):
        path = "config.adversarial"
        require(
            self.loss in LOSSES,
            f"{path}.loss is {self.loss!r}; the choices are {', '.join(LOSSES)}",
        )
        for name in ("start_step", "head_start", "r1_gamma", "r1_every", "lecam"):
            value, least = getattr(self, name), int(name == "r1_every")
            require(value >= least, f"{path}.{name} is {value}; at least {least} is needed")
        require(
            0 <= self.lecam_decay < 1,
            f"{path}.lecam_decay is {self.lecam_decay}; 0 to less than 1 is needed",
        )


def check_discriminator(
    discriminator: DiscriminatorConfig, image_size: tuple[int, int], weight: float
) -> None:
    """What must hold between the section `discriminator` and others.

    Args:
      discriminator: the section.
      image_size: (height, width) of the pictures to judge.
      weight: `config.loss.adversarial`.

    Raises:
      UserError: a weight without a discriminator or the reverse, or a size that does not fit.
    """
    if discriminator.kind == "none":
        others = ", ".join(kind for kind in DISCRIMINATORS if kind != "none")
        require(
            weight == 0,
            f"config.loss.adversarial is {weight} and config.discriminator.kind is 'none'; "
            f"choose one of {others}, or set the weight to 0",
        )
        return
    require(
        weight > 0,
        f"config.discriminator.kind is {discriminator.kind!r} and config.loss.adversarial is 0; "
        "set kind=none too, or a weight (0.1 in ViT-VQGAN)",
    )
    discriminator.check(image_size)


def uses_perceptual(loss: Any, discriminator: DiscriminatorConfig) -> bool:
    """Whether the perceptual network is in a recipe's losses: in their own term, or judged on.

    Args:
      loss: the section, with its weights `perceptual` and `adversarial`.
      discriminator: the section.
    """
    return loss.perceptual > 0 or (loss.adversarial > 0 and "perceptual" in discriminator.needs)


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator and its optimizer, for any objective that draws pictures.

    Its state is {"params": ..., "opt_state": ...}; and {"lecam": {"real", "fake"}}, running means
    of logits, where that has a weight; and {"fixed": ...}, weights that are drawn once and never
    learn, where the network has some. An objective keeps it in `TrainState.extra`.

    Attributes:
      discriminator: the network; not of kind none.
      config: what it is trained against.
      optimizer: the discriminator's own.
      image_size: (height, width) of the pictures.
      perceptual: the frozen network whose maps it looks at where it `needs` that.
    """

    discriminator: DiscriminatorConfig
    config: AdversarialConfig
    optimizer: OptimizerConfig
    image_size: tuple[int, int]
    perceptual: PerceptualNetwork | None = None

    def init(self, key: jax.Array) -> dict[str, Any]:
        state = nn.unbox(self._init(key))
        state["opt_state"] = self._optimizer.init(state["params"])
        if self.config.lecam > 0:
            state["lecam"] = {"real": jnp.zeros(()), "fake": jnp.zeros(())}
        return state

    def axes(self) -> dict[str, Any]:
        """Logical axes of each array of the state."""
        state, axes = jax.eval_shape(self.init, jax.random.key(0)), self._axes
        opt_axes = optimizer_axes(state["opt_state"], state["params"], axes["params"])
        found = {**axes, "opt_state": opt_axes}
        return {**found, "lecam": {"real": (), "fake": ()}} if "lecam" in state else found

    def logits(
        self, params: Any, images: jax.Array, fixed: Any = None, frozen: Any = None
    ) -> jax.Array:
        """float32 [B, height, width, 3] near [0, 1] -> [B], [B, h, w] or [B, n]; large means real.

        Args:
          params: what learns.
          images: to be judged.
          fixed: of the state, where it has that.
          frozen: parameters of the networks that the discriminator `needs`, by name.
        """
        variables = {"params": params} if fixed is None else {"params": params, "fixed": fixed}
        with jax.named_scope("discriminator"):
            return self._network.apply(variables, self._seen(images, frozen))

    def generator_loss(
        self, state: dict[str, Any], fake: jax.Array, step: jax.Array, frozen: Any = None
    ) -> jax.Array:
        """How far the discriminator is from taking `fake` for real; 0 before the term's start.

        `frozen` is that of `logits`.
        """

        def loss(images: jax.Array) -> jax.Array:
            return LOSSES[self.config.loss][0](self._judge(state, frozen)(state["params"], images))

        start = self.config.start_step + self.config.head_start
        return _from(start, loss, lambda images: jnp.zeros(()), step, fake)

    def update(
        self,
        state: dict[str, Any],
        real: jax.Array,
        fake: jax.Array,
        step: jax.Array,
        frozen: Any = None,
    ) -> tuple[dict[str, Any], Metrics]:
        """One step of the discriminator.

        Args:
          state: as `init` makes it.
          real, fake: pictures and their reconstructions, [B, height, width, 3].
          step: number of updates done.
          frozen: as for `logits`.

        Returns:
          The new state; and `discriminator`, the loss without R1 and LeCam, `real_accuracy` and
          `fake_accuracy`, shares of logits above and below what lies between real and drawn, and
          `r1`, the penalty as it entered the loss: at every `r1_every`-th step that many times
          itself, 0 at the others, so that its mean is the penalty's. `lecam`, without its weight,
          where that is above 0.
        """
        start = self.config.start_step
        return _from(start, self._update, self._rest, step, state, real, fake, step, frozen)

    def _update(self, state, real, fake, step, frozen) -> tuple[dict[str, Any], Metrics]:
        fake, logits = jax.lax.stop_gradient(fake), self._judge(state, frozen)

        def loss_fn(params):
            # Apart, so that no group of the minibatch deviation holds both.
            real_B, fake_B = logits(params, real), logits(params, fake)
            terms = {"discriminator": LOSSES[self.config.loss][1](real_B, fake_B)}
            means = self._means(state, real_B, fake_B)
            loss = terms["discriminator"]
            if means:
                seen = (real_B, fake_B)
                if self.config.lecam_of_means:
                    seen = (jnp.mean(real_B), jnp.mean(fake_B))
                terms["lecam"] = losses.lecam(*seen, **means["lecam"])
                loss = loss + self.config.lecam * terms["lecam"]
            return loss, (terms, means, real_B, fake_B)

        grads, (terms, means, real_B, fake_B) = jax.grad(loss_fn, has_aux=True)(state["params"])
        penalty, grads = self._add_r1(logits, state["params"], grads, real, step)
        updates, opt_state = self._optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        middle = LOSSES[self.config.loss][2]
        metrics = {
            **terms,
            "real_accuracy": jnp.mean(real_B > middle),
            "fake_accuracy": jnp.mean(fake_B < middle),
            "r1": penalty,
        }
        return {**state, "params": params, "opt_state": opt_state, **means}, metrics

    def _judge(self, state: dict[str, Any], frozen: Any) -> Callable[[Any, jax.Array], jax.Array]:
        """`logits` of parameters and pictures alone."""
        return functools.partial(self.logits, fixed=state.get("fixed"), frozen=frozen)

    def _seen(self, images: jax.Array, frozen: Any) -> Any:
        """What the network looks at: the pictures, or what a frozen network makes of them."""
        if not self.discriminator.needs:
            return images
        return self.perceptual.maps(frozen["perceptual"], images)

    def _means(self, state: dict[str, Any], real_B: jax.Array, fake_B: jax.Array) -> dict[str, Any]:
        """LeCam's running means with those of this step in them, as constants; {} without it."""
        if self.config.lecam == 0:
            return {}
        decay, found = self.config.lecam_decay, {"real": jnp.mean(real_B), "fake": jnp.mean(fake_B)}
        means = jax.tree.map(lambda m, new: decay * m + (1 - decay) * new, state["lecam"], found)
        return {"lecam": jax.lax.stop_gradient(means)}

    def _add_r1(
        self, logits: Callable, params: Any, grads: Any, real: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The lazy penalty at this step, and `grads` with its gradient added."""
        gamma, every = self.config.r1_gamma, self.config.r1_every
        if gamma == 0:
            return jnp.zeros(()), grads

        def penalty(params):
            found = losses.r1_and_gradient(logits, params, real)
            # gamma is StyleGAN2's, for pictures in [-1, 1], where gradients are half as long.
            return jax.tree.map(lambda leaf: 0.5 * gamma * every * 0.25 * leaf, found)

        def rest(params):
            return jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)

        # Outside of the other gradient: a branch under differentiation would keep its residuals.
        found, own = jax.lax.cond(step % every == 0, penalty, rest, params)
        return found, jax.tree.map(jnp.add, grads, own)

    def _rest(self, state, real, fake, step, frozen) -> tuple[dict[str, Any], Metrics]:
        names = ("discriminator", "real_accuracy", "fake_accuracy", "r1")
        if self.config.lecam > 0:
            names = (*names, "lecam")
        return state, dict.fromkeys(names, jnp.zeros(()))

    @functools.cached_property
    def _network(self) -> nn.Module:
        return self.discriminator.make()

    def _init(self, key: jax.Array) -> Any:
        """Parameters, and what is fixed where there is some, boxed."""
        images = jax.ShapeDtypeStruct((1, *self.image_size, 3), jnp.float32)
        frozen = {"perceptual": self.perceptual.shapes()} if self.discriminator.needs else None
        # Only the shapes are asked for: the frozen network does not run here.
        seen = jax.eval_shape(self._seen, images, frozen)
        return self._network.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen))

    @functools.cached_property
    def _axes(self):
        return logical_axes(jax.eval_shape(self._init, jax.random.key(0)))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self._axes["params"])


def _from(start: int, active: Callable, resting: Callable, step: jax.Array, *operands: Any) -> Any:
    """`active(*operands)` from step `start` on, `resting(*operands)` before."""
    if start == 0:
        return active(*operands)
    return jax.lax.cond(step >= start, active, resting, *operands)
