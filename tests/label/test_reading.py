"""What people read is what was written: line breaks, the raw text, their own labels as they saw them."""

from label_people import Place, prompt
from label_web import Browser, logged_in

from trimtab.label.render import markdown
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
