"""A real browser plays a labeler's day and an admin's; keys are counted, axe-core looks, 200 strings try to run."""

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from label_browser import Watched, axe, rank_page, running, serious
from label_league import say
from label_people import Place, prompt, ranked
from label_web import CODED, PASSWORD, invite
from label_xss import STRINGS
from sqlalchemy import insert, select, update
from tiny_models import save_tiny_policy

from trimtab.cli import main
from trimtab.common.rng import generator
from trimtab.data.files import write_records
from trimtab.data.formats import read_comparisons
from trimtab.label import threads
from trimtab.label.accounts import create_user
from trimtab.label.projects import publish_instructions
from trimtab.label.store import Store
from trimtab.label.tables import assignments, battles, labels, tasks, users
from trimtab.records import Comparison, Completion, Message, Prompt

SHOTS = os.environ.get("LABEL_SHOTS", "")  # a folder to keep the screenshots in


def shoot(watched: Watched, folder: Path, name: str) -> None:
    file = folder / f"{name}.png"
    watched.page.screenshot(path=file)
    assert file.stat().st_size > 5000
    if SHOTS:
        shutil.copy(file, Path(SHOTS) / file.name)


def test_a_labelers_day(lite_place: Place, started: Any, tmp_path: Path) -> None:
    """Onboarding, a demonstration, rankings with ties by keys and by drag, a comparison, skip, undo, a thread, log out."""
    place = lite_place.begin(overlap=1, pass_score=0.5)
    place.add(ranked("known", 2, [1, 2]), purpose="screening")
    place.add(
        prompt("bears"),
        sky(),
        ranked("ants", 3),
        ranked("flies", 2),
        ranked("moths", 3),
        ranked("wasps", 3),
    )
    with place.store.write() as connection:
        publish_instructions(connection, place.project.id, "# Read me\n\nBe **kind**.", None)
    invite(place, "ada")
    with running(place.store) as url:
        ada = Watched(started, url)
        page = ada.page
        ada.log_in("ada", PASSWORD)
        page.click("text=Read the instructions >> nth=-1")
        page.click("text=I have read this")
        # onboarding: a known pair, by the arrow of the better answer
        page.wait_for_selector("text=onboarding")
        first = page.inner_text(".answer >> nth=0")
        ada.keys("ArrowLeft" if "answer 0 about" in first else "ArrowRight", "Enter")
        # a demonstration
        page.wait_for_selector("text=Write an answer")
        page.fill("#text", "Bears **hibernate**.")
        page.click("text=Preview")
        page.wait_for_selector("#preview strong")
        page.click("text=Preview")
        page.wait_for_selector("text=Draft kept")
        page.reload()
        assert page.input_value("#text") == "Bears **hibernate**."
        page.focus("#text")
        page.keyboard.press("Control+Enter")
        # a ranking by keys: ratings, a flag, order with a tie
        rank_page(ada, 4)
        texts = page.locator(".answer .text").all_inner_texts()
        crayons, colours, scatter, ocean = (
            next(i for i, t in enumerate(texts) if word in t) for word in ("crayon", "all colours", "Rayleigh", "ocean")
        )
        rated = {crayons: "7", colours: "6", scatter: "4", ocean: "2"}
        ada.keys(
            *["ArrowRight"] * ocean,
            "f",
            "Tab",
            "Tab",
            "Space",
            "Escape",
            *["ArrowLeft"] * ocean,
            *(rated[i] for i in range(4)),
        )
        page.wait_for_selector("text=Step 2")
        letters = "abcd"
        ada.keys(letters[crayons], "=", letters[colours], letters[scatter])
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        shoot(ada, tmp_path, "rank")
        said = f"{letters[crayons]} = {letters[colours]} > {letters[scatter]}".upper()
        assert page.inner_text("#written") == said
        ada.keys("Enter")
        page.wait_for_selector(f"text=Not placed yet: {letters[ocean].upper()}")
        ada.keys(letters[ocean], "Enter")
        # by drag: C first, then A onto C (a tie), then B before both
        rank_page(ada, 3)
        for n in (1, 2, 3):
            page.click(f".answer >> nth={n - 1} >> .scale label >> nth={n}")
        drag(page, "#tray .chip[data-position='2']", ".gap")
        drag(page, "#tray .chip[data-position='0']", ".placed[data-beside='2']")
        drag(page, "#tray .chip[data-position='1']", ".gap >> nth=0")
        assert page.inner_text("#written") == "B > C = A"
        page.click("#diffs summary")
        page.wait_for_selector(".diff >> nth=1")
        page.click("#submit")
        # a comparison, then undone and said again
        page.wait_for_selector("text=Compare two answers")
        ada.keys("=", "Enter")
        rank_page(ada, 3)
        page.click("text=Undo last")
        page.wait_for_selector("text=Your last label is back")
        assert page.is_checked("input[value=tie]")
        ada.keys("ArrowRight", "Enter")
        # a question, a skip
        rank_page(ada, 3)
        page.click("button:has-text('Questions')")
        page.fill("#questions textarea", "What are moths?")
        page.click("#questions >> text=Send")
        page.wait_for_selector("#questions >> text=What are moths?")
        page.keyboard.press("Escape")
        page.click("text=Skip")
        page.click("text=Not my field")
        with page.expect_navigation():
            page.click("text=Skip the task")
        # the last one: an answer that cannot be ranked, then nothing is left
        rank_page(ada, 3)
        ada.keys("2", "2", "2", "a", "0", "b", "c", "Enter")
        page.wait_for_selector("text=All done for now")
        page.click("text=Log out")
        page.wait_for_selector("text=Password")
        assert ada.trouble == []
    kept = {row.task_id: row for row in place.rows(labels) if row.withdrawn is None}
    shown = {row.task_id: row for row in place.rows(assignments)}
    assert len(kept) == 6 and shown[6].state == "skipped" and shown[6].reason == "Not my field"
    assert kept[2].value["text"] == "Bears **hibernate**."
    on_screen = [kept[3].value["ranks"][i] for i in shown[3].shown]
    assert [on_screen[i] for i in (crayons, colours, scatter, ocean)] == [1, 1, 2, 3]
    assert kept[3].value["ratings"] == [6, 2, 4, 7]  # in the order of the completions
    assert kept[3].value["flags"] == [[], ["made_up"], [], []]
    assert [kept[4].value["ranks"][i] for i in shown[4].shown] == [2, 1, 2]
    assert [kept[5].value["ranks"][i] for i in shown[5].shown] == [2, 1]
    assert [kept[7].value["ranks"][i] for i in shown[7].shown] == [1, None, 2]
    assert all(row.seconds > 0 and row.instructions == 1 for row in kept.values())


def sky() -> Comparison:
    """A question with four answers, one of them wrong: what the picture in the README shows."""
    question = "Why is the sky blue? Explain it to a ten-year-old in a few sentences."
    answers = (
        "Sunlight looks white, but it is a mix of **all colours**. When it meets the air, tiny particles bounce the blue part around "
        "in every direction much more than the red part. So wherever you look, some blue light reaches your eyes.",
        "The sky is blue because it reflects the ocean. When you are far from the sea the sky is less blue.",
        "Because of *Rayleigh scattering*: the scattered intensity goes as `1 / wavelength^4`, hence shorter wavelengths dominate.",
        "Imagine sunlight as a box of crayons:\n\n1. The air loves to play catch with the **blue** crayon.\n2. It throws it back and forth "
        "across the whole sky.\n3. The other colours mostly fly straight through.\n\nThat is why you see blue everywhere!",
    )
    models = ("sft", "base", "ppo", "dpo")
    completions = tuple(Completion(a, m) for a, m in zip(answers, models, strict=True))
    return Comparison(Prompt("sky", (Message("user", question),), use_case="open_qa"), completions, (None,) * 4)


def drag(page: Any, chip: str, onto: str) -> None:
    """Presses, moves in steps and lets go, as a hand does."""
    page.locator(chip).scroll_into_view_if_needed()
    start = page.locator(chip).bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"] + 20, start["y"] - 10, steps=3)
    end = page.locator(onto).first.bounding_box()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=6)
    page.mouse.up()


def test_an_admins_day(lite: Store, started: Any, tmp_path: Path) -> None:
    """A first link, a project, an import, gold, the dashboard, an export, and a reward model trained on it."""
    place = Place(lite)
    invite(place, "boss", "admin")
    write_records(tmp_path / "answers.jsonl", [ranked(f"item {i}", 4 + i % 4, use_case="open_qa") for i in range(60)])
    with running(place.store) as url:
        boss = Watched(started, url)
        page = boss.page
        boss.log_in("boss", PASSWORD)
        page.click("text=New project")
        page.fill("input[name=name]", "p")
        page.fill("input[name=title]", "Insects")
        page.click("text=Begin")
        page.set_input_files("input[type=file]", str(tmp_path / "answers.jsonl"))
        page.fill("input[name=overlap]", "3")
        page.click("button:has-text('Import')")
        page.wait_for_selector("text=60 tasks added")
        work(place)
        page.click("text=Review")
        page.click("text=rank 1")
        page.fill("input[name=rank-0]", "1")
        page.fill("input[name=rank-1]", "2")
        page.click("button:has-text('Settle')")
        page.wait_for_selector("text=The task is settled")
        page.select_option("select[name=purpose]", "gold")
        page.click("form:has(select[name=purpose]) button")
        page.wait_for_selector(".tag:has-text('gold')")
        page.click("text=Dashboard")
        page.wait_for_selector("text=Two labelers order a pair alike")
        shoot(boss, tmp_path, "dashboard")
        page.click("text=Export")
        with page.expect_download() as got:
            page.click(".card:has-text('Comparisons') a:has-text('JSONL')")
        got.value.save_as(tmp_path / "export.jsonl")
        page.click("text=People")
        page.fill("input[name=name]", "dan")
        page.click("text=Make a link")
        assert re.fullmatch(rf"{url}/setup/[\w-]+", page.inner_text("#link"))
        assert boss.trouble == []
    found = read_comparisons(tmp_path / "export.jsonl")
    assert len(found) == 147 and len({c.labeler for c in found}) == 5  # 150 less the three of the gold item
    save_tiny_policy(tmp_path / "tiny")
    words = ["batch_size=49", "epochs=1", "max_length=256", f"out={tmp_path / 'reward'}"]
    assert main(["reward", f"model={tmp_path / 'tiny'}", f"data={tmp_path / 'export.jsonl'}", *words]) == 0
    assert (tmp_path / "reward/model/reward.json").exists()


def work(place: Place) -> None:
    """Five people label thirty tasks each; they see the same in an answer but for noise, and one sometimes clicks anything."""
    rng = generator(0, "work")
    quality: dict[int, Any] = {}
    people = ["mia", "noor", "otto", "pia", "sam"]
    for _ in range(30):
        for name in people:
            given = place.next(name).assignment
            assert given is not None
            row = place.row(given)
            of = quality.setdefault(row.task_id, rng.normal(size=len(row.shown)))
            ranks, ratings = say(of, name == "sam" and rng.random() < 0.5, rng, 0.7, False)
            value = {"ranks": [ranks[i] for i in row.shown], "ratings": [ratings[i] for i in row.shown]}
            place.submit(name, given, value, seconds=float(rng.lognormal(3.6, 0.4)), now=time.time() + 200)
    with place.store.write() as connection:
        for row in connection.execute(select(labels.c.id)).all():
            days = float(rng.exponential(2.5))
            connection.execute(update(labels).where(labels.c.id == row.id).values(created=time.time() - 86400 * days))


def test_seven_answers_in_few_keys(lite_place: Place, started: Any) -> None:
    """Seven ratings, then order with two ties and submit: ten keys."""
    place = lite_place.begin(overlap=1)
    place.add(ranked("bees", 7))
    invite(place, "ada")
    with running(place.store) as url:
        ada = Watched(started, url)
        ada.log_in("ada", PASSWORD)
        ada.page.click("text=Start")
        rank_page(ada, 7)
        ada.keys("1", "2", "3", "4", "5", "6", "7")
        beyond = ada.keys("4", "3", "=", "1", "2", "=", "7", "5", "6", "Enter")
        ada.page.wait_for_selector("text=All done for now")
        assert ada.trouble == []
    assert beyond <= 15
    row, shown = place.rows(labels)[0].value, place.rows(assignments)[0].shown
    assert [row["ranks"][i] for i in shown] == [2, 3, 2, 1, 4, 5, 3]
    assert [row["ratings"][i] for i in shown] == [1, 2, 3, 4, 5, 6, 7]


def test_by_arrows_and_a_screen_readers_buttons(lite_place: Place, started: Any) -> None:
    """Without single keys and without a mouse: radio buttons, the Place buttons, arrows on the chips."""
    place = lite_place.begin(overlap=1)
    place.add(ranked("bees", 3))
    invite(place, "ada")
    with running(place.store) as url:
        ada = Watched(started, url)
        page = ada.page
        ada.log_in("ada", PASSWORD)
        page.evaluate("localStorage.setItem('single-keys', 'off')")
        page.click("text=Start")
        rank_page(ada, 3)
        ada.keys("5", "c")
        assert page.inner_text("#written") == ""
        for p in range(3):
            page.focus(f"input[name=rating-{p}][value='4']")
            page.keyboard.press("Space")
            page.focus(f"[data-put='{p}']")
            page.keyboard.press("Enter")
        assert page.inner_text("#written") == "A > B > C"
        page.focus("#tiers .chip[data-position='2']")
        ada.keys("ArrowUp")
        assert page.inner_text("#written") == "A > B = C"
        ada.keys("ArrowUp")
        assert page.inner_text("#written") == "A > C > B"
        assert "2nd" in page.get_attribute("#tiers .chip[data-position='2']", "aria-label")
        page.focus("#submit")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=All done for now")
        assert ada.trouble == []


def test_no_connection_then_one(lite_place: Place, started: Any) -> None:
    """What is submitted while the network is down arrives once, when it is back."""
    place = lite_place.begin(overlap=1)
    place.add(ranked("bees", 2))
    invite(place, "ada")
    with running(place.store) as url:
        ada = Watched(started, url)
        ada.log_in("ada", PASSWORD)
        ada.page.click("text=Start")
        ada.page.wait_for_selector("text=Compare two")
        ada.page.wait_for_load_state("load")  # its scripts are here
        ada.context.set_offline(True)
        ada.keys("ArrowLeft", "Enter")
        ada.page.wait_for_selector("text=No connection")
        ada.context.set_offline(False)
        ada.page.wait_for_selector("text=All done for now")
    assert len(place.rows(labels)) == 1


class Says:
    """A model that says one thing."""

    def __init__(self, text: str) -> None:
        self.text = text

    def answers(self, prompts: Any, k: int, seed: int) -> list[list[Completion]]:
        return [[Completion(self.text)] * k for _ in prompts]


def test_the_arena(lite_place: Place, started: Any) -> None:
    """Two hidden answers, a vote, the names; from then on the buttons are dead."""
    place = lite_place.begin()
    invite(place, "ada")
    with running(place.store, {"crimson": Says("I say **one**."), "azure": Says("I say two.")}) as url:
        ada = Watched(started, url)
        page = ada.page
        ada.log_in("ada", PASSWORD)
        page.click("text=Arena")
        page.fill("#text", "Hello <b>you</b>")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=A is better")
        assert "crimson" not in page.content() and "azure" not in page.content()
        page.click("text=A is better")
        page.wait_for_selector(".answer.chosen")
        names = page.locator(".who").all_inner_texts()
        assert sorted(names) == ["azure", "crimson"]
        assert page.is_disabled("text=B is better") and page.inner_text(".you") == "Hello <b>you</b>"
        page.fill("#text", "And now?")
        page.click("text=Send")
        page.wait_for_selector(".bout >> nth=1")
        assert page.locator(".bout").nth(1).locator(".who").all_inner_texts() == ["hidden", "hidden"]
        assert ada.trouble == []
    assert [row.choice for row in place.rows(battles)] == ["a", None]


PAGES = ("/", "/p/p/instructions", "/p/p/questions", "/p/p/mine", "/account", "/p/p/dashboard", "/p/p/tasks", "/p/p/tasks/1", "/p/p/import",
         "/p/p/review", "/p/p/settings", "/p/p/guidelines", "/p/p/export", "/users", "/journal", "/projects/new", "/p/p/arena")  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(lite_place: Place, started: Any, scheme: str) -> None:
    source = axe()
    place = lite_place.begin(overlap=2)
    place.add(ranked("bees", 4), ranked("flies", 2), prompt("bears"))
    with place.store.write() as connection:
        publish_instructions(connection, place.project.id, "# Read me", None)
        connection.execute(update(users).values(password=CODED))
    invite(place, "ada", "admin")
    found = {}
    with running(place.store) as url:
        ada = Watched(started, url, color_scheme=scheme)
        ada.page.goto(f"{url}/login")
        found["/login"] = serious(ada.page, source)
        ada.log_in("ada", PASSWORD)
        for path in PAGES:
            ada.page.goto(url + path)
            found[path] = serious(ada.page, source)
        ada.page.goto(f"{url}/p/p/instructions")
        ada.page.click("text=I have read this")
        ada.page.click("text=Start")
        rank_page(ada, 4)
        found["rank"] = serious(ada.page, source)
        ada.keys("5", "5", "5", "5", "a", "b", "=", "c")
        found["ordering"] = serious(ada.page, source)
        ada.keys("d", "Enter")
        ada.page.wait_for_selector("text=Compare two")
        found["compare"] = serious(ada.page, source)
        ada.keys("=", "Enter")
        ada.page.wait_for_selector("text=Write an answer")
        found["write"] = serious(ada.page, source)
    assert {path: issues for path, issues in found.items() if issues} == {}


def test_two_hundred_strings_run_nowhere(lite_place: Place, started: Any, tmp_path: Path) -> None:
    """In prompts, answers, names, threads, notes, instructions and titles; a script that the policy had to block counts, too."""
    place = lite_place.begin(overlap=1)
    for i in range(0, 200, 9):
        part = STRINGS[i : i + 9]
        answers = tuple(Completion(s, s) for s in (*part, "plain"))[:9]
        place.add(
            Comparison(
                Prompt(part[0], (Message("user", "\n\n".join(part)),), use_case=part[0][:60]),
                answers,
                (None,) * len(answers),
            )
        )
    invite(place, "boss", "admin")
    with place.store.write() as connection:
        for i, s in enumerate(STRINGS):
            user = create_user(connection, f"u{i}", "labeler", s[:128])
            threads.post(connection, 1, user, s)
            threads.post(connection, 1, user, s, 1)
        publish_instructions(connection, 1, "\n\n".join(STRINGS), None)
        connection.execute(insert(tasks).values(
            project_id=1, key="w", kind="write", purpose="label", prompt={"id": "w", "messages": [{"role": "user", "content": STRINGS[0]}]},
            completions=[], overlap=1, slots=1, priority=9.0, position=0.0, closed=False, created=0.0, use_case=STRINGS[2][:60],
        ))  # fmt: skip
    with running(place.store) as url:
        boss = Watched(started, url)
        page = boss.page
        boss.log_in("boss", PASSWORD)

        def look(path: str) -> None:
            page.goto(url + path)
            page.wait_for_load_state("load")
            for raw in page.locator(".raw-switch").all():
                raw.click()
            assert page.evaluate(
                "window.__ran === undefined && document.querySelectorAll('main script').length === 0"
            ), path

        for path in PAGES:
            look(path)
        page.goto(f"{url}/p/p/instructions")
        page.click("text=I have read this")
        page.click("text=Start")
        page.wait_for_selector("text=Write an answer")
        page.fill("#text", "\n\n".join(STRINGS))
        page.click("text=Preview")
        page.wait_for_selector("#preview p")
        page.fill("#note", STRINGS[3])
        page.click("#submit")
        for _ in range(3):
            page.wait_for_selector("text=Rank 9")
            for p in range(9):
                page.check(f"input[name=rating-{p}][value='4']", force=True)
                page.click(f"[data-put='{p}']")
            page.click("#diffs summary")
            page.wait_for_selector(".diff")
            assert page.evaluate("window.__ran === undefined")
            page.fill("#note", STRINGS[5])
            before = page.url
            page.click("#submit")
            page.wait_for_url(lambda now, before=before: now != before)
        for number in range(1, 24):
            look(f"/p/p/tasks/{number}")
        for path in (
            "/p/p/mine",
            "/p/p/review",
            "/p/p/tasks?find=" + "%3Cscript%3Ealert(1)",
            "/p/p/dashboard",
            "/?done=<script>alert(1)</script>",
        ):
            look(path)
        assert boss.trouble == []
    rows = [json.loads(json.dumps(r.value)) for r in place.rows(labels)]
    assert len(rows) == 4
