"""Files of JSON lines: gone on with after a kill, and refused where they are of something else."""

import json

import pytest

from babeldraw.complexity.lines import Lines, read_lines
from babeldraw.errors import UserError

HEAD = {"scorer": "a", "data": "b"}


def test_what_is_kept_is_gone_on_with_also_behind_a_torn_line(tmp_path):
    file = tmp_path / "deep" / "scores.jsonl"
    Lines(file, HEAD, "--scores").add([{"record": 0, "caption": "a\nb \ud800 é"}])
    with file.open("ab") as torn:
        torn.write(b'{"record": 1, "capt')
    again = Lines(file, HEAD, "--scores")
    assert [row["record"] for row in again.rows] == [0]
    again.add([{"record": 1}, {"record": 2}])
    head, rows = read_lines(file, "--scores")
    assert head == HEAD and [row["record"] for row in rows] == [0, 1, 2]
    assert rows[0]["caption"] == "a\nb \ud800 é"
    assert [json.loads(line) for line in file.read_text().splitlines()] == [HEAD, *rows]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty"),
        (b'{"scorer": "a", "da', "is empty"),
        (b"\xff\n", "line 1 is no JSON object"),
        (b"[" * 100_000 + b"\n", "line 1 is no JSON object"),
        (b'{"scorer": "z", "data": "b"}\n', "is of scorer 'z', not 'a'; name another"),
        (b'{"scorer": "a", "data": "b"}\n3\n', "line 2 is no JSON object"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, content, line):
    file = tmp_path / "scores.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=line):
        Lines(file, HEAD, "--scores")
