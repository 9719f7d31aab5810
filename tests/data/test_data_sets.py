"""The formats of public data sets, by hand: who won, what ties, what is unranked, what is refused."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from trimtab.common.errors import UserError
from trimtab.data.convert import check_file
from trimtab.data.formats import FORMATS, RankSettings, ReadSettings, convert, detect, read_any, read_comparisons
from trimtab.records import Comparison, Demonstration, Prompt

LOW = ReadSettings(ranks=RankSettings(best="low"))
REFUSED = {"mt-bench-answers", "summary-ratings", "open-assistant-messages"}


def only(row: dict[str, Any], settings: ReadSettings | None = None) -> Any:
    (record,) = convert(row, detect(row), "f.jsonl:7", settings or ReadSettings())
    return record


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_knows_its_example(form: Any) -> None:
    """Also as it comes from a table of columns, where fields that a row lacks are null."""
    nulls = dict.fromkeys(("input", "completion", "chosen", "messages", "labels", "instances", "conversations", "ranks"))
    for row in (form.example, {**nulls, **form.example} if form.name != "ranked-summaries" else form.example):
        assert detect(row) == form.name
        if form.name in REFUSED:
            with pytest.raises(UserError, match="^f.jsonl:7: "):
                convert(row, form.name, "f.jsonl:7")
        else:
            assert convert(row, form.name, "f.jsonl:7", LOW)


def test_of_every_ranked_example_the_best_answer_is_blue() -> None:
    """The examples ask for the sky's color, answers are Blue and Green: no verdict is read the wrong way round."""
    tried = 0
    for form in FORMATS:
        settings = ReadSettings(ranks=RankSettings(best="high" if form.name == "ranked-summaries" else "stated"))
        for record in [] if form.name in REFUSED else convert(form.example, form.name, "f.jsonl:7", settings):
            if isinstance(record, Comparison) and "Green" in str(record):
                best = {c.text for c, rank in zip(record.completions, record.ranks, strict=True) if rank == 1}
                assert best <= {"Blue.", "Blue", "It is blue"} and best, form.name
                tried += 1
    assert tried >= 14


@pytest.mark.parametrize(
    ("preference", "ranks"),
    [(1, (1, 2)), (2, (2, 1)), (1.5, (1, 1)), (0, (1, 1)), (1.0001, (1, 2)), (1.99, (2, 1)), ("2.0", (2, 1)), (None, (None, None))],
)
def test_alpaca_evals_preferences(preference: Any, ranks: tuple[int | None, ...]) -> None:
    row = {
        "instruction": "Add", "input": "1 2", "output_1": "a", "generator_1": "x", "output_2": "b", "generator_2": "y", "annotator": "gpt",
        "dataset": "d", "preference": preference,
    }  # fmt: skip
    record = only(row)
    assert record.prompt.text == "Add\n\n1 2" and record.ranks == ranks and record.labeler == "gpt"
    assert [(c.text, c.model) for c in record.completions] == [("a", "x"), ("b", "y")]
    assert record.prompt.extra == {"dataset": "d", "preference": preference}


def test_an_answer_behind_a_transcript_begins_with_its_words() -> None:
    """As in rm-static: the space after ``Assistant:`` is none of the answer's, wherever the two were cut."""
    cut = only({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a\n", "rejected": " b"})
    whole = only({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"})
    assert cut == whole and [c.text for c in cut.completions] == ["a", "b"]
    plain = only({"prompt": "def f():", "chosen": " return 1", "rejected": " pass"})
    assert [c.text for c in plain.completions] == [" return 1", " pass"]  # code: its white space is its own


def test_a_native_comparison_may_have_a_field_prompt() -> None:
    """Nobody's business what is in it: the messages are the prompt."""
    row = {
        "id": "c", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "prompt": "p",
        "completions": [{"text": "a"}, {"text": "b"}], "ranks": [2, 1],
    }  # fmt: skip
    record = only(row)
    assert isinstance(record, Comparison) and record.prompt.text == "q" and record.to_json() == row


def test_alpaca_evals_outputs_are_demonstrations_of_their_model() -> None:
    record = only({"instruction": "Add", "output": "a", "generator": "x"})
    assert isinstance(record, Demonstration) and record.completion == "a" and record.prompt.extra == {"generator": "x"}


@pytest.mark.parametrize(
    ("row", "ranks"),
    [
        ({"prompt": "q", "completions": ["a", "b", "c"], "scores": [0.1, None, "0.7"]}, (2, None, 1)),
        ({"prompt": "q", "completions": ["a", "b"], "ranks": [2, 1]}, (2, 1)),
        ({"messages": [{"role": "user", "content": "q"}], "completions": [{"text": "a"}, {"text": "b"}], "scores": [1, 1]}, (1, 1)),
        ({"instruction": "q", "completions": [{"response": t, "fine-grained_score": s, "overall_score": 9}
                                              for t, s in (("a", 2.5), ("b", None), ("c", 4))]}, (2, None, 1)),
        ({"instruction": "q", "completions": [{"response": t, "overall_score": s} for t, s in (("a", 7), ("b", 8.5))]}, (2, 1)),
        ({"prompt": "q", "answers": [{"answer": t, "rank": r, "model": "m"} for t, r in (("a", 3.0), ("b", 1.0), ("c", 3.0))]}, (2, 1, 2)),
        ({"info": {"article": "q"}, "summaries": [{"text": "a", "policy": "m"}, {"text": "b"}], "choice": 1, "worker": "w"}, (2, 1)),
        ({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0}, (2, 1)),
        ({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1}, (2, 1)),
        ({"context": "q", "response1": "a", "response2": "b", "overall_preference": 3}, (2, 1)),
        ({"context": "q", "response1": "a", "response2": "b", "overall_preference": 0}, (1, 1)),
        ({"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": -0.5, "score_1": 0.5}, (2, 1)),
        ({"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": 0.0, "score_1": 0.0}, (1, 1)),
    ],
)  # fmt: skip
def test_verdicts_the_other_way_round(row: dict[str, Any], ranks: tuple[int | None, ...]) -> None:
    record = only(row)
    assert isinstance(record, Comparison) and record.ranks == ranks
    assert [c.text for c in record.completions] == ["a", "b", "c"][: len(ranks)] and "q" in record.prompt.text


@pytest.mark.parametrize(("winner", "ranks"), [("model_a", (1, 2)), ("model_b", (2, 1)), ("tie", (1, 1)), ("tie (bothbad)", (1, 1))])
def test_arena_votes(winner: str, ranks: tuple[int, ...]) -> None:
    conversations = {
        f"conversation_{name}": [{"role": "user", "content": "q"}, {"role": "assistant", "content": name}, {"role": "user", "content": "?"}]
        for name in "ab"
    }
    record = only({**conversations, "model_a": "x", "model_b": "y", "winner": winner, "judge": "j"})
    assert record.ranks == ranks and record.labeler == "j" and record.prompt.extra == {"left_out_turns": 2}
    assert [(c.text, c.model) for c in record.completions] == [("a", "x"), ("b", "y")]


def test_convarg_has_a_comparison_for_each_vote() -> None:
    votes = [{"turkID": f"w{i}", "value": value} for i, value in enumerate(("a1", "a2", "equal"))]
    row = {
        "id": "p", "arg1": {"text": "x", "stance": "No!"}, "arg2": {"text": "y", "stance": "No!"}, "debateMetaData": {"title": "Sport?"},
        "mTurkAssignments": {"mTurkAssignment": votes},
    }  # fmt: skip
    found = convert(row, detect(row), "f.xml[0]")
    assert [(r.labeler, r.ranks) for r in found if isinstance(r, Comparison)] == [("w0", (1, 2)), ("w1", (2, 1)), ("w2", (1, 1))]
    assert {r.prompt.id for r in found if isinstance(r, Comparison)} == {"p"}
    row["mTurkAssignments"] = {"mTurkAssignment": votes[0]}  # of a single vote XML has no list
    assert len(convert(row, detect(row), "f.xml[0]")) == 1


def test_taskmaster_has_json_inside_json() -> None:
    asked = [
        {"role": "user", "text": "a latte"}, {"role": "agent", "api": {"find": {"q": "latte"}}}, {"role": "api", "response": {"find": []}},
    ]  # fmt: skip
    step = {"role": "agent", "text": "None."}
    record = only({"conversation_id": "c", "context": json.dumps(asked), "generation": json.dumps(step), "reward": 0.0})
    assert isinstance(record, Demonstration) and record.completion == "None." and record.prompt.extra["label"] is False
    assert [(m.role, m.content) for m in record.prompt.messages] == [
        ("user", "a latte"), ("assistant", '{"find": {"q": "latte"}}'), ("user", '{"find": []}')
    ]  # fmt: skip


def test_mt_bench_asks_the_first_question() -> None:
    record = only({"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]})
    assert isinstance(record, Prompt) and (record.id, record.text, record.use_case) == ("mt-bench-81", "Write.", "writing")
    assert record.extra == {"later_turns": ["Again."]}


def test_truthfulqas_right_answers_tie(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Category,Question,Correct Answers,Incorrect Answers,Source\nMyths,Q?,A; B,C; D;,http\n")
    (record,) = read_comparisons(tmp_path / "t.csv")
    assert [c.text for c in record.completions] == ["A", "B", "C", "D"] and record.ranks == (1, 1, 2, 2)
    assert (record.prompt.use_case, record.prompt.source) == ("Myths", "http")


def test_steps_are_one_answer_that_is_right_if_all_are() -> None:
    record = only({"prompt": "q", "completions": ["a", "b"], "labels": [True, 0]})
    assert record.completion == "a\nb"
    assert record.prompt.extra == {"steps": ["a", "b"], "labels": [True, False], "label": False}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 3}, "field 'preference' is 3; write 1 (the first output)"),
        ({"input": "q", "output_1": "a", "output_2": "b", "label": 0}, "field 'label' is 0; write 1 or 2"),
        ({"input": "q", "output_1": 7, "output_2": "b", "label": 1}, "field 'output_1' is 7; write text"),
        ({"conversation_a": [], "conversation_b": [], "winner": "x"}, "field 'conversation_a' is empty"),
        ({"prompt": "q", "completions": ["a", "b"], "scores": [1]}, "field 'scores' is [1]; write one for each of the 2 completions"),
        ({"prompt": "q", "completions": ["a", "b"], "scores": [1, "x"]}, "scores[1] is 'x'; write a number"),
        ({"prompt": "q", "completions": ["a", "b"], "labels": [True]}, "field 'labels' is [True]; write true or false for each of the 2"),
        ({"prompt": "q", "completions": ["a"], "labels": ["yes"]}, "labels[0] is 'yes'; write true or false"),
        ({"context": "no", "generation": "{}", "reward": 1}, "field 'context' is 'no'; write JSON as text"),
        ({"context": "[{}]", "generation": "{}", "reward": 1}, "context[0][role] is None"),
        ({"info": {}, "summaries": [{"text": "a"}], "choice": 1}, "field 'choice' is 1; write which summary was chosen, 0 to 0"),
        ({"prompt": "x", "completions": ["a", "b"], "ranks": [0, 1]}, "ranks[0] is 0; write a whole number from 1 (best)"),
        ({"prompt": {"message_id": "m", "role": "prompter", "text": "q", "replies": [{"text": "a", "role": "assistant", "rank": "first"}]}},
         "replies[].rank is 'first'"),
    ],
)  # fmt: skip
def test_refused(row: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        convert(row, detect(row), "f.jsonl:7")
    assert str(error.value).startswith("f.jsonl:7: ") and says in str(error.value)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"question": "q", "answer": "a"}, "try fields.prompt=question fields.completion=answer"),
        ({"Question": "q", "Best Answer": "a", "Response": "r"}, "try fields.prompt=Question fields.completion=Response"),
        ({"input": "q", "output": "a"}, "try fields.prompt=input fields.completion=output"),
        ({"query": "q", "response": "a"}, "try fields.prompt=query fields.completion=response"),
        ({"question": "q", "context": "c", "answer": "a"}, "try fields.instruction=question fields.input=context fields.output=answer"),
        ({"question": "q", "accepted": "a", "bad": "b"}, "try fields.prompt=question fields.chosen=accepted fields.rejected=bad"),
        ({"user": "q", "assistant": "a"}, "try fields.prompt=user fields.completion=assistant"),
        ({"source": "q", "target": "a"}, "try fields.prompt=source fields.completion=target"),
        ({"id": "1", "customerQuestion": "q", "agent_reply": "a"}, "try fields.prompt=customerQuestion fields.completion=agent_reply"),
        (
            {"the question": "q", "rejected_answer": "b", "chosen_answer": "a"},
            "try fields.prompt='the question' fields.chosen=chosen_answer fields.rejected=rejected_answer",
        ),
        ({"promt": "q", "user": "u1"}, "; did you mean 'prompt' by 'promt'?"),
        ({"promt": "q", "completon": "a", "source": "s"}, "; did you mean 'prompt' by 'promt' and 'completion' by 'completon'?"),
        ({"data": [{"prompt": "x"}]}, "the rows seem to stand inside data"),
        ({"text": "once upon a time"}, "'text' alone is read by pretrain"),
    ],
)
def test_fields_by_other_names_come_with_the_mapping(tmp_path: Path, row: dict[str, Any], advice: str) -> None:
    """The advice works when it is followed."""
    with pytest.raises(UserError, match="no known format") as error:
        detect(row)
    assert str(error.value).endswith(advice) or advice in str(error.value)
    words = shlex.split(advice) if advice.startswith("try") else []
    mapping = dict(word.removeprefix("fields.").split("=") for word in words if word.startswith("fields."))
    if mapping:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(row) + "\n")
        (record,) = read_any(path, ReadSettings(fields=mapping))
        assert isinstance(record, Demonstration | Comparison)


@pytest.mark.parametrize("row", [{"user": "u1", "foo": 1}, {"source": "web", "id": "7"}, {"question_id": "3", "answer_type": "short"}])
def test_who_wrote_it_is_not_taken_for_what_was_asked(row: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        detect(row)
    assert "try" not in str(error.value) and "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": "a"}, "field 'chosen' stands without 'rejected'; write both, or fields.completion=chosen where"),
        ({"chosen": "a", "rejected": None}, "field 'chosen' stands without 'rejected'; write both"),
        ({"chosen": "a", "rejectd": "b"}, "field 'chosen' stands without 'rejected'; did you mean 'rejected' by 'rejectd'?"),
        ({"chosn": "a", "rejected": "b"}, "field 'rejected' stands without 'chosen'; did you mean 'chosen' by 'chosn'?"),
    ],
)
@pytest.mark.parametrize("asked", ["prompt", "instruction"])
def test_half_a_pair_is_no_prompt(tmp_path: Path, asked: str, row: dict[str, Any], says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({asked: "q", **more}) + "\n" for more in ({}, row)))
    with pytest.raises(UserError) as error:
        read_any(path)
    assert str(error.value).startswith(f"{path}:2: {says}")


def test_what_looks_like_half_a_pair_and_is_none(tmp_path: Path) -> None:
    """A verdict in a field of that name; an answer beside it; a pair whose one answer the user calls otherwise."""
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "q", "chosen": True}, {"prompt": "q", "completion": "a", "chosen": "a"}, {"prompt": "q", "rejected": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    account = check_file(path)
    assert account.kept == 3 and not account.notes
    path.write_text(json.dumps({"prompt": "q", "chosen": "a"}) + "\n")
    (record,) = read_any(path, ReadSettings(fields={"completion": "chosen"}))
    assert isinstance(record, Demonstration) and record.completion == "a"


def test_the_mapping_reaches_inside_fields_and_refuses_what_nobody_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"data": {"q": "Hi", "a": "Ho"}, "n": 1}) + "\n")
    (record,) = read_any(path, ReadSettings(fields={"prompt": "data.q", "completion": "data.a"}))
    assert isinstance(record, Demonstration) and (record.prompt.text, record.completion) == ("Hi", "Ho")
    with pytest.raises(UserError, match=r"a.jsonl:1: fields names 'data.x', which is not there \(found: data, n\)"):
        read_any(path, ReadSettings(fields={"prompt": "data.x"}))
    with pytest.raises(UserError, match="fields.promt=data.q: no format has a field 'promt'; did you mean prompt?"):
        read_any(path, ReadSettings(fields={"promt": "data.q"}))


@pytest.mark.parametrize("users", [["ann", "bob"], "ann, bob", "ann;bob", "ann|bob"])
def test_several_users_of_a_prompt(tmp_path: Path, users: Any) -> None:
    """The first is the prompt's user, all are kept; a text with a comma in ``user`` is a single name."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "x", "contributor": users}) + "\n")
    (record,) = read_any(path, ReadSettings(fields={"users": "contributor"}))
    assert isinstance(record, Prompt) and record.user == "ann" and record.extra["users"] == ["ann", "bob"]
    assert only({"prompt": "x", "user": "Doe, Jane"}).user == "Doe, Jane"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a<|endoftext|>", "a"), ("a</s>\n", "a"), ("a<|im_end|>", "a"), ("b <s>old</s>", "b <s>old</s>"), ("a\n", "a\n"),
        ("<|endoftext|> a", "<|endoftext|> a"),
    ],
)  # fmt: skip
def test_end_tokens_written_out_are_taken_away(text: str, kept: str) -> None:
    assert only({"instruction": "q", "output": text}).completion == kept
    assert [c.text for c in only({"prompt": "q", "chosen": text, "rejected": "z"}).completions] == [kept, "z"]
    assert only({"messages": [{"role": "user", "content": "q"}], "completion": text}).completion == text  # native: as it is


def test_a_system_prompt_in_a_field_of_its_own() -> None:
    record = only({"system": "Be brief.", "prompt": "q", "chosen": "a", "rejected": "b"})
    assert [(m.role, m.content) for m in record.prompt.messages] == [("system", "Be brief."), ("user", "q")]
    assert len(only({"system": "", "prompt": "q", "chosen": "a", "rejected": "b"}).prompt.messages) == 1


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_cells_that_hold_lists(tmp_path: Path, write: Any) -> None:
    """A table's cells are text; messages stand in them as JSON, or as Python shows them. A text that is in brackets stays text."""
    import csv

    said = [{"role": "user", "content": "it's \"x\""}, {"role": "assistant", "content": "y"}]
    with open(tmp_path / "a.csv", "w", newline="") as f:
        rows = csv.DictWriter(f, ["messages", "prompt", "completions", "ranks"])
        rows.writeheader()
        rows.writerow({"messages": write(said)})
        rows.writerow({"prompt": "[1, 2]", "completions": write(["a", "b"]), "ranks": "[2, 1]"})
    first, second = read_any(tmp_path / "a.csv")
    assert isinstance(first, Demonstration) and (first.prompt.text, first.completion) == ("it's \"x\"", "y")
    assert isinstance(second, Comparison) and second.prompt.text == "[1, 2]" and second.ranks == (2, 1)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"text": "### Human: Hi### not a turn\n### Assistant: Ho"}, ["Hi### not a turn", "Ho"]),
        ({"text": "\n\nHuman: Hi\n\nAssistant: Ho"}, ["Hi", "Ho"]),
        ({"instruction": "c", "output": "d", "history": [["a", "b"]]}, ["a", "b", "c", "d"]),
        ({"instruction": "a", "context": "b", "response": "c"}, ["a\n\nb", "c"]),
        ({"conversation": [{"role": "User", "content": "a"}, {"role": "Assistant", "content": "b"}]}, ["a", "b"]),
    ],
)
def test_demonstrations(row: dict[str, Any], turns: list[str]) -> None:
    record = only(row)
    assert isinstance(record, Demonstration) and [*(m.content for m in record.prompt.messages), record.completion] == turns


def test_the_page_shows_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    for form in FORMATS:
        example = json.dumps(form.example, ensure_ascii=False).replace("|", "\\|")
        assert f"\n| {form.name} | {form.about} | `{example}` |\n" in page
    assert len([line for line in page.splitlines() if line.endswith("}` |")]) == len(FORMATS)
