"""What people read is what was written: line breaks, the raw text, their own labels as they saw them."""

import re

import pytest
from label_people import Place, prompt, ranked
from label_web import Browser, logged_in, token_of

from trimtab.label import accounts
from trimtab.label.accounts import create_user, new_link
from trimtab.label.projects import publish_instructions
from trimtab.label.render import markdown
from trimtab.label.tables import assignments, sessions
from trimtab.records import Comparison, Completion, Message, Prompt

POEM = "Roses are red\nViolets are *blue*\n\nQ: 1+1\nA: 2"


def test_a_line_is_a_line() -> None:
    """A poem and a few-shot prompt keep their single line breaks; code keeps its own."""
    assert markdown(POEM) == "<p>Roses are red<br>\nViolets are <em>blue</em></p>\n<p>Q: 1+1<br>\nA: 2</p>\n"
    assert markdown("```\na\nb\n```") == "<pre><code>a\nb\n</code></pre>\n"


def poems(place: Place) -> Browser:
    answers = (Completion(POEM, "m"), Completion("| a |\n", "n"))
    place.begin(overlap=1).add(Comparison(Prompt("p", (Message("user", POEM),)), answers, (None, None)), prompt("bees"))
    return logged_in(place, "ada")


def test_prompts_answers_and_labels_can_be_read_raw(lite_place: Place) -> None:
    """On a labeler's task and on the review page each text stands behind a Raw switch as it was written."""
    ada = poems(lite_place)
    page = ada.page(ada.post("/p/p/start").headers["location"])
    lite_place.label("ada")
    lite_place.label("ada", value={"text": POEM})
    boss = logged_in(lite_place, "boss", "researcher")
    for html, texts in ((page, 2), (boss.page("/p/p/tasks/1"), 2), (boss.page("/p/p/tasks/2"), 1)):
        assert html.count(f'<pre class="raw" hidden>{POEM}</pre>') == texts and "raw-switch" in html


def test_ones_own_labels_are_shown_as_they_were_given(place: Place) -> None:
    """In the letters of the screen, with what was not ranked; each opens, without models, and leads on."""
    place.begin(overlap=1, seed=7).add(ranked("bees", 4), ranked("ants", 3))
    ada = logged_in(place, "ada")
    address = ada.post("/p/p/start").headers["location"]
    given = {"ranks": [2, 1, None, 3], "ratings": [3, 6, 1, 2], "flags": [[], ["opinion"], [], []], "note": "my note"}
    place.submit("ada", int(address.rsplit("/", 1)[1]), given)
    assert place.rows(assignments)[0].shown != [0, 1, 2, 3]  # otherwise both orders read alike
    html = ada.page("/p/p/mine")
    assert "B &gt; A &gt; D; not ranked: C" in html and f'href="{address}"' in html
    html = ada.page(address)
    first = place.rows(assignments)[0].shown[0]
    assert "B &gt; A &gt; D; not ranked: C" in html and "my note" in html and "rated 6 opinion" in html and "model-" not in html
    assert html.index(f"answer {first} about bees") < html.index("rated 6")
    assert ada.post("/p/p/start").headers["location"] != address


def test_an_answer_finds_its_asker(place: Place) -> None:
    """The number of unread messages stands on the first page, in Yours and in Questions until the thread was read; once for staff, too."""
    place.begin(overlap=1).add(ranked("bees", 2))
    ada, bob, boss = logged_in(place, "ada"), logged_in(place, "bob"), logged_in(place, "boss", "researcher")
    badge = '<span class="badge">1<span class="unseen"> new</span></span>'
    address = ada.post("/p/p/start").headers["location"]
    ada.post(f"{address}/questions", {"text": "What are bees?"})
    place.label("ada")
    assert badge in boss.page("/") and badge in boss.page("/p/p/dashboard") and badge not in ada.page("/") and badge not in bob.page("/")
    assert boss.page("/p/p/questions").count(badge) == 2  # in the navigation and beside the task
    boss.page("/p/p/tasks/1")
    assert badge not in boss.page("/")
    boss.post("/p/p/tasks/1/questions", {"text": "Insects."})
    for path in ("/", "/p/p/mine", "/p/p/questions"):
        assert badge in ada.page(path) and badge not in bob.page(path)
    assert "Insects." in ada.page(f"{address}/questions")
    assert all(badge not in ada.page(path) for path in ("/", "/p/p/mine", "/p/p/questions"))
    boss.post("/p/p/questions", {"text": "Hello all"})
    assert badge in bob.page("/") and "Hello all" in bob.page("/p/p/questions") and badge not in bob.page("/")


def test_the_onboarding_counts_and_says_when_it_is_over(place: Place) -> None:
    """1 of 2, 2 of 2, passed; whoever failed is offered nothing that does not work."""
    place.begin(overlap=2, pass_score=0.9).add(ranked("one", 2, [1, 2]), ranked("two", 2, [1, 2]), purpose="screening")
    place.add(ranked("bees", 3))

    def through(name: str, wrong: bool) -> tuple[Browser, list[str], str]:
        browser, seen = logged_in(place, name), []
        url = browser.post("/p/p/start").headers["location"]
        for i in range(2):
            seen += [step for step in ("1 of 2", "2 of 2") if f"onboarding, {step}" in browser.page(url)]
            number = int(url.rsplit("/", 1)[1])
            ranks = [index + 1 for index in place.row(number).shown]
            value = {"ranks": [3 - r for r in ranks] if wrong else ranks}
            url = browser.api(f"/api/assignments/{number}/submit", {"value": value, "key": f"{name}-key-{i}-0"}).json()["url"]
        return browser, seen, url

    ada, seen, url = through("ada", wrong=False)
    assert seen == ["1 of 2", "2 of 2"] and url.endswith("?done=passed") and "You passed the onboarding" in ada.page(url)
    bob, seen, url = through("bob", wrong=True)
    assert re.search(r'<button class="primary" disabled>', bob.page("/")) and "disabled" not in ada.page("/")
    for path in (url, "/p/p/mine"):
        html = bob.page(path)
        assert "pass the onboarding" in html or "not passed" in html
        assert "Next task" not in html and "Undo the last" not in html


def test_whoever_has_read_the_instructions_goes_on_to_the_work(lite_place: Place) -> None:
    lite_place.begin().add(ranked("bees", 3))
    with lite_place.store.write() as connection:
        publish_instructions(connection, 1, "Be kind", None)
    assert logged_in(lite_place, "ada").post("/p/p/instructions", {"version": "1"}).headers["location"].startswith("/a/")
    assert logged_in(lite_place, "boss", "researcher").post("/p/p/instructions", {"version": "1"}).headers["location"] == "/"


def test_after_the_first_password_the_log_in_knows_the_name(lite_place: Place) -> None:
    with lite_place.begin().store.write() as connection:
        token = new_link(connection, create_user(connection, "anna", "labeler"))
    browser = Browser(lite_place.store)
    browser.csrf = token_of(browser.page(f"/setup/{token}"))
    onward = browser.post(f"/setup/{token}", {"password": "anna writes well", "again": "anna writes well"}).headers["location"]
    html = browser.page(onward)
    assert "Your password is set" in html and 'value="anna"' in html
    assert 'value=""' in browser.page("/login?name=%3Cb%3E")


def test_last_here_is_at_most_a_minute_late(lite_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    token = logged_in(lite_place, "ada").client.cookies["trimtab"]
    now = lite_place.rows(sessions)[0].seen
    for later, seen in ((30, 0), (59, 59), (118, 118)):
        monkeypatch.setattr(accounts.time, "time", lambda later=later: now + later)
        assert accounts.who(lite_place.store, token) is not None
        assert lite_place.rows(sessions)[0].seen == now + seen
