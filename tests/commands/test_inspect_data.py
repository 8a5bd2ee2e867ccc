"""The page of a config's data: pictures, captions, counts, token lengths."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(30):
        cells = np.random.default_rng(index).integers(0, 256, (9, 8, 3), np.uint8)
        Image.fromarray(cells).save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(f"a picture <{'very ' * index}> colourful")
    (folder / "07.png").write_bytes(b"junk")
    return folder


def test_the_page_shows_what_enters_the_model(cli, pictures, tmp_path):
    page = tmp_path / "made" / "data.html"
    status, _, told = cli(
        "inspect",
        f"--config={CONFIGS}/folder/text_to_image.py:runlocal",
        "--config.data.source=folder",
        f"--config.data.path={pictures}",
        "--config.data.max_bad_share=0.2",
        f"--data={page}",
    )
    assert status == 0 and str(page) in told
    text = page.read_text()
    figures = re.findall(r'base64,([^"]+)"><figcaption>([^<]*)<code>(\d+) tokens', text)
    assert len(figures) == 24
    for data, said, _ in figures:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)
        assert said.startswith("a picture &lt;")
    # Held-out pictures are not among them.
    assert re.search(r"records<td class=n>2[89]<", text)
    assert "Tokens per caption" in text and "<script" not in text


def test_tokens_hold_no_pictures(cli, tmp_path):
    status, _, told = cli(
        "inspect",
        f"--config={CONFIGS}/folder/text_to_image.py:runlocal",
        "--config.data.source=tokens",
        f"--data={tmp_path / 'x.html'}",
    )
    assert status == 2 and "no pictures to show" in told
