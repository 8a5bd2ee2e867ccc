"""What lies where in a run folder, local or on any path that etils knows (gs://...).

`config.json` · `text.model` · `classes.json` · `codes.json` · `clusters.npy` ·
`checkpoints/STEP/` · `metrics/` · `samples/` · `report.json` · `evaluations/` ·
`profiles/STEP/` · `crashes/`
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from babeldraw.errors import UserError

# Orbax globs the path of a checkpoint that it reads: these would match something else, or nothing.
PATTERN = "*?[]\\"
# Of config.json: of another one there is nothing that this program could read.
FORMAT = 2
# Beside the sections in config.json: the digest of the vocabulary.
VOCABULARY = "vocabulary_sha256"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Attributes:
    path: the folder that `--workdir` names.
    step: of the checkpoint that is read; None: the newest that is whole.
    """

    path: epath.Path
    step: int | None = None

    @classmethod
    def to_read(cls, path: str) -> "RunFolder":
        """The folder of a run that is there; of `PATH@STEP` that checkpoint of it.

        Raises:
          UserError: as `of` does.
        """
        named = re.fullmatch(r"(.+)@(\d+)", path)
        if named is None or epath.Path(path).expanduser().exists():
            return cls.of(path)
        return dataclasses.replace(cls.of(named[1]), step=int(named[2]))

    @classmethod
    def of(cls, path: str) -> "RunFolder":
        """The folder of that path, which need not exist yet.

        Raises:
          UserError: a path that Orbax would read as a pattern, or could not write down.
        """
        folder = epath.Path(path).expanduser()
        whole = str(folder if "://" in str(folder) else folder.absolute())
        found = sorted(set(whole) & set(PATTERN))
        if found:
            raise UserError(
                f"the run folder {path!r} has {' '.join(found)} in its path, which checkpoints "
                "cannot be read from; name one without"
            )
        try:
            whole.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"the run folder {path!r} is not UTF-8, which checkpoints need; name another"
            ) from None
        return cls(folder)

    @property
    def config_file(self) -> epath.Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> epath.Path:
        return self.path / "checkpoints"

    @property
    def steps_done(self) -> int:
        """By the name of the checkpoint that is read; 0 of an import, or where there is none."""
        if self.step is not None:
            return self.step
        if not self.checkpoints.exists():
            return 0
        names = [path.name for path in self.checkpoints.iterdir()]
        return max((int(name) for name in names if name.isdigit()), default=0)

    @property
    def metrics(self) -> epath.Path:
        return self.path / "metrics"

    @property
    def samples(self) -> epath.Path:
        return self.path / "samples"

    @property
    def evaluations(self) -> epath.Path:
        return self.path / "evaluations"

    @property
    def profiles(self) -> epath.Path:
        return self.path / "profiles"

    @property
    def profile_request(self) -> epath.Path:
        """A file that asks a run under way for a profile."""
        return self.path / "profile"

    @property
    def crashes(self) -> epath.Path:
        return self.path / "crashes"

    @property
    def report_file(self) -> epath.Path:
        return self.path / "report.json"

    @property
    def vocabulary_file(self) -> epath.Path:
        return self.path / "text.model"

    @property
    def codes_file(self) -> epath.Path:
        """What was measured of continuous codes."""
        return self.path / "codes.json"

    @property
    def classes_file(self) -> epath.Path:
        return self.path / "classes.json"

    def write_classes(self, names: tuple[str, ...]) -> None:
        """Keeps the names of the classes, by number; of none, nothing."""
        if names:
            write_json(self.classes_file, list(names))

    def read_classes(self) -> tuple[str, ...]:
        """Names of the classes that the run was trained on; none where it kept none.

        Raises:
          UserError: the file holds no list of names.
        """
        if not self.classes_file.exists():
            return ()
        try:
            names = json.loads(self.classes_file.read_text())
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.classes_file} is not a list of names in JSON")
        return tuple(names)

    @property
    def clusters_file(self) -> epath.Path:
        """Which codes look alike, by `babeldraw clusters`."""
        return self.path / "clusters.npy"

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes config.json with its format, whole or not at all.

        With it the digest of the vocabulary, where there is one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        digest = self._vocabulary_digest()
        beside = {VOCABULARY: digest} if digest else {}
        write_json(self.config_file, {"format": FORMAT, **beside, **config})

    def check_vocabulary(self) -> None:
        """Refuses a vocabulary that is not the one which the run was trained with.

        Raises:
          UserError: it is another.
        """
        trained = json.loads(self.config_file.read_text()).get(VOCABULARY)
        if trained not in (None, self._vocabulary_digest()):
            raise UserError(
                f"{self.vocabulary_file} is another vocabulary than the one that the run was "
                "trained with: its pieces would be other words; put that one back"
            )

    def _vocabulary_digest(self) -> str:
        if not self.vocabulary_file.exists():
            return ""
        return hashlib.sha256(self.vocabulary_file.read_bytes()).hexdigest()

    def read_config(self) -> dict[str, Any]:
        """The config of a run.

        Raises:
          UserError: the folder is missing, is not a run folder, or is one of another format.
        """
        if not self.path.exists():
            raise UserError(f"the run folder {self.path} does not exist; name one that train made")
        if not self.config_file.exists():
            raise UserError(f"{self.path} is not a run folder: it holds no config.json")
        try:
            config = json.loads(self.config_file.read_text())
        except ValueError as error:
            raise UserError(f"{self.config_file} is not JSON: {error}") from None
        if not isinstance(config, dict) or "objective" not in config:
            raise UserError(f"{self.config_file} is not a babeldraw config: no field `objective`")
        return check_format({"format": 1, **config}, f"the run folder {self.path}")


def check_format(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A config without what config.json holds beside its sections.

    Raises:
      UserError: it is another one than this program writes.
    """
    if "format" not in config:
        return config
    if config["format"] != FORMAT:
        raise UserError(
            f"{name} has the format {config['format']} and this program reads {FORMAT}; train it "
            "again, or use the babeldraw that made it"
        )
    return {key: value for key, value in config.items() if key not in ("format", VOCABULARY)}


def weights_in(config: Mapping[str, Any], asked: str = "", name: str = "weights") -> str:
    """Which part of a run's state holds the weights to be used: `ema` where there is one.

    Args:
      config: of the run, as config.json holds it.
      asked: `ema` or `params`; empty: what the run has.
      name: how the user calls this, for messages.

    Raises:
      UserError: neither, or an average of a run that keeps none.
    """
    averaged = config["train"].get("ema") is not None
    if asked not in ("", "ema", "params"):
        raise UserError(f"{name} is {asked!r}; ema or params is needed")
    if asked == "ema" and not averaged:
        raise UserError(
            f"{name} is 'ema' and the run keeps no average of its weights (config.train.ema); take "
            "params"
        )
    return asked or ("ema" if averaged else "params")


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    path = epath.Path(path)
    partial = path.parent / f".{path.name}.partial"
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
