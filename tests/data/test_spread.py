"""First records that lie evenly over all: of a folder each class, of a mixture each part."""

import collections

import numpy as np
import pytest

from babeldraw.data.folder import FolderSource
from babeldraw.data.image import save_png
from babeldraw.data.mixture import MixtureSource
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.records import NO_LEVEL, NO_PICTURE, BadRecord, Record, classes_of
from babeldraw.data.spread import Spread, even_order


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_any_first_places_are_even_over_all(count):
    order = even_order(count)
    assert sorted(order) == [*range(count)]
    for first in range(1, count + 1):
        ends = np.sort(np.r_[-1, order[:first], count])
        # Halving leaves whole steps beside half ones, and places are whole numbers.
        assert np.diff(ends).max() <= 2 * count / first + 1


@pytest.fixture
def folder(tmp_path):
    for name in ("ant", "bee", "cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            save_png(tmp_path / name / f"{number}.png", np.full((4, 4, 3), number, np.uint8))
            (tmp_path / name / f"{number}.txt").write_text(f"{name} {number}")
    return tmp_path


def test_the_first_pictures_of_a_folder_are_of_all_its_classes(folder):
    plain = FolderSource(folder, "all")
    source = Spread(plain)
    assert classes_of(source) == classes_of(plain) and source.name != plain.name
    (batch,) = eval_batches(source, batch_size=8, image_size=(4, 4), num_examples=8)
    assert collections.Counter(batch["label"].tolist()) == dict.fromkeys(range(4), 2)
    captions = [*source.captions()]
    assert captions[:8] == batch["caption"] and sorted(captions) == sorted(plain.captions())
    (first,) = eval_batches(plain, batch_size=8, image_size=(4, 4), num_examples=8)
    assert set(first["label"].tolist()) == {0}


def test_the_first_of_a_mixture_are_of_all_its_parts_and_what_is_bad_is_left_out():
    class Part:
        def __init__(self, name, levels=None):
            self.name, self.levels = name, levels

        def __len__(self):
            return 16

        def __getitem__(self, index):
            if index == 8:
                raise BadRecord(self.name, "is bad")
            return Record(NO_PICTURE, f"{self.name} {index}")

    source = Spread(MixtureSource([Part("a", np.arange(16)), Part("b")], [1, 1]))
    said = [*source.captions()]
    assert len(said) == 30 and {caption[0] for caption in said[:3]} == {"a", "b"}
    told = [int(caption.split()[1]) for caption in said if caption[0] == "a"]
    assert [level for level in source.levels if level not in (8, NO_LEVEL)] == told
