"""Forms of researchers lose nothing that was typed, say all that is wrong, and what was done stands in the journal."""

import re
from pathlib import Path

import pytest
from label_people import Place, prompt, ranked
from label_web import PASSWORD, Browser, logged_in
from test_pages import Echo, jsonl, upload, with_models

from trimtab.label.arena import Match, standings
from trimtab.label.tables import events, instructions


@pytest.fixture
def boss(lite_place: Place) -> Browser:
    return logged_in(lite_place.begin(overlap=2), "boss", "admin")


def test_settings_say_everything_and_keep_what_was_typed(lite_place: Place, boss: Browser) -> None:
    typed = {"title": "Half <typed>", "overlap": "many", "gold_rate": "9", "pass_score": "0.5", "lease_minutes": ""}
    typed["mix"] = "chat 7\nextract = 5 %"
    answer = boss.post("/p/p/settings", typed)
    assert answer.status_code == 422 and "Nothing was saved" in answer.text
    for said in ("Overlap: &#39;many&#39;; write a whole number from 1 to 50",
                 "Gold rate: &#39;9&#39;; write a number from 0 to 0.5",
                 "Lease minutes: &#39;&#39;; write a number from 1 to 10080",
                 "&#39;chat 7&#39;; write a use case and its share"):  # fmt: skip
        assert said in answer.text, said
    for value in ('value="Half &lt;typed&gt;"', 'value="many"', 'value="9"', "chat 7\nextract = 5 %</textarea>"):
        assert value in answer.text, value
    assert lite_place.project.title == "A project" and lite_place.project.open


def test_a_wrong_rank_loses_no_other_one(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3), prompt("ants"))
    answer = boss.post("/p/p/tasks/1/settle", {"rank-0": "1", "rank-1": "x", "rank-2": "2", "note": "because"})
    assert answer.status_code == 422 and "a rank is a number from 1 (best) to 3" in answer.text and "Task 1" in answer.text
    assert re.findall(r'name="rank-\d" value="(\w*)"', answer.text) == ["1", "x", "2"] and 'value="because"' in answer.text
    assert "the text is empty" in boss.post("/p/p/tasks/2/settle", {"text": " ", "note": "kept"}).text
    boss.post("/p/p/tasks/1/settle", {"rank-0": "2", "rank-2": "1", "note": "so"})
    assert re.findall(r'name="rank-\d" value="(\w*)"', boss.page("/p/p/tasks/1")) == ["2", "", "1"]


def test_instructions_are_published_once(lite_place: Place, boss: Browser) -> None:
    """The form says what is read now and what is not published; the same text again makes nobody read it again."""
    assert "Version 1 <" in boss.page("/p/p/guidelines")
    assert boss.post("/p/p/guidelines", {"text": "Be kind.\r\nAlways."}).status_code == 303
    html = boss.page("/p/p/guidelines")
    assert "<b>version 1</b>" in html and "Version 2, not published; begins as a copy of version 1" in html
    again = boss.post("/p/p/guidelines", {"text": "Be kind.\r\nAlways."})
    assert again.status_code == 422 and "this is version 1 word for word" in again.text and len(lite_place.rows(instructions)) == 1
    empty = boss.post("/p/p/guidelines", {"text": " "})
    assert empty.status_code == 422 and "the instructions are empty" in empty.text


def test_the_journal_has_what_was_done(lite_place: Place, boss: Browser, tmp_path: Path) -> None:
    lite_place.add(ranked("bees", 3))
    with_models(boss, parrot=Echo("squawk"))
    upload(boss, "/p/p/sample", "f.jsonl", jsonl(tmp_path, prompt("ants")), model="parrot", k="3")
    boss.post("/p/p/prompts", {"number": "3", "plain": "yes"})
    boss.post("/p/p/guidelines", {"text": "Be kind"})
    numbers = {"overlap": "4", "gold_rate": "0", "pass_score": "0.8", "lease_minutes": "30"}
    boss.post("/p/p/settings", {**numbers, "open": "yes", "rate": "yes", "title": "A project"})
    boss.post("/p/p/tasks/1/overlap", {"overlap": "1"})
    boss.post("/p/p/tasks/1/close")
    boss.get("/p/p/export/comparisons.jsonl")
    for _ in range(5):
        Browser(lite_place.store).log_in("boss", "not the password")
    Browser(lite_place.store).log_in(PASSWORD, "typed into the wrong field")
    kept = {(row.what): row.details for row in lite_place.rows(events)}
    assert kept["sample"] == {"project": "p", "file": "f.jsonl", "model": "parrot", "prompts": 1, "answers": 3}
    assert kept["ask for prompts"]["number"] == 3 and kept["instructions"]["version"] == 1 and kept["export"]["records"] == "comparisons"
    assert kept["settings"]["overlap"] == 4 and "rate" not in kept["settings"] and "title" not in kept["settings"]
    assert kept["overlap"] == {"project": "p", "task": 1, "overlap": 1} and kept["close task"]["task"] == 1
    wrong = [row.details for row in lite_place.rows(events) if row.what == "wrong password"]
    assert [d.get("of") for d in wrong] == ["boss"] * 5 + [None] and [d.get("locked", False) for d in wrong] == [False] * 4 + [True, False]
    assert PASSWORD not in boss.page("/journal") and "wrong password" in boss.page("/journal")


def test_the_dashboard_counts_alike_everywhere(lite_place: Place, boss: Browser) -> None:
    """The bars of days are the labels of "labels"; answers to known items have a number of their own; who was let in by hand reads so."""
    lite_place.add(ranked("known", 2, [1, 2]), purpose="screening")
    lite_place.add(ranked("bees", 3))
    lite_place.label("ada")
    boss.post(f"/p/p/onboarding/{lite_place.person('bob')}", {"passed": "yes"})
    boss.post(f"/p/p/onboarding/{lite_place.person('cyd')}", {"passed": "no"})
    html = boss.page("/p/p/dashboard")
    assert "0 <small>of 2</small>" in html and re.search(r"<dt>answers to these</dt><dd>1</dd>", html)
    assert "<b>1</b>" not in html and "let in by hand" in html and "stopped by hand" in html and "passed 100 %" in html
    assert "votes in the arena" not in html


def test_who_wins_in_the_arena(place: Place) -> None:
    """Votes by hand: two for left, a tie, both bad, one for right; one on an answer that says who it is does not count."""
    boss = logged_in(place.begin(), "boss", "researcher")
    with_models(boss, left=Echo("tick"), right=Echo("tock"))

    def vote(choice: str, winner: str = "") -> None:
        answer = boss.api("/api/projects/p/arena/ask", {"text": "Hi"}).json()
        if winner:
            choice = "a" if (winner in answer["html"][0]) else "b"
        assert boss.api("/api/projects/p/arena/vote", {"battle": answer["battle"], "choice": choice}).status_code == 200

    for choice, winner in (("", "tick"), ("", "tick"), ("tie", ""), ("bad", ""), ("", "tock")):
        vote(choice, winner)
    with_models(boss, right=Echo("I am Claude"))
    vote("a")
    with place.store.read() as connection:
        assert standings(connection, place.project) == [Match("left", "right", 2, 2, 1)]
    html = boss.page("/p/p/dashboard")
    assert "left against right" in html and "<dt>votes in the arena</dt><dd>5</dd>" in html


def test_what_json_says_is_said_once(lite_place: Place, boss: Browser) -> None:
    answer = upload(boss, "/p/p/import", "x.jsonl", '{"prompt": "hm', purpose="label")
    assert "not JSON (Unterminated string starting at column 12)" in answer.text
