"""Lists of prompts: a line each, or a table whose other columns are kept."""

import pytest

from babeldraw.drawing.prompts import Prompt, read_prompts
from babeldraw.errors import UserError


def test_a_line_is_a_prompt(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text('a café\n\n  "quoted", with\ttab \n', encoding="utf-8")
    assert read_prompts(str(file)) == [Prompt("a café"), Prompt('"quoted", with\ttab')]


def test_a_table_keeps_its_columns(tmp_path):
    file = tmp_path / "parti.TSV"
    rows = [
        "Prompt\tCategory\tNote",
        'a "stop" sign\tArtifacts\t',
        "\tAbstract\tx",
        "a cat\tAnimals",
    ]
    file.write_text("\n".join(rows), encoding="utf-8-sig")
    assert read_prompts(str(file)) == [
        Prompt('a "stop" sign', {"Category": "Artifacts", "Note": ""}),
        Prompt("a cat", {"Category": "Animals", "Note": ""}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"Text\tKind\nx\ty\n", "has the columns Text, Kind; one must be Prompt"),
        ("a.tsv", b"", "has the columns none; one must be Prompt"),
        ("a.tsv", b"prompt\n\n", "holds no prompt"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read: .*utf-8"),
        (".", b"", "cannot be read: .*directory"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, name, content, message):
    if name != ".":
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name))
