"""Pages share one head, escape what they are given, and their templates are installed."""

import base64
import fnmatch
import io
import re
import tomllib
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from babeldraw import pages

ROOT = Path(__file__).parents[1]
FOLDER = Path(pages.__file__).parent
TEMPLATES = sorted(FOLDER.glob("*.html"))
HOSTILE = """<script>alert('1')</script> & "\ud800" {{ 7 * 7 }}"""
ESCAPED = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &#34;\ud800&#34; {{ 7 * 7 }}"
DATA = {"facts": {"records": "3"}, "prepared": {}, "lengths": {}, "pictures": []}


def test_what_a_page_is_given_is_escaped():
    page = pages.render("data.html", name=HOSTILE, **DATA)
    assert f"<h1>{ESCAPED}</h1>" in page and "<script" not in page


def test_a_missing_value_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="name"):
        pages.render("data.html", **DATA)


def test_a_picture_lies_inside_the_page():
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    picture = {"address": pages.png(image), "tokens": None, "label": "label 4"}
    page = pages.render("data.html", name="x", **DATA | {"pictures": [picture]})
    found = re.search(r'<img src="data:image/png;base64,([^"]+)"><figcaption>label 4<', page)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_page_stands_on_the_base(path):
    text = path.read_text()
    if path.name == "base.html":
        assert "default-src 'none'" in text
    else:
        assert text.startswith('{% extends "base.html" %}')
        assert not re.search(r"<(head|meta|style|body)\b", text)
    assert "<script" not in text


def test_only_charts_are_not_escaped():
    text = "".join(path.read_text() for path in TEMPLATES)
    assert re.findall(r"([\w.]+)\W*\| *safe\b", text) == ["chart.svg"]
    assert "autoescape" not in text


def test_templates_are_installed_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for path in FOLDER.iterdir():
        if path.is_file() and path.suffix != ".py":
            patterns = settings["package-data"]["babeldraw.pages"]
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path
