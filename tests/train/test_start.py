"""Going on in a run folder that is older than some field of the data section."""

import pytest

from babeldraw.config import to_dict
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse
from babeldraw.train.start import check_resume


def folder_of(tmp_path, experiment, without=()):
    folder = RunFolder.of(str(tmp_path / "run"))
    config = to_dict(experiment)
    for name in without:
        del config["data"][name]
    folder.path.mkdir()
    folder.write_config(config)
    return folder


def test_a_field_younger_than_the_folder_has_its_default_there(tmp_path, runlocal):
    experiment = parse(runlocal("demo/tokenizer.py"))
    folder = folder_of(tmp_path, experiment, without=["crop", "mixture"])
    check_resume(folder, experiment)


def test_another_crop_is_refused(tmp_path, runlocal):
    config = runlocal("demo/tokenizer.py")
    folder = folder_of(tmp_path, parse(config), without=["crop", "mixture"])
    config.data.crop = "dalle_tokenizer"
    with pytest.raises(UserError, match="config.data.crop = 'random' and now it is 'dalle_token"):
        check_resume(folder, parse(config))
