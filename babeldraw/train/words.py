"""Whose vocabulary a run reads with: one that begins with another's words has that one's."""

from etils import epath

from babeldraw.config import require
from babeldraw.data.image import write_whole
from babeldraw.data.vocabularies import open_vocabulary
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.train.base_experiment import Experiment


def take_vocabulary(experiment: Experiment, folder: RunFolder) -> bool:
    """Copies into a fresh folder the vocabulary that its words come with, if they do."""
    given = _given(experiment)
    if given is None:
        return False
    write_whole(folder.vocabulary_file, given.read_bytes())
    say(f"vocabulary {given}, with whose words it begins")
    return True


def vocabulary_beside(experiment: Experiment) -> bytes | None:
    """What `text.model` of a run of others' weights holds; None: the network reads no texts.

    Raises:
      UserError: no vocabulary is named, or it is another one than the weights'.
    """
    if not experiment.text_length:
        return None
    given = _given(experiment)
    require(
        given is not None,
        "config.condition.words is empty and a vocabulary belongs to the weights: name it, such as "
        "icetk's ice_text.model",
    )
    experiment.with_vocabulary(_size(experiment, given))
    return given.read_bytes()


def check_vocabulary(experiment: Experiment, folder: RunFolder) -> None:
    """Refuses a folder with a vocabulary that is not that of the words which it begins with.

    Raises:
      UserError: it has another, or there is none.
    """
    given = _given(experiment)
    if given is None:
        return
    # One that cannot be read, or has too many pieces, is told here.
    experiment.with_vocabulary(_size(experiment, given))
    require(
        not folder.vocabulary_file.exists()
        or folder.vocabulary_file.read_bytes() == given.read_bytes(),
        f"{folder.vocabulary_file} is another vocabulary than {given}, with whose words this run "
        f"begins: piece by piece they would be others; remove it, and {given} is taken",
    )


def _size(experiment: Experiment, given: epath.Path) -> int:
    """Pieces of a vocabulary. Raises `UserError`: it cannot be read."""
    try:
        return open_vocabulary(given).size
    except UserError as error:
        if not experiment.vocabulary_file:
            raise
        raise UserError(f"config.condition.words={experiment.vocabulary_file}: {error}") from error


def _given(experiment: Experiment) -> epath.Path | None:
    """The vocabulary that the vectors of words come with; None: they are the run's own."""
    if experiment.vocabulary_file:
        return epath.Path(experiment.vocabulary_file).expanduser()
    if experiment.frozen_tokenizer and make_tokenizer(experiment.tokenizer).condition:
        # Beside words of its own the decoder was trained.
        file = RunFolder.to_read(experiment.tokenizer_run).vocabulary_file
        return file if file.exists() else None
    table = experiment.word_table
    for start in reversed(experiment.starts):
        if table and start.run and start.into == "params" and start.chosen([table]):
            file = RunFolder.to_read(start.run).vocabulary_file
            return file if file.exists() else None
    return None
