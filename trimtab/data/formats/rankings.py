"""K answers to one prompt with ranks or scores: message trees, ranked and rated sets."""

from collections.abc import Mapping
from typing import Any

from trimtab.common.errors import RowError, bad_field
from trimtab.data.formats.base import Format, ReadSettings, fields, mapping, number, objects, text, without
from trimtab.data.formats.messages import message, messages
from trimtab.data.formats.ranks import dense_ranks
from trimtab.records import JSON

SUMMARY_REQUEST = "Write a short summary of the article."  # the ranked summaries come without their articles


def open_assistant(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Every user message with two or more ranked replies (0 = best there; a reply without a rank is in no pair)."""
    out = []
    waiting: list[tuple[JSON, list[JSON]]] = [(row["prompt"], [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, message({"role": node["role"], "content": node["text"]}, "message", where)]
        replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
        waiting.extend((reply, path) for reply in reversed(replies))
        ranks = [_rank(reply, where) for reply in replies]
        if path[-1]["role"] == "user" and len(replies) - ranks.count(None) > 1:
            out.append({
                "id": node["message_id"], "messages": path, "lang": node.get("lang"),
                "completions": [{"text": r["text"], "model": r.get("model_name")} for r in replies],
                "ranks": dense_ranks(ranks, "low"),
            })  # fmt: skip
    return out


def _rank(reply: Mapping[str, Any], where: str) -> float | None:
    rank = number(reply.get("rank"))
    if rank is None and reply.get("rank") is not None:
        raise bad_field(where, "replies[].rank", reply["rank"], "write a number, 0 for the best, or null")
    return rank


def is_ranked_summaries(row: JSON) -> bool:
    items = [item for group in row.values() for item in (group if isinstance(group, list) and group else [None])]
    return bool(items) and all(isinstance(item, dict) and {"rank", "sys_summ"} <= item.keys() for item in items)


def ranked_summaries(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    if settings.ranks.best == "stated":
        said = "the file does not say which 'rank' is best"
        raise RowError(where, f"{said}; add ranks.best=low (0 is the best) or ranks.best=high", reason=said, field="rank")
    out = []
    for key, items in row.items():
        out.append({
            "id": key, "messages": [{"role": "user", "content": SUMMARY_REQUEST}], "use_case": "summarization",
            "completions": [{"text": item["sys_summ"], "model": item.get("sys_name")} for item in items],
            "ranks": dense_ranks([number(item["rank"]) for item in items], settings.ranks.best),
            "reference": items[0].get("ref"),
        })  # fmt: skip
    return out


def is_ultrafeedback(row: JSON) -> bool:
    return objects(row["completions"]) and all("response" in answer for answer in row["completions"])


def ultrafeedback(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Ranked by the mean of the fine-grained ratings; some overall scores are wrong there (a 1 that was meant as 10)."""
    answers = row["completions"]
    fine = any(number(answer.get("fine-grained_score")) is not None for answer in answers)
    scores = [number(answer.get("fine-grained_score" if fine else "overall_score")) for answer in answers]
    return [{
        **without(row, "instruction", "completions", "models"), "messages": messages(row["instruction"], where, "instruction"),
        "completions": [
            {"text": text(answer, "response", where, f"completions[{i}].response"), "model": answer.get("model")}
            for i, answer in enumerate(answers)
        ],
        "ranks": dense_ranks(scores, "high"), "scores": scores,
    }]  # fmt: skip


def is_nectar(row: JSON) -> bool:
    return objects(row["answers"]) and all({"answer", "rank"} <= answer.keys() for answer in row["answers"])


def nectar(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    answers = row["answers"]
    return [{
        **without(row, "prompt", "answers", "num_responses"), "messages": messages(row["prompt"], where, "prompt"),
        "completions": [
            {"text": text(answer, "answer", where, f"answers[{i}].answer"), "model": answer.get("model")}
            for i, answer in enumerate(answers)
        ],
        "ranks": dense_ranks([number(answer["rank"]) for answer in answers], "low"),
    }]  # fmt: skip


def summary_choice(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """Stiennon et al. 2020: a post (or an article), two summaries, and which of them a labeler chose."""
    info, summaries, chosen = mapping(row["info"]), row["summaries"], number(row["choice"])
    if chosen not in range(len(summaries)):
        raise bad_field(where, "choice", row["choice"], f"write which summary was chosen, 0 to {len(summaries) - 1}")
    body = info.get("post") or info.get("article")
    if not isinstance(body, str):
        raise bad_field(where, "info.post", body, "write the text that was summarised")
    title = f"TITLE: {info['title']}\n\n" if info.get("title") else ""
    place = f"SUBREDDIT: r/{info['subreddit']}\n\n" if info.get("subreddit") else ""
    return [{
        **without(row, "info", "summaries", "choice", "worker"), "use_case": "summarization", "labeler": row.get("worker"),
        "messages": [{"role": "user", "content": f"{place}{title}POST: {body}\n\nTL;DR:"}],
        "completions": [
            {"text": text(s, "text", where, f"summaries[{i}].text"), "model": s.get("policy")} for i, s in enumerate(summaries)
        ],
        "ranks": [1 if i == chosen else 2 for i in range(len(summaries))],
    }]  # fmt: skip


SKY, BLUE, GREEN = "What color is the sky?", "Blue.", "Green."
FORMATS = (
    Format(
        "open-assistant", "Open-Assistant's message trees: a ranking for each message with ranked replies, 0 = best",
        fields("prompt"), open_assistant,
        {"prompt": {"message_id": "m", "role": "prompter", "text": SKY, "replies": [
            {"message_id": "n", "role": "assistant", "text": GREEN, "rank": 1},
            {"message_id": "o", "role": "assistant", "text": BLUE, "rank": 0}]}},
        lambda row: "replies" in mapping(row["prompt"]),
    ),
    Format(
        "ultrafeedback", "UltraFeedback: answers with scores, high = good; answers without a score are in no pair",
        fields("instruction", "completions"), ultrafeedback,
        {"instruction": SKY, "completions": [{"model": "a", "response": BLUE, "fine-grained_score": 4.5},
                                             {"model": "b", "response": GREEN, "fine-grained_score": 1.0}]},
        is_ultrafeedback,
    ),
    Format(
        "nectar", "Nectar: seven answers, 1 = best", fields("prompt", "answers"), nectar,
        {"prompt": f"\n\nHuman: {SKY}\n\nAssistant: ", "answers": [{"answer": BLUE, "rank": 1.0}, {"answer": GREEN, "rank": 2.0}]},
        is_nectar,
    ),
    Format(
        "summarize-from-feedback", "OpenAI's comparisons of summaries", fields("info", "summaries", "choice"), summary_choice,
        {"info": {"post": "I looked up.", "title": "Sky"}, "summaries": [{"text": BLUE}, {"text": GREEN}], "choice": 0},
        lambda row: objects(row["summaries"]),
    ),
)  # fmt: skip
RANKED_SUMMARIES = Format(
    "ranked-summaries", "summaries ranked K at a time; the file does not say which rank is best, `ranks.best=` does",
    fields(), ranked_summaries, {"17": [{"sys_summ": BLUE, "rank": 1}, {"sys_summ": GREEN, "rank": 0}]}, is_ranked_summaries,
)  # fmt: skip
