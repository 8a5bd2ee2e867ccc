"""GenEval's files: what is read of them, the figures, and a line for each other shape."""

import json

import pytest

from babeldraw.errors import UserError
from babeldraw.evaluation.geneval import figures, read_results, read_tasks

TASKS = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a cow"},
    {
        "tag": "counting",
        "include": [{"class": "cow", "count": 2}],
        "exclude": [{"class": "cow", "count": 3}],
        "prompt": "two cows",
    },
    {
        "tag": "position",
        "include": [
            {"class": "cow", "count": 1},
            {"class": "bench", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a bench left of a cow",
    },
]
# Of each prompt, in their order; its pictures need not stand together.
RIGHT = [(1, 1), (1, 0), (0, 0), (0, 1)]


def result(number, sample, **more):
    task = TASKS[number]
    found = {"filename": f"out/{number:05d}/samples/{sample:04d}.png", "tag": task["tag"]}
    found |= {"prompt": task["prompt"], "correct": bool(RIGHT[number][sample]), "reason": ""}
    return found | {"metadata": json.dumps(task), "details": "{}"} | more


def written(path, lines):
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return str(path)


@pytest.fixture
def tasks(tmp_path):
    return read_tasks(written(tmp_path / "metadata.jsonl", [*TASKS, ""]))


@pytest.fixture
def results(tmp_path):
    return [result(number, sample) for sample in (0, 1) for number in (3, 1, 0, 2)]


def test_a_task_keeps_its_line(tasks):
    assert [task.prompt for task in tasks] == [own["prompt"] for own in TASKS]
    assert [task.tag for task in tasks] == [own["tag"] for own in TASKS]
    assert [json.loads(task.line) for task in tasks] == TASKS


def test_figures_are_shares_of_pictures_and_their_mean_over_tags(tasks, results, tmp_path):
    found = read_results(written(tmp_path / "results.jsonl", results), tasks)
    assert found == {
        "single_object": [[True, True], [True, False]],
        "counting": [[False, False]],
        "position": [[False, True]],
    }
    own = figures(found)
    assert [*own] == ["single_object", "counting", "position", "overall"]
    assert own == {"single_object": 0.75, "counting": 0, "position": 0.5, "overall": 1.25 / 3}
    assert (own["single_object"].num, own["overall"].num) == (4, 8)
    # Prompts are drawn again, whole: with the half right one twice, or the right one.
    interval = own["single_object"].interval
    assert (interval.low, interval.high) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2, is no JSON: "),
        ("[1]", r"line 2, is no object but '\[1\]'$"),
        ({**TASKS[0], "prompt": ""}, "line 2, has the field prompt ''; a text is needed$"),
        ({**TASKS[0], "tag": 3}, "line 2, has the field tag 3; a text is needed$"),
        ({"prompt": "a", "tag": "b"}, "line 2, has no include, which says what must be seen$"),
        ({**TASKS[0], "include": [{"class": "cow"}]}, r"has the field include .*class and count$"),
        ({**TASKS[0], "exclude": "cow"}, r"has the field exclude 'cow'; a list of objects with"),
    ],
)
def test_a_task_of_another_shape_is_one_line(line, told, tmp_path):
    with pytest.raises(UserError, match=told) as raised:
        read_tasks(written(tmp_path / "metadata.jsonl", [TASKS[0], line]))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError, match="the file .*none.jsonl cannot be read: "):
        read_tasks(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="empty.jsonl holds no prompt$"):
        read_tasks(written(tmp_path / "empty.jsonl", [""]))


def test_results_of_other_pictures_are_one_line(tasks, results, tmp_path):
    def fails(lines, told):
        with pytest.raises(UserError, match=told):
            read_results(written(tmp_path / "results.jsonl", lines), tasks)

    fails([*results, result(0, 0, prompt="a dog")], r"line 9, is of 'a dog' \(single_object\), wh")
    fails([*results, result(0, 0, tag="colors")], r"is of 'a bench' \(colors\), which is no prompt")
    fails([*results, result(0, 0, correct=1)], "line 9, has the field correct 1; true or false")
    fails(results[:-1], "holds 1 pictures of 'two cows' where by the others there are 2; draw all")
    without = [own for own in results if own["prompt"] != "a cow"]
    fails(without, "holds 0 pictures of 'a cow' where by the others there are 2")
    fails([], "results.jsonl holds no results; name what evaluate_images.py wrote")
