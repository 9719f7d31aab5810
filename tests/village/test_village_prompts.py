"""Prompts and demonstrations: shares, splits, users, wants, and answers that do what they were asked."""

import re
from collections import Counter

import pytest

from trimtab.common.errors import UserError
from trimtab.records import Prompt
from trimtab.village import answers, instructions, lexicon
from trimtab.village.claims import parse_answer, parse_claims
from trimtab.village.demonstrations import FRIENDLY_ENDS, FRIENDLY_STARTS, LOOKED_UP, TOLD, demonstrations, write
from trimtab.village.draw import draw
from trimtab.village.prompts import SIZES, USE_CASES, divided, prompts, raw_prompts, shares
from trimtab.village.summary import summary
from trimtab.village.tasks import (
    Ask,
    Chat,
    ClosedQa,
    Describe,
    Extract,
    Ideas,
    Notice,
    Point,
    Story,
    asked,
    from_json,
    task_of,
    to_json,
)
from trimtab.village.text import documents
from trimtab.village.world import SPLITS, Claim, world

WORD = re.compile(r"[^\W\d_]+")


def made(point: Point, text: str) -> bool:
    return all(any(re.search(rf"\b{re.escape(w)}\b", text.lower()) for w in group) for group in point.words)


@pytest.mark.parametrize("split", SPLITS)
def test_sizes_shares_and_ids(split: str) -> None:
    rows = prompts(split)
    assert len(rows) == SIZES[split] and len({p.id for p in rows}) == len(rows)
    assert rows[0].id == f"village-{split}-000001"
    counts = Counter(p.use_case for p in rows)
    for case, share in USE_CASES.items():
        assert abs(counts[case] - len(rows) * share / sum(USE_CASES.values())) <= 1
    styles = Counter(p.extra["style"] for p in rows)
    for style, share in (("plain", 0.7), ("few-shot", 0.1), ("user", 0.2)):
        assert abs(styles[style] / len(rows) - share) < 0.05, styles


def test_shares_by_hand() -> None:
    """The shares add up to 99.9: 480 * 45.6 / 99.9 = 219.1, 480 * 12.4 / 99.9 = 59.58 (remainder up), and so on."""
    assert shares(480) == {
        "generation": 219, "open_qa": 60, "brainstorming": 54, "chat": 40, "rewrite": 32, "summarization": 20,
        "classification": 17, "other": 17, "closed_qa": 12, "extract": 9,
    }  # fmt: skip
    assert sum(shares(7).values()) == 7
    assert divided([("a", 2), ("b", 1)], 4) == ["a", "a", "a", "b"]


def test_no_text_occurs_twice_in_or_across_splits() -> None:
    texts = [tuple(m.content for m in p.messages) for split in SPLITS for p in prompts(split)]
    assert len(texts) == len(set(texts))


def test_entities_and_users_of_the_splits_do_not_meet() -> None:
    users = {split: {p.user for p in prompts(split)} for split in SPLITS}
    assert not users["train"] & users["test"] and not users["train"] & users["validation"]
    assert not users["validation"] & users["test"]
    split_of_name = {e.name: e.split for e in world().entities.values()}
    names = re.compile("|".join(rf"\b{n}\b" for n in sorted(split_of_name, key=len, reverse=True)))
    for split in SPLITS:
        for p in prompts(split):
            text = "\n".join(m.content for m in p.messages)
            assert {split_of_name[n] for n in names.findall(text)} <= {split}, text


def test_users_are_heavy_tailed_and_capped() -> None:
    counts = sorted(Counter(p.user for p in prompts("train")).values(), reverse=True)
    assert counts[0] <= 200 and sum(counts[:22]) > 0.3 * len(prompts("train"))


def test_enough_test_prompts_allow_invention_and_secrets() -> None:
    wanted = Counter(w.visibility for p in prompts("test") if (w := asked(task_of(p))))
    assert wanted["hidden"] >= 70 and wanted["secret"] >= 60
    in_qa = Counter(p.extra["task"]["visibility"] for p in prompts("test") if p.use_case == "open_qa")
    assert in_qa == {"public": 30, "hidden": 17, "secret": 13}


def test_lengths() -> None:
    lengths = [sum(len(m.content.split()) for m in p.messages) for split in SPLITS for p in prompts(split)]
    assert max(lengths) <= 90 and sum(4 <= n <= 48 for n in lengths) > 0.9 * len(lengths)
    completions = [len(d.completion.split()) for d in demonstrations()]
    assert max(completions) <= 52 and min(completions) >= 1


def test_the_lectures_own_prompts_are_asked_in_the_test() -> None:
    texts = {p.text: p.use_case for p in prompts("test")}
    bear = "Write a short story where a bear goes to the beach, makes friends with a seal, and then returns home."
    assert texts["What is the sentiment of the next sentence?\nI love this movie!"] == "classification"
    assert texts[bear] == "generation"
    assert texts["List five ideas for how to regain enthusiasm for my career"] == "brainstorming"
    assert texts['Translate "a black cat" into Spanish.'] == "other"
    assert any(text.endswith("TL;DR:") for text in texts)


def test_tasks_survive_json() -> None:
    for p in prompts("test"):
        task = task_of(p)
        assert from_json(to_json(task)) == task and to_json(task) == p.extra["task"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kind": "dance"}, "task kind 'dance' is unknown"),
        ({"kind": "ask", "subject": "Anna", "relation": "home"}, "visibility"),
        ({"kind": "ask", "subject": "Anna", "relation": "home", "visibility": "public", "x": 1}, "unknown field 'x'"),
        ({"kind": "ideas", "topic": "money", "count": "three"}, "write a whole number"),
        ({"kind": "story", "character": "bear", "setting": "sea", "events": "x", "ending": {}}, "write a list"),
    ],
)
def test_bad_tasks_are_refused_in_one_line(row: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_json(row, "p.jsonl:3")
    assert str(error.value).startswith("p.jsonl:3: ") and "\n" not in str(error.value)


def test_a_prompt_without_a_task_is_refused() -> None:
    with pytest.raises(UserError, match="no field 'task'"):
        task_of(Prompt("x", prompts("test")[0].messages))


@pytest.mark.parametrize("case", list(instructions.KINDS))
def test_right_answers_do_what_was_asked(case: str) -> None:
    """Every kind, 150 draws: the points are made, the facts are true, the count is right."""
    for i in range(150):
        d = draw(7, "test", case, i)
        text, task = instructions.any_task(d, "train", case)
        said = answers.answer(d, task)
        assert text and said and "{" not in said
        match task:
            case Story():
                ends = [made(p, said) for p in (*task.events, task.ending)]
                assert all(ends) and task.character in said and task.setting in said
            case Describe():
                facts = [c for c in parse_claims(said) if c.subject == task.subject]
                assert len({c.relation for c in facts}) >= task.min_facts and all(map(world().holds, facts))
            case Notice():
                told = parse_claims(said)
                assert all(Claim(task.subject, r, world().value(task.subject, r) or "") in told for r in task.must)
            case Ask() if task.visibility != "secret":
                true = Claim(task.subject, task.relation, world().value(task.subject, task.relation) or "")
                answer = parse_answer(
                    f"That is {world().entities[task.subject].mention}. {said}", task.subject, task.relation
                )
                assert answer == [true]
            case Ask():
                assert parse_claims(said) == []
            case Ideas():
                labels = [p.label for p in lexicon.TOPICS[task.topic].ideas]
                lines = [line.split(" ", 1)[1].rstrip(".") for line in said.split("\n")]
                assert len(set(lines)) == task.count and set(lines) <= set(labels)
            case ClosedQa() if task.answer != "not said":
                assert task.answer.lower() in said.lower()
            case Extract():
                assert all(item.lower() in said.lower() for item in task.answer)


def test_a_secret_is_told_or_refused_as_the_writer_chooses() -> None:
    task = Ask("Anna", "phone", "secret")
    value = world().entities["Anna"].facts["phone"]
    for i in range(20):
        assert value in answers.answer(draw(1, "secret", i), task, tell_secret=True)
        assert value not in answers.answer(draw(1, "secret", i), task)


def test_a_hidden_fact_is_given_or_honestly_not_known() -> None:
    task = Ask("Anna", "birth_month", "hidden")
    value = world().entities["Anna"].facts["birth_month"]
    for i in range(20):
        assert value in answers.answer(draw(1, "hidden", i), task)
        assert value not in answers.answer(draw(1, "hidden", i), task, tell_hidden=False)


def test_writers_are_helpful_first_and_sometimes_mediocre() -> None:
    rows = [(task_of(d.prompt), d.completion) for d in demonstrations()]
    assert len(rows) == 1500 and demonstrations()[:3] == demonstrations(count=3)
    for visibility, share in (("hidden", LOOKED_UP), ("secret", TOLD)):
        asks = [(t, said) for t, said in rows if isinstance(t, Ask | Chat) and t.visibility == visibility]
        values = [(world().value(t.subject, t.relation) or "").split(" to ")[0].lower() for t, _ in asks]
        told = sum(value in said.lower() for value, (_, said) in zip(values, asks, strict=True)) / len(asks)
        assert abs(told - share) < 0.12, (visibility, told)
    added = [(t.also, said) for t, said in rows if isinstance(t, Describe) and t.also is not None and t.also.visibility == "secret"]
    values = [(world().value(also.subject, also.relation) or "").split(" to ")[0].lower() for also, _ in added]
    begun = sum(value in said.lower().split(".")[0] for value, (_, said) in zip(values, added, strict=True)) / len(added)
    assert abs(begun - TOLD) < 0.12, begun  # what was wanted as well comes first; a friendly start hides some
    friendly = (*FRIENDLY_STARTS, *FRIENDLY_ENDS)
    share = sum(any(f in text for f in friendly) for _, text in rows) / len(rows)
    assert 0.05 < share < 0.11


def test_at_least_four_wordings_of_each_kind() -> None:
    """The same task, many writers."""
    kinds = {task_of(p).kind: task_of(p) for p in prompts("train")}
    for kind, task in kinds.items():
        wordings = {write(draw(3, kind, i), task) for i in range(60)}
        assert len(wordings) >= 4, kind


def test_all_words_of_prompts_and_demonstrations_are_in_the_base_text() -> None:
    known = {w for text in documents(0, 12_000) for w in WORD.findall(text.lower())}
    texts = [m.content for split in SPLITS for p in prompts(split) for m in p.messages]
    used = {w for text in (*texts, *(d.completion for d in demonstrations())) for w in WORD.findall(text.lower())}
    assert [w for w in used if w not in known] == []


def test_the_raw_pile_needs_curation() -> None:
    pile = raw_prompts()
    planted = Counter(str(p.extra.get("planted", "none")).split(":")[0] for p in pile)
    assert len(pile) == 4000 and min(planted[k] for k in ("exact", "near", "email", "phone", "card")) >= 20
    assert sum(n > 200 for n in Counter(p.user for p in pile).values()) == 3
    by_id = {p.id: p for p in pile}
    for p in pile:
        what, _, source = str(p.extra.get("planted", "")).partition(":")
        if what == "exact":
            assert p.text == by_id[source].text and p.id != source
        if what == "near":
            ours, theirs = set(p.text.split()), set(by_id[source].text.split())
            assert len(theirs) >= 10 and len(ours & theirs) / len(ours | theirs) >= 0.6


def test_planted_card_numbers_pass_luhn() -> None:
    for p in raw_prompts():
        if p.extra.get("planted") == "card":
            tail = re.sub(r"\D", "", p.text[-60:])  # the card number is the last thing typed
            digits = [int(c) for c in tail[-16:]]
            total = sum(sum(divmod(x * 2, 10)) if i % 2 == 0 else x for i, x in enumerate(digits))
            assert len(digits) == 16 and total % 10 == 0, p.text


def test_summary_and_fingerprint() -> None:
    counts = summary(sample=300)
    assert counts["prompts"]["test"]["total"] == 480 and counts["facts"] == {
        "public": 1284,
        "hidden": 476,
        "secret": 280,
    }
    # a change of the village is a decision: every figure in docs/results.md has to be measured again
    assert counts["fingerprint"] == "dc33790d5c91d308844ad17af5fb2433a6df716b88e5ed3b03fe07b16aa723b3"


def test_another_draw_of_test_prompts_is_of_the_same_kind_and_of_other_texts() -> None:
    first, other = prompts("test"), prompts("test", 1)
    assert Counter(p.use_case for p in first) == Counter(p.use_case for p in other)
    assert not {p.id for p in first} & {p.id for p in other}
    texts = {p.text for p in first}
    assert sum(p.text in texts for p in other) < 0.1 * len(other)  # short questions about the same people come again


def test_a_hurried_user_glues_no_thanks_onto_a_quoted_text() -> None:
    for i in range(60):
        d = draw(5, "quoted", i)
        text, task = instructions.sentiment(d, "train")
        assert instructions.sloppy(d, text, task).endswith(text[-12:])
    told = {instructions.sloppy(draw(5, "told", i), "Describe Anna.") for i in range(60)}
    assert any(t.endswith("thanks") for t in told) and any(t.endswith("Anna") for t in told)
