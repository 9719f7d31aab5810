"""Every format's rows as native records, by hand; what is refused, and in which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trimtab.common.errors import UserError
from trimtab.data.formats import (
    FORMATS,
    RankSettings,
    ReadSettings,
    convert,
    dense_ranks,
    detect,
    parse_transcript,
    read,
    read_any,
    read_comparisons,
    read_demonstrations,
    read_prompts,
)  # fmt: skip
from trimtab.records import Comparison, Demonstration, Message, Prompt

U, A = "user", "assistant"


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def one(row: dict[str, Any], settings: ReadSettings | None = None) -> Any:
    """The only record of a row, with its format."""
    name = detect(row)
    (record,) = convert(row, name, "dir/f.jsonl:7", settings or ReadSettings())
    return name, record


def turns(record: Any) -> list[tuple[str, str]]:
    prompt = record if isinstance(record, Prompt) else record.prompt
    return [(m.role, m.content) for m in prompt.messages]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PROMPTS = [
    ("native", {"id": "p", "messages": said((U, "Hi"))}, [(U, "Hi")]),
    ("trl-prompt", {"prompt": "Hi"}, [(U, "Hi")]),
    ("trl-prompt", {"prompt": said(("system", "Be"), (U, "Hi"))}, [("system", "Be"), (U, "Hi")]),
    ("trl-prompt", {"prompt": "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant:"},
     [(U, "Hi"), (A, "Ho"), (U, "So?")]),
    ("openai", {"messages": [{"role": "developer", "content": "Be"},
                             {"role": U, "content": [{"type": "text", "text": "Hi"}]}]},
     [("system", "Be"), (U, "Hi")]),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}]}, [(U, "Hi")]),
    ("alpaca", {"instruction": "Add", "input": "1 2"}, [(U, "Add\n\n1 2")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), PROMPTS)
def test_prompts(name: str, row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found, record = one(row)
    assert found == name and isinstance(record, Prompt)
    assert turns(record) == expected
    assert record.id == row.get("id", "f.jsonl:7")


DEMONSTRATIONS = [
    ("native", {"messages": said((U, "Hi")), "completion": "Ho"}, [(U, "Hi")], "Ho"),
    ("trl-prompt-completion", {"prompt": "Hi", "completion": "Ho"}, [(U, "Hi")], "Ho"),
    ("trl-prompt-completion", {"prompt": said((U, "Hi")), "completion": said((A, "Ho"))}, [(U, "Hi")], "Ho"),
    ("trl-prompt-completion", {"prompt": said((U, "Hi")), "completion": said((A, "Ho"), (U, "So?"), (A, "Yes"))},
     [(U, "Hi"), (A, "Ho"), (U, "So?")], "Yes"),
    ("t0", {"prompt": "Hi\n", "completion": "Ho<|endoftext|>"}, [(U, "Hi\n")], "Ho"),
    ("openai", {"messages": said((U, "Hi"), (A, "Ho"), (U, "So?"), (A, "Yes")), "prompt": "Hi"},
     [(U, "Hi"), (A, "Ho"), (U, "So?")], "Yes"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
     [(U, "Hi")], "Ho"),
    ("alpaca", {"instruction": "Add", "input": "", "output": "3"}, [(U, "Add")], "3"),
    ("alpaca", {"instruction": "Add", "output": "3"}, [(U, "Add")], "3"),
    ("trl-unpaired", {"prompt": "Hi", "completion": "Ho", "label": True}, [(U, "Hi")], "Ho"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected", "completion"), DEMONSTRATIONS)
def test_demonstrations(name: str, row: dict[str, Any], expected: list[tuple[str, str]], completion: str) -> None:
    found, record = one(row)
    assert found == name and isinstance(record, Demonstration)
    assert (turns(record), record.completion) == (expected, completion)


HH = "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant: "
PAIRS = [
    ("trl-preference", {"prompt": "Hi", "chosen": "good", "rejected": "bad"}, [(U, "Hi")]),
    ("trl-preference", {"chosen": "The sky is good", "rejected": "The sky is bad"}, [(U, "The sky is")]),
    ("trl-preference", {"prompt": said((U, "Hi")), "chosen": said((A, "good")), "rejected": said((A, "bad"))},
     [(U, "Hi")]),
    ("trl-preference", {"chosen": said((U, "Hi"), (A, "good")), "rejected": said((U, "Hi"), (A, "bad"))}, [(U, "Hi")]),
    ("trl-preference", {"prompt": "Hi", "chosen": said((U, "Hi"), (A, "good")),
                        "rejected": said((U, "Hi"), (A, "bad"))},
     [(U, "Hi")]),
    ("trl-preference", {"prompt": "x", "messages": said((U, "Hi"), (A, "good")), "chosen": said((U, "Hi"), (A, "good")),
                        "rejected": said((U, "Hi"), (A, "bad"))}, [(U, "Hi")]),
    ("hh-rlhf", {"chosen": HH + "good", "rejected": HH + "bad"}, [(U, "Hi"), (A, "Ho"), (U, "So?")]),
    ("trl-preference", {"prompt": HH.strip(" "), "chosen": "good", "rejected": "bad"},
     [(U, "Hi"), (A, "Ho"), (U, "So?")]),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "good"},
                  "rejected": {"from": "gpt", "value": "bad"}}, [(U, "Hi")]),
    ("alpaca", {"instruction": "Add", "input": "1", "output": "good", "chosen": "good", "rejected": "bad"},
     [(U, "Add\n\n1")]),
    ("llmbar", {"input": "Hi", "output_1": "good", "output_2": "bad", "label": 1}, [(U, "Hi")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), PAIRS)
def test_pairs(name: str, row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found, record = one(row)
    assert found == name and isinstance(record, Comparison)
    assert turns(record) == expected
    assert [c.text for c in record.completions] == ["good", "bad"]
    assert record.ranks == (1, 2)


def test_llmbar_label_two_prefers_the_second() -> None:
    assert one({"input": "Hi", "output_1": "bad", "output_2": "good", "label": 2})[1].ranks == (2, 1)


def test_pair_with_later_turns_keeps_the_first_answers_that_differ() -> None:
    """The label says which answer is better where the two dialogues part; what came after is left out and noted."""
    _, record = one({"chosen": HH + "good", "rejected": HH + "bad\n\nHuman: Why?\n\nAssistant: Because."})
    assert [c.text for c in record.completions] == ["good", "bad"]
    assert record.prompt.extra == {"left_out_turns": 2}


def test_equal_pair_is_read_as_it_is() -> None:
    _, record = one({"chosen": HH + "same", "rejected": HH + "same"})
    assert [c.text for c in record.completions] == ["same", "same"] and len(record.prompt.messages) == 3


def test_empty_answer_of_a_transcript_is_an_answer() -> None:
    _, record = one({"chosen": HH + "good", "rejected": HH})
    assert [c.text for c in record.completions] == ["good", ""]


def test_turns_of_one_speaker_in_a_row_become_one() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nc\n\nAssistant: d\n\nHuman: e"
    assert parse_transcript(text) == said((U, "a"), (A, "b\n\nc\n\nd"), (U, "e"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"foo": 1, "text": "x"}, "no known format (fields: foo, text)"),
        ({"prompt": "Hi", "chosen": "a", "rejected": 3}, "field 'rejected' is 3"),
        ({"chosen": "abc", "rejected": "xyz"}, "begin with no common prompt"),
        ({"chosen": said((U, "x"), (A, "y")), "rejected": said((U, "z"), (A, "y"))}, "share no prompt"),
        (
            {"chosen": said((U, "x"), (A, "y"), (U, "a")), "rejected": said((U, "x"), (A, "y"), (U, "b"))},
            "part at turn 3",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "said by 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0] has no text"),
        ({"messages": said((A, "x"))}, "an answer without a prompt"),
        ({"prompt": "Hi", "completion": "Ho", "label": "maybe"}, "field 'label' is 'maybe'"),
        ({"conversations": []}, "field 'conversations' is empty"),
        ({"instruction": "Do", "instances": [{"input": ""}]}, "field 'output' is missing for format self-instruct"),
        ({"instruction": "Do", "instances": 3}, "field 'instances' is 3"),
        ({"messages": said((U, "x")), "completions": [{"text": "a"}, {"text": "b"}], "ranks": [1]}, "1 entries for 2"),
        ({"prompt": "x", "source": ["a"]}, "field 'source'"),
    ],
)
def test_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "fine"}, row)
    with pytest.raises(UserError) as error:
        read_any(path)
    assert says in str(error.value) and str(error.value).startswith(f"{path}:2: ")


def test_dense_ranks() -> None:
    assert dense_ranks([0, 2, 2, None, 5], "low") == [1, 2, 2, None, 3]
    assert dense_ranks([0, 2, 2, None, 5], "high") == [3, 2, 2, None, 1]


SUMMARIES = {
    "007": [{"ref": "r", "sys_name": s, "sys_summ": f"by {s}", "rank": k} for s, k in (("x", 0), ("y", 2), ("z", 0))]
}


@pytest.mark.parametrize(("best", "ranks"), [("high", (2, 1, 2)), ("low", (1, 2, 1))])
def test_summaries_are_ranked_as_the_option_says(best: Any, ranks: tuple[int, ...]) -> None:
    name, record = one(SUMMARIES, ReadSettings(ranks=RankSettings(best=best)))
    assert name == "ranked-summaries" and record.prompt.id == "007" and record.ranks == ranks
    assert [(c.model, c.text) for c in record.completions] == [("x", "by x"), ("y", "by y"), ("z", "by z")]


def test_summaries_without_the_option_are_refused() -> None:
    with pytest.raises(UserError, match="ranks.best=low .* or ranks.best=high"):
        one(SUMMARIES)


def test_native_ranks_with_high_best() -> None:
    row = {"messages": said((U, "x")), "completions": [{"text": t} for t in "abc"], "ranks": [0, None, 4]}
    assert one(row, ReadSettings(ranks=RankSettings(best="high")))[1].ranks == (2, None, 1)
    with pytest.raises(UserError, match=r"ranks\[0\] is 0"):
        one(row)


def test_open_assistant_tree() -> None:
    """A user message with two ranked replies is a comparison (0 = best there); one with a single reply is none; a reply
    without a rank is in no pair; a message below keeps its whole path."""

    def node(key: str, role: str, rank: int | None, *replies: dict[str, Any]) -> dict[str, Any]:
        return {"message_id": key, "text": key, "role": role, "rank": rank, "replies": list(replies)}

    below = node("q2", "prompter", None, node("a3", A, 1), node("a4", A, 0), node("a5", A, None))
    alone = node("q3", "prompter", None, node("a6", A, 0))
    row = {
        "message_tree_id": "t",
        "prompt": node("q1", "prompter", None, node("a1", A, 1, below), node("a2", A, 0, alone)),
    }
    assert detect(row) == "open-assistant"
    first, second = convert(row, "open-assistant", "f.jsonl:1")
    assert isinstance(first, Comparison) and isinstance(second, Comparison)
    assert (first.prompt.id, turns(first), first.ranks) == ("q1", [(U, "q1")], (2, 1))
    assert (second.prompt.id, turns(second)) == ("q2", [(U, "q1"), (A, "a1"), (U, "q2")])
    assert [c.text for c in second.completions] == ["a3", "a4", "a5"] and second.ranks == (2, 1, None)


def test_self_instruct_instances_are_demonstrations_of_their_own() -> None:
    row = {"id": "s", "instruction": "Add", "instances": [{"input": "1", "output": "2"}, {"input": "", "output": "3"}]}
    first, second = convert(row, detect(row), "f.jsonl:1")
    assert isinstance(first, Demonstration) and isinstance(second, Demonstration)
    assert [(d.prompt.id, d.prompt.text, d.completion) for d in (first, second)] == [
        ("s-0", "Add\n\n1", "2"),
        ("s-1", "Add", "3"),
    ]


def test_unknown_fields_are_kept_and_numbers_name_users() -> None:
    _, record = one({"prompt": "Hi", "user": 17, "kwargs": [{}, {"n": 3}]})
    assert record.user == "17" and record.extra == {"kwargs": [{}, {"n": 3}]}


def test_richer_records_give_prompts_and_a_prompt_is_read_once(tmp_path: Path) -> None:
    ranking = {"id": "c", "messages": said((U, "x")), "completions": [{"text": "a"}, {"text": "b"}], "ranks": [1, 2]}
    path = write(tmp_path / "a.jsonl", ranking, {**ranking, "labeler": "second"}, {"prompt": "q", "completion": "r"})
    assert [p.text for p in read_prompts(path)] == ["x", "q"]
    got = read(path, "prompt")
    assert (got.rows, dict(got.formats), dict(got.skipped)) == (
        3, {"native": 2, "trl-prompt-completion": 1}, {"repeated prompt": 1}
    )  # fmt: skip


def test_completions_labelled_bad_are_not_demonstrations(tmp_path: Path) -> None:
    rows = ({"prompt": "q", "completion": str(label), "label": label} for label in (True, False, "true", "0"))
    got = read(write(tmp_path / "a.jsonl", *rows), "demonstration")
    assert [d.completion for d in got.records] == ["True", "true"]
    assert dict(got.skipped) == {"labelled as bad": 2}


@pytest.mark.parametrize(
    ("reader", "row", "says"),
    [
        (read_demonstrations, {"prompt": "x"}, "found a prompt (trl-prompt format), needed a demonstration"),
        (
            read_comparisons,
            {"prompt": "x", "completion": "y"},
            "found a demonstration (trl-prompt-completion format), needed a",
        ),
        (
            read_demonstrations,
            {"prompt": "x", "chosen": "y", "rejected": "z"},
            "found a comparison (trl-preference format)",
        ),
    ],
)
def test_wrong_kind(tmp_path: Path, reader: Any, row: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError) as error:
        reader(path)
    assert str(error.value).startswith(f"{path}:1: ") and says in str(error.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows; needed a comparison"):
        read_comparisons(write(tmp_path / "a.jsonl"))


def test_fields_and_format_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "Hi", "contributor": "u1,u2", "prompt": "not this"})
    (record,) = read_prompts(path, ReadSettings(fields={"prompt": "question", "user": "contributor"}))
    assert (record.text, record.user, record.extra) == ("Hi", "u1,u2", {})
    with pytest.raises(UserError, match="names 'asked', which is not there"):
        read_prompts(path, ReadSettings(fields={"prompt": "asked"}))
    with pytest.raises(UserError, match="format=alpacca is unknown"):
        read_prompts(path, ReadSettings(format="alpacca"))
    with pytest.raises(UserError, match="field 'instruction' is missing for format alpaca"):
        read_prompts(path, ReadSettings(format="alpaca"))


def test_ids_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ids = {read_prompts(write(folder / "a.jsonl", {"prompt": "x"}))[0].id for folder in (tmp_path, tmp_path / "other")}
    assert ids == {"a.jsonl:1"}
    (tmp_path / "a.json").write_text('[{"prompt": "x"},\n\n{"prompt": "y"}]')
    assert [p.id for p in read_prompts(tmp_path / "a.json")] == ["a.json[0]", "a.json[1]"]


FIELDS = sorted({
    "prompt", "completion", "completions", "messages", "chosen", "rejected", "label", "conversations", "instruction",
    "input",
    "output", "instances", "output_1", "output_2", "replies", "rank", "ranks", "sys_summ", "role", "content", "from",
    "value",
    "text", "message_id", "id", "user",
})  # fmt: skip
ATOMS = st.sampled_from(
    [None, True, 0, 1.5, "", "x", "user", "assistant", "gpt", "\n\nHuman: a\n\nAssistant: b", HH + "z"]
)
VALUES = st.recursive(
    ATOMS,
    lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.sampled_from(FIELDS), v, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6), st.sampled_from([f.name for f in FORMATS]))
def test_any_object_gives_records_or_one_line(row: dict[str, Any], name: str) -> None:
    for read_as in (lambda: detect(row, "f:1"), lambda: name):
        try:
            convert(row, read_as(), "f:1", ReadSettings(ranks=RankSettings(best="low")))
        except UserError as error:
            assert str(error).startswith("f:1: ") and "\n" not in str(error)


def test_prompt_messages_are_messages() -> None:
    assert one({"prompt": "Hi"})[1].messages == (Message("user", "Hi"),)
