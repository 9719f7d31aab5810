"""Data files with one known fault each, and the check that must find it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from doctor_cases import (
    CALL,
    ENDED,
    ROLES,
    Case,
    Fault,
    comparison,
    demonstration,
    healthy_comparisons,
    healthy_demonstrations,
    of_data,
    question,
    save,
)
from tiny_models import tiny_tokenizer, write_lines

from trimtab.data.template import Renderer, tokenizer_sha
from trimtab.doctor.settings import Config
from trimtab.feedback.reward_model import score_in_budget
from trimtab.models.load import load_scorer, load_tokenizer
from trimtab.records import Message, Prompt
from trimtab.trees import PromptTree

Rows = list[Any]
COUNT = 24


def answered(text: Callable[[int], str]) -> Callable[[], Rows]:
    """Demonstrations whose answers are ``text`` of their number."""
    return lambda: [demonstration(i, text(i)) for i in range(COUNT)]


def compared(**fields: Any) -> Callable[[], Rows]:
    """Healthy comparisons with these fields too."""
    return lambda: [{**row, **fields} for row in healthy_comparisons()]


def broken_rows() -> Rows:
    """Chosen and rejected answer different questions, as where the columns of two files were put side by side."""
    pair = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
    other = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."}]
    return [*healthy_comparisons(), {"chosen": pair, "rejected": other}]


def degenerate_preferred() -> Rows:
    return [comparison(i, "the cat saw the dog " * 9, f"Yes, the cat {i} is near the mill and the dog is far.") for i in range(COUNT)]


def identical() -> Rows:
    return [comparison(i, f"Yes {i}.", f"Yes {i}.") for i in range(COUNT)]


def reversed_for_the_reward_model(folder: Path) -> Case:
    """Ranks that are the reward model's own, turned round."""
    model = save(folder / "model", scorer=True)
    scorer, renderer, rows = load_scorer(model), Renderer(load_tokenizer(model)), healthy_comparisons()
    for row in rows:
        prompt = renderer.prompt(Prompt("", (Message("user", row["messages"][0]["content"]),)))
        answers = tuple(tuple(renderer.completion(c["text"])) for c in row["completions"])
        first, second = score_in_budget(scorer, [PromptTree(tuple(prompt), answers)], 4096)[0]
        row["ranks"] = [2, 1] if first > second else [1, 2]
    return Case(Config(model=str(model), data=str(write_lines(folder / "data.jsonl", rows))))


def contradicting() -> Rows:
    rows = healthy_comparisons()
    return [*rows, *({**row, "id": f"{row['id']}-again", "ranks": [2, 1]} for row in rows[:8])]


def one_busy_labeler() -> Rows:
    return [{**row, "labeler": "l0" if i % 4 else f"l{i}"} for i, row in enumerate(healthy_comparisons())]


def longer_preferred() -> Rows:
    return [comparison(i, f"Yes, the cat {i} is near the mill, as far as I saw.", f"Yes, {i}.") for i in range(COUNT)]


def without_words() -> Rows:
    return [{**row, "messages": [{"role": "user", "content": " ?"}]} for row in healthy_demonstrations()]


def twice() -> Rows:
    return [*healthy_demonstrations(), *healthy_demonstrations(4)]


def one_prompt() -> Rows:
    return [demonstration(0, f"Yes {i}.") for i in range(COUNT)]


def cut_at_once() -> Rows:
    answers = [{"text": "", "stop": "length"}, {"text": "Yes."}]
    return [{"id": f"c{i}", "messages": question(i), "completions": answers, "ranks": [2, 1]} for i in range(COUNT)]


def unknown_ids() -> Rows:
    sha = tokenizer_sha(tiny_tokenizer())
    rows = healthy_comparisons()
    for completion in (c for row in rows for c in row["completions"]):
        completion.update(token_ids=[7, 9999], tokenizer=sha)
    return rows


def refused_by_the_template(folder: Path) -> Case:
    """Conversations with a system message, for a template that takes none."""
    system = {"role": "system", "content": "Be a cat."}
    rows = [{**row, "messages": [system, *row["messages"]]} for row in healthy_demonstrations()]
    case = of_data(lambda: rows)(folder)
    tokenizer = load_tokenizer(case.config.model)
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    tokenizer.chat_template = refuse + ROLES + ENDED + CALL
    tokenizer.save_pretrained(case.config.model)
    return case


FAULTS: tuple[Fault, ...] = (
    Fault("rows whose answers belong to different questions", 20, "rows", "fail", of_data(broken_rows), "cannot be read"),
    Fault("chosen and rejected swapped, ratings in the file", 20, "rank direction", "fail", of_data(compared(ratings=[2, 6])), "rating"),
    Fault(
        "chosen and rejected swapped, scores in the file", 20, "rank direction", "fail",
        of_data(compared(score_chosen=3.0, score_rejected=8.5)), "score",
    ),
    Fault("chosen and rejected swapped, one repeats itself", 20, "rank direction", "fail", of_data(degenerate_preferred), "repeats"),
    Fault(
        "chosen and rejected swapped for the reward model", 20, "reward model agrees", "fail", reversed_for_the_reward_model, "wrong way",
    ),
    Fault("chosen and rejected identical", 20, "identical answers", "fail", of_data(identical)),
    Fault("zero-length answers", 0, "empty answers", "fail", of_data(answered(lambda i: "" if i % 4 else "Yes."))),
    Fault("prompts without a word", 0, "near-empty prompts", "fail", of_data(without_words)),
    Fault("text that was decoded wrongly", 0, "broken characters", "fail", of_data(answered(lambda i: f"CafÃ© {i}."))),
    Fault("records that stand twice", 0, "duplicate records", "warning", of_data(twice)),
    Fault("one prompt over and over", 0, "repeated prompts", "warning", of_data(one_prompt)),
    Fault("prompts of the test set", 0, "test prompts", "fail", of_data(healthy_demonstrations, test=healthy_demonstrations(2))),
    Fault("nothing but ties", 0, "pairs to learn from", "fail", of_data(compared(ranks=[1, 1]))),
    Fault("the longer answer is always preferred", 0, "length bias", "warning", of_data(longer_preferred)),
    Fault("labelers who contradict themselves", 0, "contradictions", "fail", of_data(contradicting), "both ways"),
    Fault("most labels by one person", 0, "labelers", "warning", of_data(one_busy_labeler)),
    Fault("whatever is shown first is preferred", 0, "order shown", "warning", of_data(compared(shown_order=[0, 1]))),
    Fault("answers longer than the model", 0, "fits the model", "fail", of_data(answered(lambda i: "the cat " * 99))),
    Fault("conversations that the template refuses", 0, "template takes them", "fail", refused_by_the_template),
    Fault("answers that were cut before their first token", 0, "supervised tokens", "fail", of_data(cut_at_once), "train no token"),
    Fault("sampled ids that the model does not know", 0, "token ids", "fail", of_data(unknown_ids), "does not know"),
    Fault("another model's end token in the answers", 0, "typed end tokens", "fail", of_data(answered(lambda i: f"Yes {i}.</s>"))),
)  # fmt: skip
