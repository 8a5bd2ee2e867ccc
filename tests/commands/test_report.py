"""The page says what the folder holds, inside one file, and copes with any part missing."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from babeldraw.commands.report import write_report
from babeldraw.data import shapes
from babeldraw.data.image import decode, save_png, to_grid
from babeldraw.data.shapes import Object, Scene
from babeldraw.errors import UserError

SIZE = 32
VOID = {"meta", "img", "br"}
HOSTILE = 'a "<script>alert(1)</script>" & {exact_seen} \ud800'
SHARES = ("number", "colour", "shape", "size", "relation", "background", "exact", "crisp")
NOTES = {
    "figures": "There are no figures yet.",
    "Pictures": "No pictures have been drawn for prompts yet.",
    "Scores": "No prompts have been scored yet.",
    "Reconstructions": "The tokenizer has not been evaluated yet.",
    "Training": "No steps have been recorded yet.",
    "Configs": "No run has been started yet.",
}


class Page(HTMLParser):
    """What a reader sees: `text`, `images` as (alt, array), `links`, `tags`; all tags balanced."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.tags, self.links, self.images, self.words, self._open = [], [], [], [], []
        self.feed(self.source)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("src", "href", "xlink:href") if name in attrs]
        if tag == "img":
            data = attrs["src"].removeprefix("data:image/png;base64,")
            self.images.append((attrs["alt"], decode(base64.b64decode(data))))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)


def examples(count, split="test"):
    pairs = [shapes.example(index, split, SIZE, seed=3) for index in range(count)]
    return np.stack([image for image, _ in pairs]), [caption for _, caption in pairs]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_samples(folder, prompts, images):
    lines = []
    for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        save_png(folder / "samples" / f"{index}.png", image)
        lines.append({"prompt": prompt, "file": f"{index}.png", "seed": index})
    write_lines(folder / "samples" / "manifest.jsonl", lines)


def prompt_figures(shift=0.0):
    figures = {f"{name}_seen": 0.9 - shift - row / 100 for row, name in enumerate(SHARES)}
    figures |= {f"{name}_unseen": 0.5 - shift - row / 100 for row, name in enumerate(SHARES)}
    figures |= {"exact_seen_without_guidance": 0.33, "exact_unseen_without_guidance": 0.22}
    return figures | {"guidance": 1.5}


@pytest.fixture(scope="module")
def whole_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    images, _ = examples(8)
    grid = to_grid(np.concatenate([images[:4], 255 - images[:4], images[4:], 255 - images[4:]]), 4)
    save_png(folder / "tokenizer/samples/reconstruction_reconstructions_0000020.png", grid)
    save_png(folder / "tokenizer/samples/reconstruction_reconstructions_0000010.png", 0 * grid)
    configs = {
        "tokenizer": {"objective": HOSTILE, "tokenizer": {"image_size": [SIZE, SIZE]}},
        "text_to_image": {"evaluators": {"prompts": {"num_prompts": 400}}},
    }
    for name, config in configs.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    steps = [{"step": s, "seconds": 6.0 * s} for s in (10, 20)]
    write_lines(
        folder / "tokenizer/metrics/metrics.jsonl",
        [s | {"train/loss": 1 / s["step"], "train/psnr_db": float(s["step"])} for s in steps]
        + [
            s | {"reconstruction/psnr_db": 11.5, "reconstruction/codebook_usage": 0.5}
            for s in steps
        ],
    )
    prompts = {f"prompts/{name}": value for name, value in prompt_figures(shift=0.1).items()}
    write_lines(
        folder / "text_to_image/metrics/metrics.jsonl",
        [s | {"train/loss": 2.0} for s in steps]
        + [s | {"validation/loss": 2.1} | prompts for s in steps],
    )
    write_samples(folder, *examples(6)[::-1])
    save_png(folder / "samples.png", to_grid(examples(6)[0], 3))
    summary = {
        "tokenizer": {"psnr_db": 27.34, "codebook_usage": 0.812, "crisp": 0.72},
        "prompts": prompt_figures(),
        "seconds": {"total": 1230, "tokenizer": 396.0, "text_to_image": 798.0},
    }
    (folder / "report.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def demo(whole_demo, tmp_path):
    return shutil.copytree(whole_demo, tmp_path / "demo")


def page_of(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path)


def rows_of(page):
    """The table's rows: label to the two shares in percent."""
    found = re.findall(r'<th scope="row">(.*?)<small>.*?</th><td>(\d+)%.*?<td>(\d+)%', page.source)
    return [(label, int(seen), int(unseen)) for label, seen, unseen in found]


def notes_of(page):
    return {part for part, note in NOTES.items() if note in page.text}


# ------------------------------------------------------------------ a whole demo


def test_headline_holds_the_figures_of_the_summary(demo):
    page = page_of(demo)
    tiles = re.findall(r"<dl><dt>(.*?)</dt><dd>(.*?)</dd><dd>(.*?)</dd></dl>", page.source)
    assert [(label, value) for label, value, _ in tiles] == [
        ("reconstruction", "27.3 dB"),
        ("codebook in use", "81%"),
        ("exact, seen pairs", "84%"),
        ("exact, held-out pairs", "44%"),
        ("crisp, seen pairs", "83%"),
        ("minutes", "20.5"),
    ]
    notes = [note for *_, note in tiles[2:]]
    assert notes[:2] == ["33% without guidance", "22% without guidance"]
    assert notes[2:] == ["72% of reconstructions", "tokenizer 6.6, generator 13.3"]
    assert notes_of(page) == set()


def test_table_has_each_attribute_of_both_kinds(demo):
    page = page_of(demo)
    expected = [(name, 90 - row, 50 - row) for row, name in enumerate(SHARES)]
    assert rows_of(page) == [*expected, ("exact", 33, 22)]
    # The standard error of a share of one half over 400 prompts: sqrt(0.25 / 400).
    assert "400 prompts of each kind leave a share uncertain by up to 2.5 points" in page.text
    assert "Guidance is 1.5." in page.text


def test_pictures_stand_beside_their_prompts_unchanged(demo):
    shown = page_of(demo).images[:6]
    images, captions = examples(6)
    assert [alt for alt, _ in shown] == captions
    np.testing.assert_array_equal(np.stack([image for _, image in shown]), images)


def test_reconstructions_stand_beside_their_originals(demo):
    pairs = page_of(demo).images[6:]
    assert [alt for alt, _ in pairs] == ["original", "reconstruction"] * 8
    originals, _ = examples(8)
    np.testing.assert_array_equal([image for _, image in pairs[::2]], originals)
    np.testing.assert_array_equal([image for _, image in pairs[1::2]], 255 - originals)


def test_page_needs_nothing_from_outside(demo):
    page = page_of(demo)
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)", page.source)


def test_all_text_is_escaped(demo):
    write_samples(demo, [HOSTILE], examples(1)[0])
    page = page_of(demo)
    assert "script" not in page.tags
    seen = HOSTILE.replace("\ud800", "?")
    assert page.images[0][0] == seen
    assert seen in page.text
    assert json.dumps(HOSTILE, ensure_ascii=False).replace("\ud800", "?") in page.text


def test_same_folder_gives_the_same_page(demo):
    assert page_of(demo).source == page_of(demo).source


# ------------------------------------------------------------------ verdicts


def test_each_card_says_what_is_wrong(demo):
    asked = Scene((Object("large", "red", "circle"),), None, "white")
    held_out = Scene((Object("large", "green", "cross"),), None, "white")
    drawn = Scene((Object("large", "red", "square"),), None, "black")
    images = [shapes.render(s, SIZE, np.random.default_rng(0)) for s in (asked, held_out, drawn)]
    prompts = [asked.caption(), held_out.caption(), asked.caption(), "a cat"]
    write_samples(demo, prompts, [*images, images[0]])
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page_of(demo).source)[:4]
    verdicts = [
        "<small><b>✓ as asked</b></small>",
        "<small><b>✓ as asked</b> · held-out pair</small>",
        "<small>✗ shape, background</small>",
        "",
    ]
    assert captions == [f"{p}{v}" for p, v in zip(prompts, verdicts, strict=True)]


def test_a_picture_that_cannot_be_judged_is_shown(demo):
    write_samples(demo, [examples(1)[1][0]], [np.zeros((8, 24, 3), np.uint8)])
    page = page_of(demo)
    assert page.images[0][1].shape == (8, 24, 3)
    assert "✗" not in page.text and "✓" not in page.text


# ------------------------------------------------------------------ curves


def points_of(page, title):
    """The corners of a chart's curves: [(x, y)] in SVG units, one list for each curve."""
    chart = page.source.partition(f"<figcaption>{title}")[2].partition("</svg>")[0]
    curves = re.findall(r'<path d="([ML\d. \n-]+)" clip-path=[^>]*var\(--(?:first|second)\)', chart)
    corners = [re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", curve) for curve in curves]
    return [np.array(corner, float) for corner in corners]


def test_a_curve_is_to_scale(demo):
    steps = np.array([0, 10, 30, 70, 100])
    loss = np.array([8.0, 4.0, 1.0, 2.0, 0.5])
    lines = [
        {"step": int(s), "seconds": 1.0, "train/loss": y, "train/psnr_db": y}
        for s, y in zip(steps, loss, strict=True)
    ]
    write_lines(demo / "tokenizer/metrics/metrics.jsonl", lines)
    page = page_of(demo)
    for title, height in (("Tokenizer: loss", np.log(loss)), ("Tokenizer: PSNR in dB", loss)):
        (corners,) = points_of(page, title)
        assert np.corrcoef(corners[:, 0], steps)[0, 1] > 1 - 1e-9
        # SVG's y runs down.
        assert np.corrcoef(corners[:, 1], height)[0, 1] < -1 + 1e-9


def test_charts_have_curves_and_their_last_values(demo):
    page = page_of(demo)
    titles = {
        "Tokenizer: loss": ["training 0.05"],
        "Tokenizer: PSNR in dB": ["training 20", "held-out 11.5"],
        "Generator: loss in nats per token": ["training 2", "held-out 2.1"],
        "Generator: % of prompts exact": ["seen pairs 74", "held-out pairs 34"],
    }
    for title, labels in titles.items():
        legend = "".join(f"<small>{label}</small>" for label in labels)
        assert f"<figcaption>{title}{legend}</figcaption>" in page.source
        assert len(points_of(page, title)) == len(labels)
    assert "minutes of its training" in page.text


# ------------------------------------------------------------------ parts of a demo


@pytest.mark.parametrize(
    ("gone", "noted"),
    [
        (["samples", "samples.png"], {"Pictures"}),
        (["tokenizer/samples"], {"Reconstructions"}),
        (["tokenizer/config.json"], {"Reconstructions"}),
        (["report.json"], set()),
        (["report.json", "text_to_image/metrics"], {"Scores"}),
        (["tokenizer/metrics", "text_to_image/metrics"], {"Training"}),
        (["text_to_image", "samples", "samples.png"], {"Pictures"}),
        (["text_to_image", "samples", "samples.png", "report.json"], {"Pictures", "Scores"}),
        (["tokenizer"], {"Reconstructions"}),
        (["tokenizer", "text_to_image"], {"Reconstructions", "Training", "Configs"}),
    ],
)
def test_a_missing_part_leaves_a_note_and_the_rest(demo, gone, noted):
    for name in gone:
        path = demo / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert notes_of(page_of(demo)) == noted


def test_an_empty_folder_gives_notes_alone(tmp_path):
    page = page_of(tmp_path)
    assert notes_of(page) == set(NOTES)
    assert page.images == []


def test_without_a_summary_the_runs_speak(demo):
    (demo / "report.json").unlink()
    page = page_of(demo)
    # Two runs of 120 seconds.
    for value in ("11.5 dB", "50%", "74%", "34%", "4.0"):
        assert f"<dd>{value}</dd>" in page.source
    assert rows_of(page)[0] == ("number", 80, 40)


def test_without_guidance_there_is_nothing_to_compare(demo):
    figures = {k: v for k, v in prompt_figures().items() if "guidance" not in k}
    (demo / "report.json").write_text(json.dumps({"prompts": figures}))
    (demo / "text_to_image/metrics/metrics.jsonl").unlink()
    page = page_of(demo)
    assert "uidance" not in page.text
    assert len(rows_of(page)) == len(SHARES)


def test_the_grid_stands_in_for_samples(demo):
    shutil.rmtree(demo / "samples")
    alt, image = page_of(demo).images[0]
    assert alt == "drawn pictures"
    np.testing.assert_array_equal(image, to_grid(examples(6)[0], 3))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"prompts": 3, "tokenizer": {"psnr_db": NaN}}'])
def test_broken_files_are_missing_files(demo, text):
    for name in ("report.json", "tokenizer/config.json", "text_to_image/config.json"):
        (demo / name).write_text(text)
    page = page_of(demo)
    assert "11.5 dB" in page.text and "nan" not in page.text


def test_broken_samples_are_left_out(demo):
    save_png(demo / "secret.png", examples(1)[0][0])
    (demo / "samples" / "cut.png").write_bytes((demo / "samples" / "0.png").read_bytes()[:60])
    (demo / "samples" / "manifest.jsonl").write_bytes(
        b'{"prompt": "far", "file": "../secret.png"}\n{"prompt": "cut", "file": "cut.png"}\n'
        b'\xff\n7\n{"file": "1.png"}\n{"prompt": "none", "file": null}\n'
        b'{"prompt": "good", "file": "2.png"}\n{"prompt": "ha'
    )
    assert [alt for alt, _ in page_of(demo).images if "original" not in alt][0] == "good"
    assert [alt for alt, _ in page_of(demo).images[1:3]] == ["original", "reconstruction"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="demo folder .*/nowhere does not exist"):
        write_report(tmp_path / "nowhere")
