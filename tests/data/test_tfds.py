"""TFDS: its own mocks, and a small dataset prepared as array_record files, some of it damaged."""

import io

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from babeldraw.data.records import BadRecord  # noqa: E402
from babeldraw.data.tfds import TfdsSource, _texts  # noqa: E402
from babeldraw.errors import UserError  # noqa: E402

SIZE = 6


class BabeldrawWalls(tfds.core.GeneratorBasedBuilder):
    """Grey pictures with two captions and a label; 3 is torn, 4 has no caption."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        captions = tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64})
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": captions,
            "label": tfds.features.ClassLabel(num_classes=SIZE),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(SIZE):
            data = io.BytesIO()
            Image.fromarray(np.full((3, 2 + index, 3), index, np.uint8)).save(data, "PNG")
            data = data.getvalue()[:40] if index == 3 else data.getvalue()
            texts = [] if index == 4 else [f"mur n° {index}", "another"]
            yield (
                index,
                {
                    "id": f"id{index}",
                    "image": data,
                    "captions": [{"text": text, "id": 0} for text in texts],
                    "label": index,
                },
            )


def prepare(folder, **options):
    tfds.disable_progress_bar()
    BabeldrawWalls(data_dir=folder, **options).download_and_prepare()
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("walls"), file_format="array_record")


def test_records_hold_picture_captions_and_label(data_dir):
    source = TfdsSource("babeldraw_walls", "train", data_dir)
    assert len(source) == SIZE
    seen, torn = {}, 0
    for index in range(SIZE):
        try:
            seen[source[index].label] = source[index]
        except BadRecord as error:
            assert error.where == f"{source.name}[{index}]"
            torn += 1
    assert torn == 1 and sorted(seen) == [0, 1, 2, 4, 5]
    for label, record in seen.items():
        np.testing.assert_array_equal(record.image, np.full((3, 2 + label, 3), label, np.uint8))
        assert record.caption == ("" if label == 4 else f"mur n° {label}\nanother")


def test_a_label_that_is_no_class_is_a_bad_record(data_dir):
    source = TfdsSource("babeldraw_walls", "train", data_dir)
    source.classes = source.classes[:5]
    told = []
    for index in range(SIZE):
        try:
            source.encoded(index)
        except BadRecord as error:
            told.append(error.reason)
    assert told == ["its label is 5 and the data name 5 classes"]


def test_captions_need_no_picture(data_dir):
    source = TfdsSource("babeldraw_walls", "train", data_dir)
    expected = sorted(["", *(f"mur n° {i}\nanother" for i in (0, 1, 2, 3, 5))])
    assert sorted(source.captions()) == expected


def test_slices_of_a_split(data_dir):
    whole = TfdsSource("babeldraw_walls", "train", data_dir)
    parts = [TfdsSource("babeldraw_walls", f"train[{s}]", data_dir) for s in (":50%", "50%:")]
    assert [*parts[0].captions(), *parts[1].captions()] == list(whole.captions())
    assert parts[0].name != whole.name


@pytest.mark.parametrize(
    ("name", "shape"), [("cifar10", (32, 32, 3)), ("imagenet2012", (None, None, 3))]
)
def test_mocked_datasets(name, shape):
    with tfds.testing.mock_data(num_examples=3):
        source = TfdsSource(name, "train")
        assert len(source) == 3
        record = source[1]
    assert record.image.dtype == np.uint8 and record.image.shape[2] == 3
    assert shape[0] is None or record.image.shape == shape
    assert record.caption == "" and record.label >= 0
    assert list(source.captions()) == []


@pytest.mark.parametrize("name", ["celeb_a_hq", "laion400m/images"])
def test_mocked_datasets_of_pictures_alone_and_with_captions(name):
    with tfds.testing.mock_data(num_examples=3):
        source = TfdsSource(name, "train")
        record = source[1]
    assert record.image.dtype == np.uint8 and record.image.shape[2] == 3
    assert bool(record.caption) == name.startswith("laion")


def png(shade):
    data = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), shade, np.uint8)).save(data, "PNG")
    return data.getvalue()


def coco_captions(index):
    thing = {"area": 1, "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "id": 1}
    return {
        "captions": [{"id": 1, "text": f"a cat {index}"}, {"id": 2, "text": "another"}],
        "image": png(index),
        "image/filename": "x.jpg",
        "image/id": index,
        "objects": [{**thing, "is_crowd": False, "label": 3}] * 2,
    }


def ref_coco(index):
    thing = {"area": 1, "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "id": 1, "label": 2}
    says = [{"raw": f"a cat {index}", "refexp_id": 1}, {"raw": "another", "refexp_id": 2}]
    mask = np.zeros((4, 5, 3), np.uint8)
    return {
        "coco_annotations": [thing],
        "image": png(index),
        "image/id": index,
        "objects": [{**thing, "gt_box_index": 0, "mask": mask, "refexp": says}] * 2,
    }


@pytest.mark.parametrize("example", [coco_captions, ref_coco], ids=lambda f: f.__name__)
def test_the_captions_of_datasets_with_several(example, monkeypatch):
    """By their published features and TFDS's own encoder; its mocks have sequences of two lengths,
    which it refuses to encode."""
    with tfds.testing.mock_data(num_examples=3):
        features = tfds.builder(example.__name__).info.features
        records = [features.serialize_example(features.encode_example(example(i))) for i in (0, 1)]
        monkeypatch.setattr("babeldraw.data.tfds._open", lambda *args: records)
        source = TfdsSource(example.__name__, "validation")
    np.testing.assert_array_equal(source[1].image, np.full((4, 5, 3), 1, np.uint8))
    assert (source[1].caption, source[1].label) == ("a cat 1\nanother", -1)
    assert source.encoded(1) == (png(1), "a cat 1\nanother", -1)
    assert list(source.captions()) == ["a cat 0\nanother", "a cat 1\nanother"]


@pytest.mark.parametrize(
    "value",
    [
        np.array([b"a", b"b c"], object),
        ["a", "b\nc"],
        {"text": ["a", "b c", "a"]},
        [[np.array("a")], [np.array("b c"), "a"]],
    ],
)
def test_several_captions_are_a_line_each(value):
    assert _texts(value) == "a\nb c"


@pytest.mark.parametrize("value", ["a\nb", b"a\nb", np.array("a\nb"), {"text": ["a\nb"]}])
def test_one_caption_stays_as_it_is(value):
    assert _texts(value) == "a\nb"
    assert _texts({"text": []}) == "" == _texts(np.zeros(0, object))


def test_wrong_names_and_splits_are_told(data_dir):
    with pytest.raises(UserError, match=r"data\.path='no_such_thing'.*data\.data_dir"):
        TfdsSource("no_such_thing", "train", data_dir)
    with pytest.raises(UserError, match=r"data\.split='val'.*\['train'\]"):
        TfdsSource("babeldraw_walls", "val", data_dir)
    with pytest.raises(UserError, match="no image feature"):
        TfdsSource("c4", "train", data_dir)


def test_data_not_prepared_is_told_with_the_command_that_prepares_it(data_dir, tmp_path):
    command = r"tfds\.builder\('{}', data_dir='.*', file_format='array_record'\)\.download_and"
    with pytest.raises(UserError, match=command.format("cifar10")):
        TfdsSource("cifar10", "train", data_dir)
    with pytest.raises(UserError, match=command.format("babeldraw_walls")):
        TfdsSource("babeldraw_walls", "train", prepare(tmp_path))


def test_texts_are_read_where_there_are_no_pictures(data_dir):
    source = TfdsSource("babeldraw_walls", "train", data_dir, pictures=False)
    assert {source[i].caption for i in range(SIZE)} >= {"", "mur n° 3\nanother"}
    assert source[0].image.size == 0 and source.texts_alone
    with tfds.testing.mock_data(num_examples=2):
        reviews = TfdsSource("imdb_reviews", "train", pictures=False)
        assert reviews[1].caption and [*reviews.captions()][1] == reviews[1].caption
        with pytest.raises(UserError, match="'imdb_reviews' has no image feature"):
            TfdsSource("imdb_reviews", "train")
        with pytest.raises(UserError, match="'cifar10' has no text feature"):
            TfdsSource("cifar10", "train", pictures=False)
