"""The table of several runs: figures, what they cost, pictures of the same conditions."""

import copy
import json

import numpy as np
import pytest

from babeldraw.commands.evaluate import parsed_fields
from babeldraw.commands.evaluate_table import Judged, differences, strips, table_rows, write_table
from babeldraw.errors import UserError
from babeldraw.evaluation.intervals import Figure, Interval
from babeldraw.evaluation.protocol import figures_json
from babeldraw.train.evaluation import Evaluated

SIDE = 4


def record(figures, **more):
    return {
        "evaluator": "reconstruction",
        "figures": figures_json(figures),
        "protocol": {"pictures": {"n": 1000, "resize": {"filter": "bilinear"}}},
        "step": 2800,
        "weights": "ema",
        "parameters": 1118416,
        "training": {"seconds": 300.0, "pictures_per_second": 160.7, "peak_gib": None},
        "pictures_per_second": 12.5,
        "machine": {"peak_bytes": 3 * 2**30, "peak_is_bound": False},
        **more,
    }


def grid(shade):
    """Originals over reconstructions."""
    rows = np.full((2 * SIDE, 2 * SIDE, 3), 200, np.uint8)
    rows[SIDE:] = shade
    return rows


def judged(name, shade, figures, **more):
    pictures = {"reconstructions": grid(shade)}
    found = Evaluated(figures, pictures, record(figures, **more))
    return Judged(name, SIDE, {"reconstruction": found})


FIRST = judged("a", 10, {"psnr_db": Figure(27.341, Interval(27.1, 27.62, 1000), 1000), "l1": 0.5})
SECOND = judged(
    "runs/b|<b>",
    20,
    {"psnr_db": float("inf")},
    pictures_per_second=None,
    machine={"peak_bytes": 3 * 2**30, "peak_is_bound": True},
)


def test_a_row_holds_a_figure_of_every_run():
    rows = dict(table_rows([FIRST, SECOND]))
    assert rows["reconstruction/psnr_db"] == ["27.34 [27.1, 27.62]", "–"]
    assert rows["reconstruction/l1"] == ["0.5", "–"]
    assert rows["minutes of training"] == ["5", "5"] and rows["weights"] == ["ema", "ema"]
    assert rows["parameters"] == ["1,118,416"] * 2
    assert rows["pictures per second, drawing"] == ["12.5", "–"]
    assert rows["peak GiB, training"] == ["–", "–"]
    # What the first has taken cannot be told from what the second did.
    assert rows["peak GiB, evaluation"] == ["3", "at most 3"]


def test_what_was_not_measured_alike_is_told():
    assert [*differences([FIRST, SECOND])] == []
    other = copy.deepcopy(SECOND)
    other.found["reconstruction"].record["protocol"]["pictures"]["n"] = 500
    (line,) = differences([FIRST, other])
    assert "reconstruction.pictures.n is 1000 of a and 500 of runs/b" in line


def test_the_same_pictures_stand_in_rows():
    ((title, rows),) = strips([FIRST, SECOND])
    assert [name for name, _ in rows] == ["original", "a", "runs/b|<b>"]
    assert [int(picture.mean()) for _, picture in rows] == [200, 10, 20]
    assert all(picture.shape == (SIDE, 2 * SIDE, 3) for _, picture in rows)
    words = {"first": ["a red ring", "a blue square"]}
    drawn = Evaluated({}, {"grid": grid(30)}, record({}, protocol={"conditions": words}))
    ((title, rows),) = strips([Judged("c", SIDE, {"samples": drawn})])
    assert title == "samples: a red ring, a blue square" and len(rows) == 1


def test_a_table_and_a_page_are_written(tmp_path):
    write_table(tmp_path, [FIRST, SECOND])
    text, page = (tmp_path / "table.md").read_text(), (tmp_path / "index.html").read_text()
    lines = text.splitlines()
    assert lines[0] == "|  | a | runs/b\\|<b> |" and lines[1] == "| --- | ---: | ---: |"
    assert "| reconstruction/psnr_db | 27.34 [27.1, 27.62] | – |" in lines
    assert "runs/b|&lt;b&gt;" in page and page.count("data:image/png;base64") == 3
    found = json.loads((tmp_path / "figures.json").read_text())["a"][0]["figures"]["psnr_db"]
    assert found == {"value": 27.341, "n": 1000, "interval": [27.1, 27.62], "resamples": 1000}


def test_fields_are_parsed_or_named():
    words = ["rfd.batch_size=32", "rfd.file=a.safetensors", "samples.sampling.guidance=2.5"]
    assert parsed_fields(words) == {
        "rfd": {"batch_size": 32, "file": "a.safetensors"},
        "samples": {"sampling": {"guidance": 2.5}},
    }
    for word in ("rfd", "rfd=3", "rfd.=3", ".x=3"):
        with pytest.raises(UserError, match=f"--set={word} is not EVALUATOR.FIELD=VALUE"):
            parsed_fields([word])
