"""Pictures by a column `level`: groups hold their levels, whatever the step and the hosts."""

import collections
import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")

from babeldraw.data.complexity import LIST
from babeldraw.data.fields import CaptionField
from babeldraw.data.folder import FolderSource  # noqa: E402
from babeldraw.data.image import save_png  # noqa: E402
from babeldraw.data.levels import NO_LEVEL, told_levels, with_levels  # noqa: E402
from babeldraw.data.mixture import MixtureSource  # noqa: E402
from babeldraw.data.pipeline import TrainBatches, fingerprint  # noqa: E402
from babeldraw.data.records import NO_PICTURE, Record  # noqa: E402
from babeldraw.errors import UserError  # noqa: E402

NAMES, COUNTS = ("8", "16", "32"), (1, 2, 1)
LEVELS = np.int32([16, 8, 32, 32, 16, 8, 16, NO_LEVEL, 16, 32, 16])


class Labelled:
    """Records whose label is their number."""

    name = "labelled"

    def __init__(self, levels=LEVELS):
        self.levels, self._count = levels, len(LEVELS if levels is None else levels)

    def __len__(self):
        return self._count

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
    for levels, message in (
        ([8, 64, 16], "is 64 in record 1"),
        (
            [8, 16],
            "1 of level 8, 1 of level 16, 0 of level 32 by its column level, and every level",
        ),
        (None, "labelled has no column lev"),
    ):
        with pytest.raises(UserError, match=message):
            told_levels(Labelled(levels if levels is None else np.int32(levels)), NAMES)


class Jpegs(Labelled):
    """The same as JPEG files, of which a host reads several at a time."""

    gives_jpeg = True
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "jpeg")

    def jpeg(self, index):
        return Record(NO_PICTURE, "", index, jpeg=self.file.getvalue())


@pytest.mark.parametrize("arranged", [told_levels, with_levels])
def test_jpeg_files_have_their_levels_too(arranged):
    more = (NAMES,) if arranged is told_levels else (NAMES, COUNTS)
    batches = TrainBatches(arranged(Jpegs(), *more), batch_size=8, image_size=(4, 4), seed=3)
    labels = [next(batches) for _ in range(2)]
    batches.close()
    for batch in labels:
        if arranged is told_levels:
            np.testing.assert_array_equal(batch["level"], LEVELS[batch["label"]])
        else:
            level = np.where(LEVELS == NO_LEVEL, 8, LEVELS)[batch["label"]]
            np.testing.assert_array_equal(level, [8, 16, 16, 32] * 2)


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


def test_a_mixture_has_its_parts_levels_and_no_order_by_them():
    without = Labelled([0] * 3)
    without.levels = None
    mixture = MixtureSource([Labelled(), without], [2, 1])
    with pytest.raises(UserError, match="a mixture has an order of its own"):
        with_levels(mixture, NAMES, COUNTS)
    told = told_levels(mixture, NAMES)
    assert [told[i].level for i in range(len(told))] == [*LEVELS, *[NO_LEVEL] * 3]
    assert MixtureSource([without, without], [1, 1]).levels is None


def test_a_folder_s_list_has_the_column(tmp_path):
    for name in "abc":
        save_png(tmp_path / f"{name}.png", np.zeros((4, 4, 3), np.uint8))
    rows = ["file,caption,level", "a.png,one,16", "b.png,two,8", "c.png,three,"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    assert FolderSource(tmp_path, "all").levels.tolist() == [16, 8, NO_LEVEL]
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("16", "3000000000"))
    assert FolderSource(tmp_path, "all").levels.tolist() == [NO_LEVEL, 8, NO_LEVEL]
    (tmp_path / "list.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    assert FolderSource(tmp_path, "all").levels is None


def test_what_score_writes_leaves_captions_and_identity_and_is_the_level_that_counts(tmp_path):
    for name in "ab":
        save_png(tmp_path / f"{name}.png", np.zeros((4, 4, 3), np.uint8))
    captions = {"a": "A cat.\n\nIt sits.\nA cat.", "b": " two "}
    rows = [
        {"file": f"{name}.png", "caption": caption, "level": 8}
        for name, caption in captions.items()
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = FolderSource(tmp_path, "all")
    (tmp_path / LIST).write_text("\n".join(json.dumps(row | {"level": "32"}) for row in rows))
    after = FolderSource(tmp_path, "all")
    assert after.name == before.name and [*after.captions()] == [*before.captions()]
    assert before.levels.tolist() == [8, 8] and after.levels.tolist() == [32, 32]
    # Captions that are mended later count, and not what they were when `score` copied them.
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "caption": "A dog."}')
    mended = FolderSource(tmp_path, "all")
    assert [*mended.captions()] == ["A dog.", *[*before.captions()][1:]]
    assert mended.levels.tolist() == [32, 32]


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
