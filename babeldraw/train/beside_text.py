"""Of a tokenizer whose decoder draws beside the states of a text: whether there are such states."""

from babeldraw.config import require
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.models.condition import Condition
from babeldraw.objectives.base import TrainState
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.base_experiment import Experiment


def check_states(tokenizer: Tokenizer, condition: Condition) -> None:
    """Refuses a condition whose states are not those that the tokenizer's decoder draws beside.

    Raises:
      UserError: it has none, or of another shape, and the decoder needs some.
    """
    wanted, found = tokenizer.condition, condition.states_shape
    if not wanted:
        return
    beside = f"config.tokenizer.text is set: the decoder draws beside states of a text, {wanted},"
    require(
        bool(found),
        f"{beside} and config.condition.kind={condition.kind} has none; take the kind clip or t5, "
        "or a tokenizer with text=None",
    )
    require(
        found == wanted,
        f"{beside} and those of config.condition.kind={condition.kind} are {found}; set "
        f"config.tokenizer.text.words={found and found[0]} and dim={found and found[-1]}, or take "
        "the encoder that the tokenizer was trained with",
    )


def check_read(tokenizer: Tokenizer, condition: Condition) -> None:
    """Refuses, for a tokenizer's training, a condition that nothing reads or no picture comes with.

    Raises:
      UserError: it is none of a text, or the text is read nowhere.
    """
    check_states(tokenizer, condition)
    require(
        bool(tokenizer.condition) or condition.kind == "nothing",
        f"config.condition.kind is {condition.kind!r} and the decoder of config.tokenizer draws "
        "from codes alone; take kind=nothing, or a tokenizer with text",
    )
    require(
        not condition.stored,
        f"config.condition, of kind={condition.kind}, reads states that lie beside stored tokens, "
        "while a tokenizer learns from pictures; take kind=t5 with stored=False",
    )


def check_same_encoder(experiment: Experiment, state: TrainState) -> None:
    """Refuses to give a trained decoder the states of another encoder than it was trained beside.

    Args:
      experiment: with a frozen tokenizer, in `config.tokenizer_run`.
      state: fresh.

    Raises:
      UserError: the weights that make them are others.
    """
    if not (experiment.frozen_tokenizer and make_tokenizer(experiment.tokenizer).condition):
        return
    text = TokenizerRun.open(experiment.tokenizer_run).text
    require(
        text is None or text.read_alike(state.frozen),
        f"config.tokenizer_run={experiment.tokenizer_run} was trained beside a text that other "
        "weights read than config.condition.weights; name those that the tokenizer has",
    )
