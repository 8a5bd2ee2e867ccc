"""What of a tokenizer's loss does not go with the tokenizer."""

from collections.abc import Container

from babeldraw.config import require
from babeldraw.judges.similarity import SSIM_WINDOW, scales
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.tokenizers.base import Tokenizer


def codes_of(tokenizer: Tokenizer) -> str:
    """What of a config makes a tokenizer's codes, as it is set there."""
    section = tokenizer.config
    quantizer = getattr(section, "quantizer", None)
    if quantizer is None:
        return f"config.tokenizer.kind={section.kind}"
    return f"config.tokenizer.quantizer.kind={quantizer.kind}"


def check_loss(
    loss: TokenizerLossConfig, tokenizer: Tokenizer, train_groups: tuple[str, ...]
) -> None:
    """Refuses weights of terms that a tokenizer cannot have.

    Args:
      loss: the weights.
      tokenizer: the network.
      train_groups: the parts of it that learn.

    Raises:
      UserError: naming the field, its value and what would do.
    """
    section, of_pictures = tokenizer.config, loss.of_pictures
    require(
        tokenizer.draws or not of_pictures,
        f"config.loss.{'/'.join(of_pictures)} has a weight and config.tokenizer, whose loss is "
        "on another tokenizer's codes, draws no pictures; set it to 0",
    )
    require(
        loss.logit_laplace == 0 or tokenizer.output == "logit_laplace",
        f"config.loss.logit_laplace is {loss.logit_laplace} and config.tokenizer.output is "
        f"{tokenizer.output!r}; set output=logit_laplace, or the weight to 0",
    )
    require(
        loss.ms_ssim == 0 or scales(section.image_size) > 0,
        f"config.loss.ms_ssim is {loss.ms_ssim} and config.tokenizer.image_size is "
        f"{section.image_size}; sides of at least {SSIM_WINDOW} px are needed, or the weight 0",
    )
    require(
        loss.entropy == 0 or "entropy" in tokenizer.optional_terms,
        f"config.loss.entropy is {loss.entropy} and the codes of {codes_of(tokenizer)} have no "
        "such term; set entropy=0",
    )
    require(
        loss.restart_below == 0 or tokenizer.restarts(),
        f"config.loss.restart_below is {loss.restart_below} and the codes of "
        f"{codes_of(tokenizer)} cannot be moved; set restart_below=0",
    )
    require(
        loss.restart_below == 0 or "quantizer" in train_groups,
        f"config.loss.restart_below is {loss.restart_below}, which moves codes, and "
        f"config.train_groups={train_groups} keeps them; set restart_below=0",
    )


def check_terms(loss: TokenizerLossConfig, tokenizer: Tokenizer, terms: Container[str]) -> None:
    """Raises `UserError`: a weight, not the usual, is of none of the terms that codes have."""
    for field, term in {"commitment": tokenizer.beta_term, "kl": "kl"}.items():
        value, usual = getattr(loss, field), getattr(TokenizerLossConfig, field)
        require(
            term in terms or value in (0, usual),
            f"config.loss.{field} is {value} and the codes of {codes_of(tokenizer)} have no such "
            "term; leave it out",
        )
