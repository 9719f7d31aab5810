"""A real browser where something goes wrong, and where texts are long and the screen is small."""

import time
from typing import Any

import pytest
from label_browser import Watched, axe, rank_page, running, serious
from label_people import Place, prompt, ranked
from label_web import CODED, PASSWORD, invite
from sqlalchemy import update

from trimtab.label import threads
from trimtab.label.projects import publish_instructions
from trimtab.label.tables import labels, sessions, users
from trimtab.records import Comparison, Completion, Message, Prompt

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_logged_out_in_the_middle_of_it(lite_place: Place, started: Any) -> None:
    """The session ends while somebody writes; they log in again in another tab and submit the same page."""
    place = lite_place.begin(overlap=1)
    place.add(prompt("bears"))
    invite(place, "ada")
    with running(place.store) as url:
        ada = Watched(started, url)
        page = ada.page
        ada.log_in("ada", PASSWORD)
        page.click("text=Start")
        page.wait_for_selector("text=Write an answer")
        with place.store.write() as connection:
            connection.execute(update(sessions).values(revoked=time.time()))
        page.fill("#text", "Bears hibernate.")
        page.click("#submit")
        page.wait_for_selector("text=You are logged out")
        other = ada.context.new_page()
        other.goto(f"{url}/login")
        other.fill("input[name=name]", "ada")
        other.fill("input[name=password]", PASSWORD)
        other.click("main button")
        other.wait_for_url(f"{url}/")
        page.click("#submit")
        page.wait_for_selector("text=All done for now")
    assert [row.value["text"] for row in place.rows(labels)] == ["Bears hibernate."]


def test_leaving_while_a_label_is_on_its_way(lite_place: Place, started: Any) -> None:
    """Without a connection the page asks before it is closed; with one it does not ask where nothing is lost."""
    place = lite_place.begin(overlap=1)
    place.add(ranked("bees", 2), ranked("ants", 2))
    invite(place, "ada")
    with running(place.store) as url:
        ada = Watched(started, url)
        ada.log_in("ada", PASSWORD)
        ada.page.click("text=Start")
        ada.page.wait_for_selector("text=Compare two")
        ada.keys("ArrowLeft", "Enter")
        ada.page.wait_for_selector("text=1 done")
        assert ada.trouble == []
        ada.page.wait_for_load_state("load")  # its scripts are here
        ada.context.set_offline(True)
        ada.keys("ArrowLeft", "Enter")
        ada.page.wait_for_selector("text=No connection")
        ada.page.wait_for_timeout(1200)  # longer than a draft waits
        ada.page.close(run_before_unload=True)
        deadline = time.monotonic() + 10
        while not ada.trouble and time.monotonic() < deadline:
            ada.context.pages[0].wait_for_timeout(50)
        assert [said.split(":")[0] for said in ada.trouble] == ["dialog"]
        ada.context.set_offline(False)
        ada.page.wait_for_selector("text=All done for now")
    assert len(place.rows(labels)) == 2


WORD = "Donaudampfschifffahrtsgesellschaftskapitaen" * 3
LONG = "\n\n".join([
    "# A long one", "Once upon a time. " * 60, f"`{WORD}`", "```python\n" + "x = " + " + ".join(map(str, range(60))) + "\n```",
    "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n| " + " | ".join(["a wide cell of a table"] * 6) + " |", WORD,
    "1. one\n2. two\n\n> quoted\n\n- a\n  - b",
])  # fmt: skip
PAGES = ("/", "/p/p/instructions", "/p/p/questions", "/p/p/mine", "/account", "/p/p/dashboard", "/p/p/tasks", "/p/p/tasks/1", "/p/p/import",
         "/p/p/review", "/p/p/settings", "/p/p/guidelines", "/p/p/export", "/users", "/journal", "/projects/new", "/p/p/arena",
         "/a/1/questions")  # fmt: skip


def crowded(place: Place) -> None:
    """A project with long texts and names, and labels of three people."""
    answers = tuple(Completion(f"{n}. {LONG}", f"a-model-with-a-long-name-{n}") for n in range(9))
    talk = (Message("user", LONG), Message("assistant", LONG), Message("user", LONG))
    place.add(
        Comparison(Prompt("long", talk, use_case="open_qa"), answers, (None,) * 9),
        Comparison(Prompt("two", (Message("user", LONG),)), answers[:2], (None,) * 2),
        Prompt("write", (Message("user", LONG),)),
    )
    for name in ("boss", "bob", "cyd"):
        place.person(name, "admin")
        place.label(name, 3)
    with place.store.write() as connection:
        publish_instructions(connection, 1, LONG, None)
        threads.post(connection, 1, place.person("bob"), LONG)
        threads.post(connection, 1, place.person("bob"), LONG, 1)
        connection.execute(update(users).values(password=CODED, shown="Maximiliane Donaudampfschifffahrt-Leutheusser"))


@pytest.mark.parametrize(("size", "scheme"), [("phone", "light"), ("phone", "dark"), ("desk", "light")])
def test_long_texts_on_small_screens(lite_place: Place, started: Any, size: str, scheme: str) -> None:
    """No page is wider than the screen, and axe-core finds nothing serious where things scroll, either."""
    source = axe()
    place = lite_place.begin(overlap=4)
    crowded(place)
    invite(place, "ada", "admin")
    found: dict[str, Any] = {}
    with running(place.store) as url:
        ada = Watched(started, url, color_scheme=scheme, **(PHONE if size == "phone" else {}))
        page = ada.page
        ada.log_in("boss", PASSWORD)

        def look(name: str) -> None:
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            found[name] = [*serious(page, source), *([f"{wide} pixels too wide"] if wide > 0 else [])]

        for path in PAGES:
            page.goto(url + path)
            look(path)
        ada.context.clear_cookies()
        ada.log_in("ada", PASSWORD)
        page.goto(f"{url}/p/p/instructions")
        page.click("text=I have read this")
        page.click("text=Start")
        rank_page(ada, 9)
        look("rank")
        for p in range(9):
            page.dispatch_event(f"input[name=rating-{p}][value='4']", "click")
            page.dispatch_event(f"[data-put='{p}']", "click")
        page.dispatch_event("#diffs summary", "click")
        page.wait_for_selector(".diff")
        look("ordered")
        page.dispatch_event("#submit", "click")
        page.wait_for_selector("text=Compare two")
        look("compare")
        page.dispatch_event("input[value=tie]", "click")
        page.dispatch_event("#submit", "click")
        page.wait_for_selector("text=Write an answer")
        look("write")
        assert [t for t in ada.trouble if not t.startswith("dialog")] == []
    assert {name: issues for name, issues in found.items() if issues} == {}
