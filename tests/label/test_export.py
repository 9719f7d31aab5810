"""What goes in comes out: files of records become tasks, labels become records that the training verbs read."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from label_people import Place, prompt, ranked
from sqlalchemy import insert, select, update

from trimtab.common.errors import UserError
from trimtab.data.encode import comparison_trees
from trimtab.data.files import write_records
from trimtab.data.formats import read_comparisons, read_demonstrations, read_prompts
from trimtab.label.export import COLUMNS, Wanted, as_csv, exported, neutral
from trimtab.label.tables import adjudications, reviews, tasks
from trimtab.label.tasks import add_prompt_tasks, dealt
from trimtab.records import Comparison, Completion


def out(place: Place, what: str, wanted: Wanted = Wanted()) -> list:  # type: ignore[type-arg] # noqa: B008
    project = place.project
    with place.store.read() as connection:
        return list(exported(connection, project, what, wanted))


def test_a_ranking_travels_into_a_training_file_and_back(place: Place, tmp_path: Path) -> None:
    item = ranked("bees", 4)
    place.begin(overlap=2).add(item)
    given = place.next("ada").assignment
    assert given is not None
    shown = place.row(given).shown
    place.submit(
        "ada", given, {"ranks": [1, 2, 2, 3], "ratings": [7, 4, 4, 2], "flags": [[], [], ["made_up"], []], "note": "so"}
    )
    place.label("bob")
    file = tmp_path / "comparisons.jsonl"
    assert write_records(file, out(place, "comparisons")) == 2
    first, second = read_comparisons(file)
    assert first.prompt.messages == item.prompt.messages and first.completions == item.completions
    assert [first.ranks[i] for i in shown] == [1, 2, 2, 3]  # in the order of the screen, what was said
    assert first.ratings is not None and [first.ratings[i] for i in shown] == [7, 4, 4, 2]
    assert first.flags is not None and [first.flags[i] for i in shown][2] == ("made_up",)
    assert list(first.shown_order or ()) == shown and first.seconds is not None
    assert (first.labeler, second.labeler) == ("labeler-1", "labeler-2")
    assert second.ranks == (1, 2, 3, 4)
    row = json.loads(file.read_text().splitlines()[0])
    assert row["label_note"] == "so" and row["label_task"] == 1 and row["label_kind"] == "rank" and row["label_instructions"] == 0


def test_sampled_token_ids_survive(lite_place: Place) -> None:
    answers = (Completion("one", "m", (5, 6), "a" * 64, "end"), Completion("two", "m", (7,), "a" * 64, "length"))
    lite_place.begin().add(Comparison(prompt("bees"), answers, (None, None)))
    lite_place.label("ada")
    assert out(lite_place, "comparisons")[0].completions == answers


def test_demonstrations_and_prompts(place: Place, tmp_path: Path) -> None:
    place.begin(overlap=1).add(prompt("bees", "chat"))
    place.label("ada", value={"text": "Bees fly."})
    project = place.project
    with place.store.write() as connection:
        assert add_prompt_tasks(connection, project, 2, {"few_shot": 1.0}, {"extract": 1.0}) == 2
    example = [{"query": "1+1", "response": "2"}, {"query": "2+2", "response": "4"}]
    place.label("ada", value={"style": "few_shot", "text": "Add.", "examples": example, "use_case": "extract"})
    write_records(tmp_path / "d.jsonl", out(place, "demonstrations"))
    write_records(tmp_path / "p.jsonl", out(place, "prompts"))
    demonstration, written = read_demonstrations(tmp_path / "d.jsonl")[0], read_prompts(tmp_path / "p.jsonl")[0]
    assert demonstration.completion == "Bees fly." and demonstration.prompt.use_case == "chat"
    assert written.text == "Add.\n\n1+1\n2\n\n2+2\n4" and written.use_case == "extract" and written.user == "labeler-1"


def test_what_is_left_out(place: Place) -> None:
    place.begin(overlap=2, gold_rate=0.0).add(ranked("bees", 3), ranked("ants", 3))
    place.label("ada", 2)
    place.label("bob", 2)
    with place.store.write() as connection:
        connection.execute(insert(reviews).values(label_id=1, user_id=1, accepted=False, note="", created=0.0))
        answer = {"ranks": [3, 2, 1], "ratings": [None] * 3, "flags": [[], [], []], "note": ""}
        connection.execute(insert(adjudications).values(task_id=2, user_id=1, value=answer, note="", created=0.0))
    tasks_of = [(r.extra["label_task"], r.labeler) for r in out(place, "comparisons")]
    assert tasks_of == [(2, "labeler-1"), (1, "labeler-2"), (2, "labeler-2")]
    assert len(out(place, "comparisons", Wanted(rejected=True))) == 4
    assert [r.labeler for r in out(place, "comparisons", Wanted(names=True, without=("bob",)))] == ["ada"]
    settled = out(place, "comparisons", Wanted(adjudicated=True))
    assert [(r.extra["label_task"], r.ranks) for r in settled] == [(1, (1, 2, 3)), (2, (3, 2, 1))]


def test_gold_items_are_exported_when_asked_for(place: Place) -> None:
    place.begin(gold_rate=0.5, overlap=1).add(ranked("known", 2, [1, 2]), purpose="gold")
    place.add(*(ranked(f"item {i}", 2) for i in range(12)))
    place.label("ada", 13)
    assert len(out(place, "comparisons")) == 12 and len(out(place, "comparisons", Wanted(gold=True))) == 13


def test_an_import_with_a_problem_adds_nothing(place: Place) -> None:
    place.begin()
    report = place.add(ranked("bees", 4), ranked("many", 12), UserError("file:3: not JSON"), ranked("many", 10))
    assert (
        report.added == 0 and len(report.problems) == 3 and report.problems[0].startswith("row 1: 12 different answers")
    )
    assert place.rows(tasks) == []
    assert "known answer" in place.add(prompt("bees"), purpose="gold").problems[0]
    assert "better than another" in place.add(ranked("bees", 3, [1, 1, 1]), purpose="gold").problems[0]
    assert len(place.add(*(ranked("many", 10) for _ in range(50))).problems) == 21


def test_an_import_twice_adds_nothing_and_equal_answers_are_one(place: Place) -> None:
    place.begin()
    twin = Comparison(prompt("ants"), (Completion("a"), Completion("b"), Completion("a ")), (None,) * 3)
    first = place.add(ranked("bees", 4), ranked("bees", 4), prompt("bees"), twin, ranked("one", 1))
    assert first.alike == 1
    assert (first.added, first.repeated, first.same_answers, dict(first.kinds)) == (
        3,
        1,
        1,
        {"rank": 1, "write": 1, "compare": 1},
    )
    assert place.add(ranked("bees", 4), prompt("bees"), twin).added == 0


def test_shares_are_dealt_evenly() -> None:
    names = dealt({"a": 0.5, "b": 0.3, "c": 0.2}, 100)
    assert [names.count(n) for n in "abc"] == [50, 30, 20]
    assert [names[:10].count(n) for n in "abc"] == [5, 3, 2]
    with pytest.raises(UserError):
        dealt({"a": 0.0}, 3)


FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://x")', "\n@x"]
FORMULAS += ["\u00a0=1", "\n\t=1", "\uff1d1+1", "\u3000\uff20x"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_of_the_table_is_a_formula(lite_place: Place, cell: str) -> None:
    assert neutral(cell).startswith("'") and neutral(7) == 7 and neutral("a=b") == "a=b"
    lite_place.begin().add(prompt("bees"))
    lite_place.label("ada", value={"text": cell + "x", "note": cell.strip("\n") + "y"})
    import csv

    rows = list(csv.reader("".join(as_csv(out(lite_place, "demonstrations"))).splitlines(keepends=True)))
    assert rows[0] == list(COLUMNS)
    assert not any(c.lstrip().startswith(tuple("=+-@\uff1d\uff20")) or c.startswith(("\t", "\r")) for c in rows[1])


def test_exported_rankings_give_trees_for_training(lite_place: Place, tmp_path: Path) -> None:
    """Two labelers of one task: two trees of one prompt, with their own pairs."""
    from tiny_models import tiny_tokenizer

    from trimtab.data.template import Renderer

    lite_place.begin(overlap=2).add(ranked("bees", 4))
    lite_place.label("ada")
    lite_place.label("bob", value={"ranks": [1, 1, 1, 2], "ratings": [1, 1, 1, 1]})
    write_records(tmp_path / "c.jsonl", out(lite_place, "comparisons"))
    trees, _ = comparison_trees(
        read_comparisons(tmp_path / "c.jsonl"), Renderer(tiny_tokenizer(), template="plain"), 4096
    )
    assert [len(t.completions) for t in trees] == [4, 4]


def test_positions_continue_over_imports(lite_place: Place) -> None:
    lite_place.begin().add(ranked("a", 2), ranked("b", 2))
    lite_place.add(ranked("c", 2))
    with lite_place.store.read() as connection:
        assert [r.position for r in connection.execute(select(tasks).order_by(tasks.c.id))] == [1.0, 2.0, 3.0]


def test_a_settled_task_that_became_gold_stays_out_with_the_gold(lite_place: Place) -> None:
    """How the app makes gold: a reviewer settles a task, a researcher sets its purpose."""
    lite_place.begin(overlap=1).add(*(ranked(name, 3) for name in ("bees", "ants", "moths")))
    lite_place.label("ada", 3)
    answer = {"ranks": [3, 2, 1], "ratings": [None] * 3, "flags": [[], [], []], "note": ""}
    with lite_place.store.write() as connection:
        for task, purpose in ((1, "label"), (2, "gold"), (3, "screening")):
            connection.execute(insert(adjudications).values(task_id=task, user_id=1, value=answer, note="", created=0.0))
            connection.execute(update(tasks).where(tasks.c.id == task).values(purpose=purpose))
    assert [r.extra["label_task"] for r in out(lite_place, "comparisons", Wanted(adjudicated=True))] == [1]
    assert [r.extra["label_task"] for r in out(lite_place, "comparisons", Wanted(adjudicated=True, gold=True))] == [1, 2]


def test_a_prompts_own_fields_stay_what_they_are(lite_place: Place, tmp_path: Path) -> None:
    """A prompt may have a `task`, a `kind` or a `note` of its own; the app's begin with label_."""
    own = {"task": {"kind": "story"}, "kind": "mine", "note": "keep", "created": "1999", "instructions": "none", "seconds": 3}
    answers = replace(ranked("ants", 2), prompt=replace(prompt("ants"), extra=own))
    lite_place.begin(overlap=1).add(replace(prompt("bees"), extra=own), answers)
    lite_place.label("ada", 2)
    for what in ("demonstrations", "comparisons"):
        record = out(lite_place, what)[0]
        row = record.to_json()
        kept = {name: row[name] for name in own if (what, name) != ("comparisons", "seconds")}  # a comparison's own field
        assert kept.items() <= own.items() and row["label_kind"] == {"demonstrations": "write", "comparisons": "compare"}[what]
        cells = dict(zip(COLUMNS, next(csv.reader([list(as_csv([record]))[1]])), strict=True))
        assert cells["kind"] == row["label_kind"] and float(cells["seconds"]) >= 0 and cells["note"] == ""
