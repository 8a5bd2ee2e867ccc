"""Whose vocabulary a run reads with: a run that begins with another's words has that one's."""

from babeldraw.config import require
from babeldraw.data.image import write_whole
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.train.base_experiment import Experiment


def take_vocabulary(experiment: Experiment, folder: RunFolder) -> bool:
    """Copies into a fresh folder the vocabulary of the run that its words come from, if they do."""
    given = _given(experiment)
    if given is None:
        return False
    write_whole(folder.vocabulary_file, given.vocabulary_file.read_bytes())
    say(f"vocabulary of {given.path}, whose words it begins with")
    return True


def check_vocabulary(experiment: Experiment, folder: RunFolder) -> None:
    """Refuses a folder with a vocabulary that is not that of the words which it begins with.

    Raises:
      UserError: it has another.
    """
    given = _given(experiment)
    if given is None or not folder.vocabulary_file.exists():
        return
    require(
        folder.vocabulary_file.read_bytes() == given.vocabulary_file.read_bytes(),
        f"{folder.vocabulary_file} is another vocabulary than that of {given.path}, whose words "
        f"config.starts takes: piece by piece they would be others; remove the file, and that of "
        f"{given.path} is taken",
    )


def _given(experiment: Experiment) -> RunFolder | None:
    """The run that the vectors of words come from; None: they are the run's own."""
    table = experiment.word_table
    for start in reversed(experiment.starts):
        if table and start.run and start.into == "params" and start.chosen([table]):
            folder = RunFolder.of(start.run)
            return folder if folder.vocabulary_file.exists() else None
    return None
