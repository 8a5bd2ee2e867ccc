"""Trains the regressor that tells from a caption how complex its picture is.

From what `babeldraw score measure` found: a caption's target is the mean over levels of the log of
the error. The penalty is chosen by leaving one caption out; no set has to be held out for it.

Example:
  babeldraw score train --errors=errors.jsonl --workdir=runs/complexity
"""

from absl import flags

from babeldraw.commands.flags import required
from babeldraw.complexity.measured import Errors
from babeldraw.complexity.regressor import RegressorConfig, train_regressor
from babeldraw.errors import UserError
from babeldraw.say import say

# Pictures times pieces of them are in memory at once, in float64.
MAX_CAPTIONS = 50_000


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("errors", None, "A file of `score measure`.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run folder to write.", flag_values=values)
    flags.DEFINE_integer(
        "vocabulary_size",
        RegressorConfig.vocabulary_size,
        "Pieces of captions, at most.",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> int:
    file, workdir = required(values, "errors"), required(values, "workdir")
    errors = Errors.read(file)
    targets = errors.log_error_N
    said = [index for index, caption in enumerate(errors.captions) if caption][:MAX_CAPTIONS]
    if not said:
        raise UserError(f"--errors={file} holds no caption; measure pictures that have some")
    config = RegressorConfig(values.vocabulary_size)
    captions = [errors.captions[index] for index in said]
    share = train_regressor(captions, targets[said], config, workdir, errors.data)
    say(
        f"{len(said)} captions; of one that is left out {100 * share:.1f} % of the variance of log "
        f"error is told; the regressor is in {workdir}"
    )
    return 0
