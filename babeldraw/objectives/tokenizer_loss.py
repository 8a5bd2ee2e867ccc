"""Weights of the terms of a tokenizer's loss."""

import dataclasses

from babeldraw.config import require

# The terms that look at pictures; the others look at codes.
PICTURE_TERMS = ("l2", "l1", "gradient", "ms_ssim", "perceptual", "adversarial", "logit_laplace")


@dataclasses.dataclass(frozen=True)
class TokenizerLossConfig:
    """Weights of the terms; see `babeldraw.objectives.losses`.

    Attributes:
      l2: of the mean squared error, 1 in the paper.
      l1: of the mean absolute error, in place of l2 in VQGAN and IBQ; edges come out sharper.
      gradient: of the absolute error between neighbours' differences (Mathieu et al., 2016), which
        an edge that is blurred or ragged has the most of.
      ms_ssim: of 1 - multi-scale structural similarity (Wang et al., 2003), beside l1 in Zhao et
        al., 2017; pictures of 11 pixels or more, of 176 for all five scales.
      commitment: beta of the quantizer's loss, 0.25 in the paper. Which term it weighs is the
        tokenizer's to say; its other terms have the weight 1.
      kl: of continuous codes' divergence from a standard normal, 1e-6 in latent diffusion and in
        TA-TiTok.
      entropy: of the quantizer's entropy term, 0 in the paper, 0.1 in MaskGIT; 0 computes none.
      perceptual, adversarial, logit_laplace: 0.1 each in the paper. They need
        `config.perceptual.file`, a `config.discriminator.kind` and
        `config.tokenizer.output=logit_laplace`.
      restart_below: a code whose running share of the tokens falls under this fraction of an equal
        share is replaced by a latent that the codebook serves badly, where the kind can do so, or
        as its `restart_how` says. 0 (the paper) never does; small data needs it, or a handful of
        codes takes everything.
    """

    l2: float = 1.0
    commitment: float = 0.25
    perceptual: float = 0.0
    adversarial: float = 0.0
    logit_laplace: float = 0.0
    restart_below: float = 0.0
    entropy: float = 0.0
    l1: float = 0.0
    gradient: float = 0.0
    ms_ssim: float = 0.0
    kl: float = 1e-6

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"config.loss.{field.name} is {value}; at least 0 is needed")

    @property
    def of_pictures(self) -> tuple[str, ...]:
        """Names of the terms with a weight that look at reconstructed pictures."""
        return tuple(name for name in PICTURE_TERMS if getattr(self, name) > 0)

    def tiny(self) -> "TokenizerLossConfig":
        """The same for a first run."""
        # The perceptual term would need a file of weights.
        return dataclasses.replace(self, perceptual=0.0)
