"""What researchers, reviewers and labelers do on the pages, without a browser."""

import gzip
import io
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from label_people import Place, prompt, ranked
from label_web import Browser, logged_in
from sqlalchemy import select

from trimtab.data.files import write_records
from trimtab.label.arena import gives_away
from trimtab.label.projects import change_project
from trimtab.label.render import markdown
from trimtab.label.tables import adjudications, events, messages, reviews, tasks
from trimtab.records import Completion


def upload(browser: Browser, path: str, name: str, text: str | bytes, **fields: str) -> Any:
    data = text.encode() if isinstance(text, str) else text
    return browser.post(path, fields, files={"file": (name, io.BytesIO(data))})


def jsonl(tmp_path: Path, *records: Any) -> str:
    write_records(tmp_path / "r.jsonl", records)
    return (tmp_path / "r.jsonl").read_text()


@pytest.fixture
def boss(lite_place: Place) -> Browser:
    return logged_in(lite_place.begin(overlap=2), "boss", "researcher")


def test_a_file_is_imported_or_said_to_be_wrong(lite_place: Place, boss: Browser, tmp_path: Path) -> None:
    text = jsonl(tmp_path, ranked("bees", 4), prompt("ants"), ranked("flies", 2))
    answer = upload(boss, "/p/p/import", "mine.jsonl", text, purpose="label", overlap="1")
    assert answer.headers["location"] == "/p/p/import?added=3&repeated=0&same=0&alike=0"
    assert [(t.kind, t.overlap) for t in lite_place.rows(tasks)] == [("rank", 1), ("write", 1), ("compare", 1)]
    broken = upload(
        boss, "/p/p/import", "<b>mine<b>.jsonl", text + "\n{broken\n" + '{"messages": 7}\n', purpose="label"
    )
    assert broken.status_code == 422 and "Nothing was imported" in broken.text
    assert "&lt;b&gt;mine&lt;b&gt;.jsonl:5" in broken.text and "/tmp/" not in broken.text
    assert len(lite_place.rows(tasks)) == 3
    for name, content in (("x.exe", "hm"), ("x.jsonl", ""), ("x.jsonl.gz", "no gzip"), ("../../x.json", "[1]")):
        assert upload(boss, "/p/p/import", name, content, purpose="label").status_code == 422
    assert boss.post("/p/p/import", {"purpose": "label"}).status_code == 422
    assert upload(boss, "/p/p/import", "x.jsonl", text, purpose="label", overlap="99").status_code == 422


def test_a_row_without_an_id_is_called_by_the_file(lite_place: Place, boss: Browser) -> None:
    upload(boss, "/p/p/import", "mine.jsonl", '{"prompt": "Hello?"}\n', purpose="label")
    assert lite_place.rows(tasks)[0].prompt["id"] == "mine.jsonl:1"


def test_prompt_writing_tasks(lite_place: Place, boss: Browser) -> None:
    answer = boss.post("/p/p/prompts", {"number": "4", "plain": "yes", "few_shot": "yes"})
    assert answer.status_code == 303
    assert [t.prompt["style"] for t in lite_place.rows(tasks)] == ["plain", "few_shot", "plain", "few_shot"]
    assert boss.post("/p/p/prompts", {"number": "4"}).status_code == 422
    ada = logged_in(lite_place, "ada")
    html = ada.page(ada.api("/api/projects/p/next").json()["url"])
    assert "Come up with any task" in html


def test_settings(lite_place: Place, boss: Browser) -> None:
    fields = {
        "title": "New & better",
        "overlap": "5",
        "gold_rate": "0.1",
        "pass_score": "0.8",
        "lease_minutes": "30",
        "open": "yes",
        "rate": "yes",
    }
    fields |= {"flags": ["harmful", "opinion"], "mix": "chat = 25 %\nextract: 0.5\n"}  # type: ignore[dict-item]
    assert boss.post("/p/p/settings", fields).status_code == 303
    found = lite_place.project
    assert (found.title, found.settings.overlap, found.settings.flags) == ("New & better", 5, ["harmful", "opinion"])
    assert found.settings.mix == {"chat": 0.25, "extract": 0.5} and found.settings.seed == 1
    for change, said in (
        ({"overlap": "none"}, "write a whole number from 1 to 50"),
        ({"mix": "chat 7"}, "a use case and its share"),
        ({"gold_rate": "2"}, "Gold rate: &#39;2&#39;; write a number from 0 to 0.5"),
    ):
        answer = boss.post("/p/p/settings", {**fields, **change})
        assert answer.status_code == 422 and said in answer.text, change
    boss.post("/p/p/settings", {**fields, "open": ""})
    assert lite_place.next("ada").why == "closed"


def test_instructions_stand_before_the_work(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3))
    boss.post("/p/p/guidelines", {"text": "# Be kind\n\n<script>alert(1)</script>"})
    ada = logged_in(lite_place, "ada")
    assert "Read the instructions" in ada.page("/")
    assert ada.post("/p/p/start").headers["location"] == "/p/p/instructions"
    html = ada.page("/p/p/instructions")
    assert "<h3>Be kind</h3>" in html and "&lt;script&gt;" in html
    assert ada.post("/p/p/instructions", {"version": "7"}).status_code == 404
    ada.post("/p/p/instructions", {"version": "1"})
    assert ada.post("/p/p/start").headers["location"].startswith("/a/")


def test_threads(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3), ranked("ants", 3))
    ada, bob = logged_in(lite_place, "ada"), logged_in(lite_place, "bob")
    of_ada = ada.post("/p/p/start").headers["location"]
    assert ada.post(f"{of_ada}/questions", {"text": "Are *bees* insects?"}).status_code == 303
    assert bob.post("/p/p/questions", {"text": "When is payday?"}).status_code == 303
    assert "payday" in ada.page("/p/p/questions") and "Tasks with questions" not in ada.page("/p/p/questions")
    assert "<em>bees</em>" in bob.page(bob.post("/p/p/start").headers["location"])  # the same task, so the same thread
    assert "Task 1" in boss.page("/p/p/questions")
    boss.post("/p/p/tasks/1/questions", {"text": "They are."})
    html = ada.page(of_ada)
    assert "They are." in html and "researcher" in html
    assert ada.post("/p/p/questions", {"text": "  "}).status_code == 422
    assert len(lite_place.rows(messages)) == 3


def test_review_settle_and_gold(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3), ranked("ants", 3))
    lite_place.label("ada", 2)
    lite_place.label("bob", 1, value={"ranks": [1, 1, 1], "ratings": [4, 4, 4]})
    assert "rank 1" in boss.page("/p/p/review")
    html = boss.page("/p/p/tasks/1")
    assert "A &gt; B &gt; C" in html and "model-1" in html and "A = B = C" in html
    assert boss.post("/p/p/labels/1/review", {"verdict": "reject", "note": "careless"}).status_code == 303
    assert [(r.label_id, r.accepted, r.note) for r in lite_place.rows(reviews)] == [(1, False, "careless")]
    boss.post("/p/p/labels/1/review", {"verdict": ""})
    assert (
        lite_place.rows(reviews) == [] and boss.post("/p/p/labels/99/review", {"verdict": "accept"}).status_code == 404
    )
    assert boss.post("/p/p/tasks/2/gold", {"purpose": "gold"}).status_code == 422  # nothing is known of it yet
    assert boss.post("/p/p/tasks/2/settle", {"rank-0": "1"}).status_code == 422
    boss.post("/p/p/tasks/2/settle", {"rank-0": "2", "rank-1": "1", "note": "by me"})
    assert lite_place.rows(adjudications)[0].value["ranks"] == [2, 1, None]
    boss.post("/p/p/tasks/2/gold", {"purpose": "gold"})
    row = lite_place.rows(tasks)[1]
    assert (row.purpose, row.known["ranks"], row.slots) == ("gold", [2, 1, None], 0)
    boss.post("/p/p/tasks/2/gold", {"purpose": "label"})
    assert lite_place.rows(tasks)[1].slots == 1
    boss.post("/p/p/tasks/2/overlap", {"overlap": "4"})
    boss.post("/p/p/tasks/1/close")
    assert [(t.overlap, t.closed) for t in lite_place.rows(tasks)] == [(2, True), (4, False)]
    assert boss.get("/p/p/tasks/99").status_code == 404
    assert {e.what for e in lite_place.rows(events)} >= {"review", "adjudicate", "purpose"}


def test_a_task_of_another_project_is_none_of_this_one(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3))
    lite_place.label("ada")
    boss.post("/projects/new", {"name": "q", "title": "Other"})
    for path in (
        "/p/q/tasks/1",
        "/p/q/tasks/1/settle",
        "/p/q/tasks/1/close",
        "/p/q/tasks/1/questions",
        "/p/q/labels/1/review",
    ):
        answer = (
            boss.get(path)
            if path.endswith("/1")
            else boss.post(path, {"rank-0": "1", "rank-1": "2", "text": "x", "verdict": "accept"})
        )
        assert answer.status_code == 404, path


def test_the_dashboard_and_downloads(lite_place: Place, boss: Browser) -> None:
    lite_place.add(*(ranked(f"item {i}", 4) for i in range(6)))
    lite_place.label("ada", 6)
    lite_place.label("bob", 4)
    html = boss.page("/p/p/dashboard")
    assert "10 <small>of 12</small>" in html and "4 <small>of 6</small>" in html and "100 %" in html
    assert boss.get("/api/projects/p/progress").json() == {"tasks": 6, "complete": 4, "wanted": 12, "given": 10}
    answer = boss.get("/p/p/export/comparisons.jsonl?names=true")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert len(rows) == 10 and {r["labeler"] for r in rows} == {"ada", "bob"}
    assert 'filename="p-comparisons.jsonl"' in answer.headers["content-disposition"]
    assert boss.get("/p/p/export/comparisons.csv").text.startswith("id,kind,")
    assert boss.get("/p/p/export/secrets.jsonl").status_code == 422
    assert "item 3" in boss.page("/p/p/tasks?find=item+3") and "Nothing found" in boss.page("/p/p/tasks?find=100%25")


def test_no_interval_where_there_are_too_few_values(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3))
    lite_place.label("ada")
    lite_place.label("bob", value={"ranks": [1, 1, 2], "ratings": [4, 4, 4]})
    html = boss.page("/p/p/dashboard")
    assert "Raw agreement on pairs" in html and "- to -" not in html


def test_onboarding_is_decided_by_a_researcher(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("known", 2, [1, 2]), purpose="screening")
    lite_place.add(ranked("bees", 3))
    ada = lite_place.person("ada")
    boss.post(f"/p/p/onboarding/{ada}", {"passed": "no"})
    assert lite_place.next("ada").why == "failed"
    assert "Onboarding not passed" in logged_in(lite_place, "ada").page("/p/p/mine?why=failed")
    boss.post(f"/p/p/onboarding/{ada}", {"passed": "yes"})
    assert lite_place.row(lite_place.next("ada").assignment or 0).purpose == "label"
    assert boss.post("/p/p/onboarding/99", {"passed": "yes"}).status_code == 404


class Echo:
    """A model that says its name so many times."""

    def __init__(self, word: str) -> None:
        self.word = word

    def answers(self, prompts: Any, k: int, seed: int) -> list[list[Completion]]:
        return [[Completion(f"{self.word} " * (i + 1 + seed % 3)) for i in range(k)] for _ in prompts]


def with_models(browser: Browser, **models: Any) -> None:
    app = browser.client.app.small.app  # type: ignore[attr-defined]
    app.state.served.models.update(models)


def test_a_connected_model_answers_a_file(lite_place: Place, boss: Browser, tmp_path: Path) -> None:
    with_models(boss, parrot=Echo("squawk"))
    text = jsonl(tmp_path, *(prompt(f"p {i}") for i in range(10)))
    assert upload(boss, "/p/p/sample", "f.jsonl", text, model="parrot", k="3").status_code == 303
    for _ in range(100):
        if "10 of 10 prompts answered, 10 tasks added." in boss.page("/p/p/import"):
            break
        time.sleep(0.05)
    row = lite_place.rows(tasks)[9]
    assert row.kind == "rank" and [c["model"] for c in row.completions] == ["parrot"] * 3
    assert upload(boss, "/p/p/sample", "f.jsonl", text, model="none", k="3").status_code == 422
    assert upload(boss, "/p/p/sample", "f.jsonl", text, model="parrot", k="1").status_code == 422


def test_the_arena(lite_place: Place, boss: Browser) -> None:
    """Names are told after the vote, the vote stays, the conversation goes on from the preferred answer."""
    assert boss.api("/api/projects/p/arena/ask", {"text": "Hi"}).status_code == 409  # no two models
    with_models(boss, left=Echo("tick"), right=Echo("tock"))
    answer = boss.api("/api/projects/p/arena/ask", {"text": "Hi"}).json()
    assert not any(name in json.dumps(answer) for name in ("left", "right"))
    assert (
        boss.api("/api/projects/p/arena/ask", {"text": "more", "battle": answer["battle"]}).status_code == 409
    )  # vote first
    told = boss.api("/api/projects/p/arena/vote", {"battle": answer["battle"], "choice": "b"}).json()["names"]
    assert sorted(told) == ["left", "right"]
    assert ("tick" in answer["html"][0]) == (told[0] == "left")
    again = boss.api("/api/projects/p/arena/vote", {"battle": answer["battle"], "choice": "a"})
    assert again.status_code == 409 and "vote stays" in again.text
    other = logged_in(lite_place, "ada")
    assert other.api("/api/projects/p/arena/vote", {"battle": answer["battle"], "choice": "a"}).status_code == 404
    onward = boss.api("/api/projects/p/arena/ask", {"text": "and now?", "battle": answer["battle"]}).json()
    boss.api("/api/projects/p/arena/vote", {"battle": onward["battle"], "choice": "bad"})
    rows = [json.loads(line) for line in boss.get("/p/p/export/comparisons.jsonl").text.splitlines()]
    assert [len(r["messages"]) for r in rows] == [1, 3]
    best = rows[0]["completions"][rows[0]["ranks"].index(1)]
    assert best["model"] == told[1] and rows[1]["messages"][1]["content"] == best["text"]
    assert rows[1]["ranks"] == [1, 1] and rows[1]["flags"] == [["both_bad"], ["both_bad"]]


def test_an_answer_that_tells_who_it_is_is_left_out_of_exports(lite_place: Place, boss: Browser) -> None:
    with_models(boss, left=Echo("I am Claude"), right=Echo("tock"))
    battle = boss.api("/api/projects/p/arena/ask", {"text": "Who are you?"}).json()["battle"]
    boss.api("/api/projects/p/arena/vote", {"battle": battle, "choice": "a"})
    assert boss.get("/p/p/export/comparisons.jsonl").text == ""
    assert len(boss.get("/p/p/export/comparisons.jsonl?rejected=true").text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** `b`", "<p><strong>a</strong> <code>b</code></p>"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("![x](http://e/x.png)", '!<a href="http://e/x.png"'),
        ("# T", "<h3>T</h3>"),
    ],
)  # fmt: skip
def test_markdown(text: str, html: str) -> None:
    assert html in markdown(text)
    assert "<img" not in markdown(text) and "<script" not in markdown(text)


def test_the_tables_of_the_pages_hold_what_people_wrote_as_text(lite_place: Place, boss: Browser) -> None:
    evil = '"><img src=x onerror=alert(1)>'
    lite_place.add(ranked(evil, 3))
    lite_place.label("ada")
    lite_place.label("bob", value={"ranks": [1, 2, 3], "ratings": [1, 1, 1], "note": evil})
    for path in ("/p/p/tasks", "/p/p/tasks/1", "/p/p/review", "/p/p/dashboard", "/"):
        assert "<img" not in boss.page(path), path
    with lite_place.store.read() as connection:
        assert connection.execute(select(tasks)).first() is not None


@pytest.mark.parametrize(
    ("names", "text", "told"),
    [
        (("a", "b"), "a good answer, and a bad one", False),
        (("base", "sft"), "The base of a triangle; the database.", False),
        (("base", "sft"), "Hello, I am SFT.", True),
        (("base", "sft"), "My name is base, and I help.", True),
        (("base", "sft"), "I'm the model sft-2.", True),
        (("base", "sft"), "I am softer, this is basely done", False),
        (("new", "old"), "I was new; I grew old", False),
        (("a", "b"), "I am ChatGPT.", True),
    ],
)
def test_what_gives_a_model_away(names: tuple[str, str], text: str, told: bool) -> None:
    """Models that are called as the page proposes (`a`, `b`) or by common words are not told by those words."""
    assert gives_away([Completion(text, names[0]), Completion("Hm.", names[1])]) is told


def test_votes_of_models_called_a_and_b_are_exported(lite_place: Place, boss: Browser) -> None:
    with_models(boss, a=Echo("a bad banana"), b=Echo("a better banana"))
    battle = boss.api("/api/projects/p/arena/ask", {"text": "Hi"}).json()["battle"]
    boss.api("/api/projects/p/arena/vote", {"battle": battle, "choice": "a"})
    assert len(boss.get("/p/p/export/comparisons.jsonl").text.splitlines()) == 1
    assert "of the arena" not in boss.page("/p/p/export")


def test_the_export_page_says_how_many_votes_stay_out(lite_place: Place, boss: Browser) -> None:
    with_models(boss, left=Echo("I am Claude"), right=Echo("tock"))
    battle = boss.api("/api/projects/p/arena/ask", {"text": "Who are you?"}).json()["battle"]
    assert "of the arena" not in boss.page("/p/p/export")  # no vote yet
    boss.api("/api/projects/p/arena/vote", {"battle": battle, "choice": "a"})
    assert "1 vote of the arena stays out" in boss.page("/p/p/export")


def test_the_arena_is_for_those_who_may_label(lite_place: Place, boss: Browser) -> None:
    """Unread instructions, a screening that is not done or not passed, a closed project: no votes, which are training data."""
    with_models(boss, left=Echo("tick"), right=Echo("tock"))
    ada = logged_in(lite_place, "ada")
    with_models(ada, left=Echo("tick"), right=Echo("tock"))

    def said() -> str:
        answer = ada.api("/api/projects/p/arena/ask", {"text": "Hi"})
        return "" if answer.status_code == 200 else str(answer.json()["error"])

    assert said() == ""
    boss.post("/p/p/guidelines", {"text": "Be kind"})
    assert "instructions" in said()
    ada.post("/p/p/instructions", {"version": "1"})
    lite_place.add(ranked("known", 2, [1, 2]), purpose="screening")
    assert "onboarding" in said()
    for passed, word in (("no", "onboarding"), ("yes", "")):
        boss.post(f"/p/p/onboarding/{lite_place.person('ada')}", {"passed": passed})
        assert (word in said()) if word else said() == ""
    with lite_place.store.write() as connection:
        change_project(connection, lite_place.project, open=False)
    assert "closed" in said()


def test_a_full_arena_sends_people_away(lite_place: Place, boss: Browser) -> None:
    """Who waits for a model holds a thread that everybody's pages need; so eight do, no more."""
    with_models(boss, left=Echo("tick"), right=Echo("tock"))
    served = boss.client.app.small.app.state.served  # type: ignore[attr-defined]
    with ExitStack() as others:
        for _ in range(8):
            others.enter_context(served.fighting())
        answer = boss.api("/api/projects/p/arena/ask", {"text": "Hi"})
        assert answer.status_code == 409 and "send it again" in answer.json()["error"]
    for _ in range(9):
        assert boss.api("/api/projects/p/arena/ask", {"text": "Hi"}).status_code == 200


class Odd:
    """A model whose answers cannot all be tasks: to the first prompt NUL, to the second the same thing each time."""

    def answers(self, prompts: Any, k: int, seed: int) -> list[list[Completion]]:
        said = {"p 0": "\x00{}", "p 1": "same"}
        return [[Completion(said.get(p.id, "{}").format(i)) for i in range(k)] for p in prompts]


def test_what_a_model_said_in_vain_is_told(lite_place: Place, boss: Browser, tmp_path: Path) -> None:
    with_models(boss, odd=Odd())
    upload(boss, "/p/p/sample", "f.jsonl", jsonl(tmp_path, *(prompt(f"p {i}") for i in range(4))), model="odd", k="3")
    for _ in range(100):
        if "4 of 4 prompts answered" in (html := boss.page("/p/p/import")) and "under way" not in html:
            break
        time.sleep(0.05)
    assert "2 tasks added, 1 left out" in html and "p 0: an answer holds a character that is none" in html
    assert len(lite_place.rows(tasks)) == 2


def test_a_wrong_gold_answer_can_be_corrected(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("known", 2, [1, 2]), purpose="gold")
    boss.post("/p/p/tasks/1/settle", {"rank-0": "2", "rank-1": "1"})
    assert lite_place.rows(tasks)[0].known["ranks"] == [2, 1]
    assert boss.post("/p/p/tasks/1/settle", {"rank-0": "1", "rank-1": "1"}).status_code == 422
    boss.post("/p/p/tasks/1/gold", {"purpose": "label"})
    boss.post("/p/p/tasks/1/settle", {"rank-0": "1", "rank-1": "2"})
    boss.post("/p/p/tasks/1/gold", {"purpose": "gold"})
    assert lite_place.rows(tasks)[0].known["ranks"] == [1, 2]


@pytest.mark.parametrize("number", ["\u00b2", "\u0663", "1e1", "-1", "9" * 5000, "\x00"])
def test_what_only_looks_like_a_number_is_refused(lite_place: Place, boss: Browser, tmp_path: Path, number: str) -> None:
    with_models(boss, parrot=Echo("squawk"))
    lite_place.add(ranked("bees", 3))
    text = jsonl(tmp_path, ranked("ants", 3))
    codes = [
        boss.post("/p/p/tasks/1/overlap", {"overlap": number}).status_code,
        boss.post("/p/p/tasks/1/settle", {"rank-0": "1", "rank-1": number}).status_code,
        boss.post("/p/p/prompts", {"number": number, "plain": "yes"}).status_code,
        upload(boss, "/p/p/import", "x.jsonl", text, overlap=number).status_code,
        upload(boss, "/p/p/sample", "x.jsonl", text, model="parrot", k=number).status_code,
    ]
    assert codes == [422] * 5
    assert boss.post("/p/p/instructions", {"version": number}).status_code == 404


def test_another_overlap_is_for_the_tasks_that_had_the_old_one(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3))
    lite_place.add(ranked("ants", 3), overlap=5)
    boss.post("/p/p/prompts", {"number": "1", "plain": "yes"})
    lite_place.label("ada")
    numbers = {"overlap": "4", "gold_rate": "0", "pass_score": "0.8", "lease_minutes": "30", "open": "yes", "rate": "yes"}
    assert boss.post("/p/p/settings", numbers).status_code == 303
    assert [(t.overlap, t.slots) for t in lite_place.rows(tasks)] == [(4, 3), (5, 5), (1, 1)]


def test_an_answer_in_a_thread_is_read_after_the_task_is_labelled(lite_place: Place, boss: Browser) -> None:
    lite_place.add(ranked("bees", 3), ranked("ants", 3))
    ada, bob = logged_in(lite_place, "ada"), logged_in(lite_place, "bob")
    of_ada = ada.post("/p/p/start").headers["location"]
    ada.post(f"{of_ada}/questions", {"text": "Are bees insects?"})
    lite_place.label("ada")
    boss.post("/p/p/tasks/1/questions", {"text": "They are."})
    assert "Tasks of yours with questions" in ada.page("/p/p/questions") and f"{of_ada}/questions" in ada.page("/p/p/questions")
    html = ada.page(f"{of_ada}/questions")
    assert "They are." in html and "Tell me of bees." in html and "answer 0" not in html
    assert ada.post(f"{of_ada}/questions", {"text": "Thanks!"}).headers["location"] == f"{of_ada}/questions?done=sent"
    assert "Tasks of yours" not in bob.page("/p/p/questions") and bob.get(f"{of_ada}/questions").status_code == 404


def test_a_file_that_unpacks_without_end_is_refused(lite_place: Place, boss: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.label.pages.research.UNPACKED", 1 << 20)
    row = b'{"prompt": "Hello?"}\n'
    answer = upload(boss, "/p/p/import", "x.jsonl.gz", gzip.compress(row * (1 << 17)), purpose="label")
    assert answer.status_code == 422 and "x.jsonl.gz: unpacks to more than 1 MB" in answer.text
    assert upload(boss, "/p/p/import", "x.jsonl.gz", gzip.compress(row)[:-4]).status_code == 422
    assert upload(boss, "/p/p/import", "x.jsonl.gz", gzip.compress(row), purpose="label").status_code == 303
    assert lite_place.rows(tasks)[0].prompt["id"] == "x.jsonl.gz:1"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
def test_a_number_that_is_none_is_kept_nowhere(place: Place, number: str) -> None:
    """PostgreSQL refuses it, and no export could write it: a file of labels would end there."""
    boss = logged_in(place.begin(overlap=1), "boss", "admin")
    answer = upload(boss, "/p/p/import", "x.jsonl", f'{{"prompt": "Hello?", "weight": [{number}]}}', purpose="label")
    assert answer.status_code in (303, 422)  # a reader may take NaN for nothing
    place.add(ranked("bees", 3))
    url = boss.api("/api/projects/p/next").json()["url"]
    headers = {"Origin": "http://127.0.0.1:8765", "X-CSRF-Token": boss.csrf, "Content-Type": "application/json"}
    draft = f'{{"value": {{"note": {number}}}}}'
    assert boss.client.post(f"/api{url.replace('/a/', '/assignments/')}/draft", content=draft, headers=headers).status_code == 422
    place.label("boss", len(place.rows(tasks)))
    lines = [line for what in ("demonstrations", "comparisons") for line in boss.page(f"/p/p/export/{what}.jsonl").splitlines()]
    assert len(lines) == len(place.rows(tasks))
