"""Pictures by a column `level`: groups hold their levels, whatever the step and the hosts."""

import collections

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from babeldraw.data.fields import CaptionField
from babeldraw.data.folder import FolderSource  # noqa: E402
from babeldraw.data.image import save_png  # noqa: E402
from babeldraw.data.levels import NO_LEVEL, told_levels, with_levels  # noqa: E402
from babeldraw.data.pipeline import TrainBatches, fingerprint  # noqa: E402
from babeldraw.data.records import Record  # noqa: E402
from babeldraw.errors import UserError  # noqa: E402

NAMES, COUNTS = ("8", "16", "32"), (1, 2, 1)
LEVELS = np.int32([16, 8, 32, 32, 16, 8, 16, NO_LEVEL, 16, 32, 16])


class Labelled:
    """Records whose label is their number."""

    name = "labelled"

    def __init__(self, levels=LEVELS):
        self.levels = levels

    def __len__(self):
        return len(self.levels)

    def __getitem__(self, index):
        return Record(np.zeros((4, 4, 3), np.uint8), "", index)

    def captions(self):
        return iter(())


def labels(steps, start=0, **hosts):
    source = with_levels(Labelled(), NAMES, COUNTS)
    batches = TrainBatches(
        source, batch_size=8, image_size=(4, 4), seed=3, start_step=start, **hosts
    )
    found = [next(batches)["label"] for _ in range(steps)]
    batches.close()
    return np.stack(found)


def test_every_group_holds_its_levels_and_each_picture_of_a_level_comes_in_turn():
    found = labels(12)
    in_order = np.where(LEVELS == NO_LEVEL, 8, LEVELS)[found.reshape(-1, 4)]
    np.testing.assert_array_equal(in_order, np.tile([8, 16, 16, 32], (24, 1)))
    # Of 24 pictures of the first level, which three records have, each comes eight times.
    of_level = collections.Counter(found.reshape(-1, 4)[:, 0].tolist())
    assert of_level == {1: 8, 5: 8, 7: 8}
    # And before the others do none comes twice.
    assert sorted(found.reshape(-1, 4)[:3, 0]) == [1, 5, 7]


def test_the_order_is_a_function_of_seed_and_step_on_any_number_of_hosts():
    whole = labels(4)
    np.testing.assert_array_equal(labels(2, start=2), whole[2:])
    halves = [labels(4, process_index=i, process_count=2) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)


def test_other_levels_are_other_data():
    source = with_levels(Labelled(), NAMES, COUNTS)
    other = with_levels(Labelled(LEVELS[::-1].copy()), NAMES, COUNTS)
    assert len({fingerprint(one) for one in (Labelled(), source, other)}) == 3
    without = Labelled(None)
    assert with_levels(without, NAMES, COUNTS) is without


def test_batches_tell_each_picture_s_level_in_the_data_s_own_order():
    source = told_levels(Labelled(), NAMES)
    settings = {"batch_size": 8, "image_size": (4, 4), "seed": 3}
    batches, plain = TrainBatches(source, **settings), TrainBatches(Labelled(), **settings)
    for _ in range(3):
        told, without = next(batches), next(plain)
        np.testing.assert_array_equal(told["level"], LEVELS[told["label"]])
        assert told["level"].dtype == np.int32
        np.testing.assert_array_equal(told["label"], without["label"])
        assert "level" not in without
    batches.close(), plain.close()
    other = told_levels(Labelled(LEVELS[::-1].copy()), NAMES)
    assert len({fingerprint(one) for one in (Labelled(), source, other)}) == 3
    for levels, message in ([8, 64, 16], "is 64 in record 1"), (None, "labelled has no column lev"):
        with pytest.raises(UserError, match=message):
            told_levels(Labelled(levels if levels is None else np.int32(levels)), NAMES)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([8, 64, 16], "level of labelled is 64 in record 1 and the tokenizer has .* 8, 16, 32;"),
        ([8, 16, 16], "labelled has 1 of level 8, 2 of level 16, 0 of level 32 by its column"),
    ],
)
def test_a_level_that_is_not_there_is_told(levels, message):
    with pytest.raises(UserError, match=message):
        with_levels(Labelled(np.int32(levels)), NAMES, COUNTS)


def test_a_mixture_is_refused():
    source = Labelled()
    source.pattern = None
    with pytest.raises(UserError, match="a mixture has an order of its own"):
        with_levels(source, NAMES, COUNTS)


def test_a_folder_s_list_has_the_column(tmp_path):
    for name in "abc":
        save_png(tmp_path / f"{name}.png", np.zeros((4, 4, 3), np.uint8))
    rows = ["file,caption,level", "a.png,one,16", "b.png,two,8", "c.png,three,"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    assert FolderSource(tmp_path, "all").levels.tolist() == [16, 8, NO_LEVEL]
    (tmp_path / "list.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    assert FolderSource(tmp_path, "all").levels is None


def test_a_list_may_say_the_level_alone_where_captions_are_of_several_kinds(tmp_path):
    for name in "ab":
        save_png(tmp_path / f"{name}.png", np.zeros((4, 4, 3), np.uint8))
    rows = ["file,short,long", "a.png,one,one thing", "b.png,two,two things"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    rows = ['{"file": "a.png", "caption": "one", "level": "16"}', '{"file": "b.png", "level": 8}']
    (tmp_path / "complexity.jsonl").write_text("\n".join(rows))
    fields = (CaptionField("short"), CaptionField("long"))
    source = FolderSource(tmp_path, "all", fields=fields)
    assert source.levels.tolist() == [16, 8]
    assert [*source.captions()] == ["one\none thing", "two\ntwo things"]
