"""Two answers side by side and who won: judges' annotations, arenas, votes."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.common.errors import bad_field
from trimtab.data.formats.base import Format, ReadSettings, choice, fields, mapping, number, text, without
from trimtab.data.formats.messages import messages, split_pair
from trimtab.data.formats.ranks import dense_ranks
from trimtab.records import JSON

Ranks = list[int | None]
FIRST, SECOND, TIE, NOBODY = Ranks([1, 2]), Ranks([2, 1]), Ranks([1, 1]), Ranks([None, None])


def two(row: JSON, used: Sequence[str], prompt: Any, answers: Sequence[str], ranks: Ranks, where: str) -> JSON:
    """A comparison of two texts, and the fields of ``row`` that are not ``used``."""
    said = messages(prompt, where, used[0])
    return {**without(row, *used), "messages": said, "completions": [{"text": answer} for answer in answers], "ranks": ranks}


def judged(name: str, about: str, names: tuple[str, str, str, str], meanings: Mapping[Any, Ranks], example: JSON) -> Format:
    """A format of rows with a prompt, two answers and a verdict, their ``names`` in this order."""
    prompt, first, second, verdict = names

    def native(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
        ranks = choice(row[verdict], meanings, where, verdict)
        answers = [text(row, name, where) for name in (first, second)]
        return [two(row, names, row[prompt], answers, ranks, where)]

    return Format(name, about, fields(*names), native, example)


def alpaca_eval(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """1 prefers the first output, 2 the second, 1.5 (formerly 0) neither; weighted annotators write 1 + P(second is better).

    Null, where the judge's words could not be read, ranks nothing. https://github.com/tatsu-lab/alpaca_eval
    """
    told = row["preference"]
    preference = number(told)
    if preference is None and told is not None or preference is not None and not (preference == 0 or 1 <= preference <= 2):
        raise bad_field(where, "preference", told, "write 1 (the first output), 2 (the second), 1.5 (a tie), or between: 1 + P(second)")
    ranks = NOBODY if preference is None else TIE if preference in (0, 1.5) else FIRST if preference < 1.5 else SECOND
    asked = f"{text(row, 'instruction', where)}\n\n{row['input']}" if row.get("input") else text(row, "instruction", where)
    used = ("instruction", "input", "output_1", "output_2", "generator_1", "generator_2", "annotator")
    out = two(row, used, asked, [text(row, name, where) for name in ("output_1", "output_2")], ranks, where)
    for answer, name in zip(out["completions"], ("generator_1", "generator_2"), strict=True):
        answer["model"] = row.get(name)
    return [{**out, "labeler": row.get("annotator")}]


def arena(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Two conversations with the same first question; the vote is taken to be on the first answers that differ."""
    a, b = (messages(row[name], where, name) for name in ("conversation_a", "conversation_b"))
    shared, first, second, left_out = split_pair(a, b, where)
    winners = {"model_a": FIRST, "model_b": SECOND, "tie": TIE, "tie (bothbad)": TIE}
    out = {
        **without(row, "conversation_a", "conversation_b", "winner", "model_a", "model_b", "judge"), "messages": shared,
        "completions": [{"text": first, "model": row.get("model_a")}, {"text": second, "model": row.get("model_b")}],
        "ranks": choice(row["winner"], winners, where, "winner"), "labeler": row.get("judge"),
    }  # fmt: skip
    return [{**out, "left_out_turns": left_out} if left_out else out]


def webgpt(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    question = mapping(row["question"]).get("full_text", row["question"])
    ranks = dense_ranks([number(row["score_0"]), number(row["score_1"])], "high")
    used = ("question", "answer_0", "answer_1")
    return [two(row, used, question, [text(row, name, where) for name in used[1:]], ranks, where)]


def convarg(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """UKPConvArg1: which of two arguments convinces more, by several workers; each worker's vote is a comparison of its own."""
    found = mapping(row["mTurkAssignments"])["mTurkAssignment"]
    votes = found if isinstance(found, list) else [found]
    first, second = mapping(row["arg1"]), mapping(row["arg2"])
    asked = f"{text(mapping(row['debateMetaData']), 'title', where)}\n\nArgue for: {text(first, 'stance', where)}"
    return [
        {
            "id": row.get("id"), "messages": [{"role": "user", "content": asked}], "labeler": vote["turkID"],
            "completions": [{"text": text(argument, "text", where)} for argument in (first, second)],
            "ranks": choice(vote["value"], {"a1": FIRST, "a2": SECOND, "equal": TIE}, where, "value"), "reason": vote.get("reason"),
        }
        for vote in votes
    ]  # fmt: skip


SKY, BLUE, GREEN = "What color is the sky?", "Blue.", "Green."
FORMATS = (
    Format(
        "alpaca-eval-annotations", "AlpacaEval's annotations: two outputs and a `preference`",
        fields("instruction", "output_1", "output_2"), alpaca_eval,
        {"instruction": SKY, "output_1": BLUE, "generator_1": "a", "output_2": GREEN, "generator_2": "b", "preference": 1.0},
        lambda row: "preference" in row,  # null where the judge's words could not be read
    ),
    judged(
        "llmbar", "LLMBar: `label` is the better output", ("input", "output_1", "output_2", "label"), {1: FIRST, 2: SECOND},
        {"input": SKY, "output_1": BLUE, "output_2": GREEN, "label": 1},
    ),
    Format(
        "arena", "Chatbot Arena votes, ties included", fields("conversation_a", "conversation_b", "winner"), arena,
        {
            "conversation_a": [{"role": "user", "content": SKY}, {"role": "assistant", "content": BLUE}],
            "conversation_b": [{"role": "user", "content": SKY}, {"role": "assistant", "content": GREEN}],
            "model_a": "a", "model_b": "b", "winner": "model_a",
        },
    ),
    Format(
        "convarg", "UKPConvArg1: which argument convinces more; a comparison for each worker's vote, ties included",
        fields("arg1", "arg2", "debateMetaData", "mTurkAssignments"), convarg,
        {
            "id": "p", "arg1": {"stance": "Yes", "text": "It runs."}, "arg2": {"stance": "Yes", "text": "It is open."},
            "debateMetaData": {"title": "Firefox?"}, "mTurkAssignments": {"mTurkAssignment": [{"turkID": "w", "value": "a1"}]},
        },
    ),
    judged(
        "shp", "Stanford Human Preferences: `labels` is 1 where the first is better",
        ("history", "human_ref_A", "human_ref_B", "labels"), {1: FIRST, 0: SECOND},
        {"history": SKY, "human_ref_A": BLUE, "human_ref_B": GREEN, "labels": 1},
    ),
    judged(
        "pku-saferlhf", "PKU-SafeRLHF, by helpfulness (`better_response_id`)",
        ("prompt", "response_0", "response_1", "better_response_id"), {0: FIRST, 1: SECOND},
        {"prompt": SKY, "response_0": BLUE, "response_1": GREEN, "better_response_id": 0},
    ),
    judged(
        "helpsteer3", "HelpSteer3's preferences, from -3 (the first is better) to 3 (the second)",
        ("context", "response1", "response2", "overall_preference"),
        {**dict.fromkeys((-3, -2, -1), FIRST), 0: TIE, **dict.fromkeys((1, 2, 3), SECOND)},
        {"context": [{"role": "user", "content": SKY}], "response1": BLUE, "response2": GREEN, "overall_preference": -2},
    ),
    Format(
        "webgpt", "WebGPT's comparisons; equal scores tie", fields("question", "answer_0", "answer_1", "score_0", "score_1"), webgpt,
        {"question": {"full_text": SKY}, "answer_0": BLUE, "answer_1": GREEN, "score_0": 1.0, "score_1": -1.0},
    ),
)  # fmt: skip
