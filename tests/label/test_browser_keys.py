"""A real browser where keys and tabs get in each other's way: dialogs, a second tab, the arena's votes, previews."""

from typing import Any

from label_browser import Watched, rank_page, running
from label_people import Place, prompt, ranked
from label_web import PASSWORD, invite
from test_browser import Says

from trimtab.label.projects import publish_instructions
from trimtab.label.tables import assignments, battles, instructions, labels


def begun(started: Any, url: str, place: Place, name: str = "ada", role: str = "labeler") -> Watched:
    invite(place, name, role)
    found = Watched(started, url)
    found.log_in(name, PASSWORD)
    return found


def test_keys_after_a_dialog_are_for_the_task(lite_place: Place, started: Any) -> None:
    """Esc closes the list of keys, Enter does not open it again, digits rate; S skips, U takes the last label back."""
    place = lite_place.begin(overlap=1)
    place.add(ranked("bees", 3), ranked("ants", 3), ranked("flies", 3))
    with running(place.store) as url:
        ada = begun(started, url, place)
        page = ada.page
        page.click("text=Start")
        rank_page(ada, 3)
        page.click("text=Keys >> nth=0")
        assert "skip the task" in page.inner_text("#keys") and "undo the last label" in page.inner_text("#keys")
        ada.keys("Escape", "5", "5", "5", "a", "b", "c")
        assert page.inner_text("#written") == "A > B > C" and not page.is_visible("#keys")
        ada.keys("Enter")
        page.wait_for_selector("text=1 done")
        ada.keys("u")
        page.wait_for_selector("text=Your last label is back")
        ada.keys("Enter")
        page.wait_for_selector("text=1 done")
        ada.keys("s")
        page.click("text=Not my field")
        page.click("text=Skip the task")
        page.wait_for_selector(".answer:has-text('flies')")
        assert ada.trouble == []
    assert [row.state for row in place.rows(assignments)] == ["done", "skipped", "leased"]


def test_a_second_tab_leads_on(lite_place: Place, started: Any) -> None:
    """What was labelled in another tab is not labelled again, and the page has a way on."""
    place = lite_place.begin(overlap=1)
    place.add(ranked("bees", 2), ranked("ants", 2))
    with running(place.store) as url:
        ada = begun(started, url, place)
        page = ada.page
        page.click("text=Start")
        page.wait_for_selector("text=Compare two")
        other = ada.context.new_page()
        other.goto(page.url)
        other.click("text=Equally good")
        other.click("#submit")
        other.wait_for_selector("text=1 done")
        ada.keys("ArrowLeft", "Enter")
        page.wait_for_selector("text=you have labelled this task already")
        page.click("text=Go on to the next task")
        page.wait_for_selector("text=1 done")
        assert ada.trouble == [] and page.url == other.url
    assert [row.value["ranks"] for row in place.rows(labels)] == [[1, 1]]


def test_the_arena_waits_for_a_vote_and_survives_a_reload(lite_place: Place, started: Any) -> None:
    place = lite_place.begin()
    with running(place.store, {"crimson": Says("I say one."), "azure": Says("I say two.")}) as url:
        ada = begun(started, url, place)
        page = ada.page
        page.click("text=Arena")
        page.fill("#text", "Hello\nyou")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=Both bad")
        ada.keys("Enter")  # nothing is voted for
        page.reload()
        page.wait_for_selector("text=Both bad")
        assert page.locator(".who").all_inner_texts() == ["hidden", "hidden"] and not page.is_visible("#say")
        assert "crimson" not in page.content() and "azure" not in page.content()
        page.click("text=Both bad")
        page.wait_for_selector("text=goes on from answer A")
        page.reload()
        page.wait_for_selector("text=goes on from answer A")
        assert sorted(page.locator(".who").all_inner_texts()) == ["azure", "crimson"] and page.is_disabled("text=B is better")
        first = page.inner_text(".answer .text >> nth=0")
        page.fill("#text", "And now?")
        page.click("text=Send")
        page.wait_for_selector(".bout >> nth=1")
        page.reload()
        page.wait_for_selector(".bout")
        said = page.inner_text("#turns .asked >> nth=0")
        assert "Hello\nyou" in said and first in said and page.inner_text(".you") == "And now?"
        page.goto(f"{url}/p/p/arena?battle=99")
        assert "no such conversation of yours" in page.inner_text("main") and ada.trouble == []
    rows = place.rows(battles)
    assert [row.choice for row in rows] == ["bad", None] and [len(row.messages) for row in rows] == [1, 3]


def test_previews_words_and_the_tab_one_is_on(lite_place: Place, started: Any) -> None:
    """Instructions can be seen before they are published, a dash is no word, a phone's navigation shows where one is."""
    place = lite_place.begin()
    place.add(prompt("bees"))
    with place.store.write() as connection:
        publish_instructions(connection, 1, "Be kind.", None)
    with running(place.store) as url:
        boss = begun(started, url, place, "boss", "admin")
        page = boss.page
        page.goto(f"{url}/p/p/guidelines")
        page.fill("textarea[name=text]", "# Be **kind**\nand read")
        page.click("text=Preview")
        page.wait_for_selector("#preview h3 strong")
        size = "e => parseFloat(getComputedStyle(e).fontSize)"
        assert page.eval_on_selector("#preview h3", size) > page.eval_on_selector("#preview p", size)
        page.click("text=Preview")
        page.click("button:has-text('Publish')")
        page.wait_for_selector("text=version 2, published")
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"{url}/p/p/export")
        box = page.locator(".tabs [aria-current]").bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= 390
        page.goto(f"{url}/p/p/instructions")
        page.click("text=I have read this")
        page.click("text=Start")
        page.fill("#text", "Bees - they -- \u00e9t\u00e9 fly 7 -")
        assert page.inner_text("#words") == "5 words"
        assert boss.trouble == []
    assert len(place.rows(instructions)) == 2
