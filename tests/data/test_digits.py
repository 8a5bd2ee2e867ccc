"""The digits inside scikit-learn: all there, each in one split, enlarged with a border."""

import numpy as np
import pytest

from babeldraw.data.config import DataConfig
from babeldraw.data.records import classes_of
from babeldraw.data.sources import open_source
from babeldraw.errors import UserError

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def digits(split):
    return open_source(DataConfig(source="digits"), split, 32, 0)


def test_each_digit_is_in_one_split():
    sizes = {split: len(digits(split)) for split in ("train", "test", "all")}
    assert sizes == {"train": 1437, "test": 360, "all": 1797}
    labels = sklearn_datasets.load_digits().target
    assert [digits("test")[i].label for i in range(360)] == [*labels[::5]]
    assert [digits("train")[i].label for i in range(8)] == [*labels[1:5], *labels[6:10]]


def test_a_digit_is_enlarged_with_its_class_and_a_border():
    record, original = digits("all")[3], sklearn_datasets.load_digits().images[3]
    assert record.image.shape == (80, 80, 3) and record.image.dtype == np.uint8
    assert (record.label, record.caption) == (3, "three")
    # The middle of an enlarged pixel is near its shade; the frame is black.
    middle = record.image[12:72:8, 12:72:8, 0].astype(float)
    assert np.abs(middle - original * 255 / 16).mean() < 12
    assert record.image[:4].max() == 0 and record.image[:, -4:].max() == 0


def test_classes_and_captions_are_names():
    source = digits("test")
    names = classes_of(source)
    assert (names[0], names[9], len(names)) == ("zero", "nine", 10)
    assert [*source.captions()][:3] == [names[source[i].label] for i in range(3)]


def test_another_split_is_refused():
    with pytest.raises(UserError, match="data.split='val' is not of digits; use train, test, all"):
        digits("val")
