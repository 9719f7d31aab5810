"""Masks of chat templates: many families' templates, with small tokenizers of their own kind and of another, against an oracle that knows
nothing of trimtab (tests/chat_oracle.py). A part of bench/proof.py."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chat_families import FAMILIES, Family, Kind, tokenizer_of
from chat_oracle import check, check_tags, check_typed, conversations

from trimtab.common.errors import UserError
from trimtab.data.formats import read_demonstrations
from trimtab.data.template import Renderer
from trimtab.records import Message

ROOT = Path(__file__).resolve().parents[1]
CONVERSATIONS, TAGGED = 400, 100
REAL = ROOT.parent / "shared/data/demonstrations/tulu3_sft_sample.jsonl"
KINDS: dict[Kind, str] = {
    "gpt2": "bytes, as GPT-2", "llama3": "bytes, as Llama 3", "llama2": "pieces, as Llama 2", "gemma": "pieces, as Gemma",
    "unigram": "pieces, Unigram",
}  # fmt: skip
OTHER: dict[Kind, Kind] = {"gpt2": "unigram", "llama3": "llama2", "llama2": "llama3", "gemma": "gpt2"}
NAMED = ("ChatML", "Llama 2", "Llama 3", "Mistral v1", "Gemma", "Phi-3", "Qwen 3", "Zephyr", "DeepSeek V3", "OLMo / Tulu")
TITLE = "masks of chat templates"
NOTE = (
    "Merged: answers whose first characters the tokenizer would merge with their prompt's last; the prompt's own ids stay. In pieces: "
    "conversations that are trained answer by answer, for that reason or because the template rewrites earlier turns. By tags: "
    "conversations whose mask is transformers' own of the same template with generation tags. Typed: control tokens that stood in every "
    "turn's text and became text. Refused altogether, each for the reason that the user is told:"
)


def masks() -> dict[str, Any]:
    """Every family: made conversations, real ones, transformers' masks where tags can say what is trained, typed control tokens."""
    began, rows = time.monotonic(), []
    for name, family in FAMILIES.items():
        for kind in (family.kind, OTHER[family.kind]):
            rows.append({"family": name, "tokenizer": KINDS[kind], **_measure(name, family, kind)})
    command = "python bench/proof.py masks"
    return {TITLE: {"area": "masks_proof", "command": command, "wall_seconds": time.monotonic() - began, "masks": rows}}


def _measure(name: str, family: Family, kind: Kind) -> dict[str, Any]:
    tokenizer = tokenizer_of(name, kind)
    try:
        renderer = Renderer(tokenizer)
    except UserError as error:
        return {"refused": str(error)}
    counts: Counter[str] = Counter()
    real = list(_real()) if kind == family.kind else []
    for messages in [*conversations(CONVERSATIONS, 1, system=family.system == "yes"), *real]:
        try:
            found = check(renderer, tokenizer, messages, family.end)
        except AssertionError:
            counts["wrong"] += 1
            continue
        except UserError:
            counts["records_refused"] += 1
            continue
        counts.update(conversations=1, spans=found.spans, pieces=found.spans > 1 and not found.together, merged=found.merged)
    if kind == family.kind and not renderer.around.shared and not renderer.around.opened:  # else no tags can mark the right tokens
        tagged = tokenizer_of(name, kind, tagged=True)
        for messages in conversations(TAGGED, 2, system=family.system == "yes", edges=False):
            try:
                check_tags(renderer, tagged, messages)
                counts["tagged"] += 1
            except AssertionError:
                counts["wrong"] += 1
    try:
        counts["typed"] = check_typed(renderer, tokenizer, system=family.system == "yes")
    except AssertionError:
        counts["wrong"] += 1
    return dict(counts)


def _real() -> Iterator[list[Message]]:
    if REAL.exists():
        for record in read_demonstrations(str(REAL)):
            yield [*record.prompt.messages, Message("assistant", record.completion)]


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """What is asked, what was measured, and whether it is reached."""
    rows = entry["masks"]
    refused = {row["family"] for row in rows if "refused" in row}
    wrong = {row["family"] for row in rows if row.get("wrong")}
    good = {row["family"] for row in rows} - refused - wrong
    spans, errors = (sum(row.get(key, 0) for row in rows) for key in ("spans", "wrong"))
    measured = f"{len(good)} verified, {len(refused)} refused with a reason; {errors} faults in {spans:,} answers"
    return [("masks verified for the templates of at least ten families", measured, not wrong and good >= set(NAMED))]


def render(entry: Mapping[str, Any]) -> list[str]:
    """The measurement as a table."""
    columns = {"conversations": "conversations", "spans": "answers verified", "merged": "merged", "pieces": "in pieces",
               "tagged": "by tags", "typed": "typed"}  # fmt: skip
    lines = ["| family | tokenizer | " + " | ".join(columns.values()) + " |", "|" + "---|" * (2 + len(columns))]
    reasons: dict[str, str] = {}
    for row in entry["masks"]:
        if "refused" in row:
            reasons.setdefault(row["family"], row["refused"].removeprefix(f"{row['family']}: "))
            continue
        lines.append(f"| {row['family']} | {row['tokenizer']} | " + " | ".join(f"{row.get(name, 0):,}" for name in columns) + " |")
    wrong, refused = (sum(row.get(key, 0) for row in entry["masks"]) for key in ("wrong", "records_refused"))
    lines += ["", f"Faults: {wrong:,}; conversations that a template refused: {refused:,}. {NOTE}", ""]
    return [*lines, *(f"- {family}: {reason.replace(chr(10), ' ')}" for family, reason in reasons.items()), ""]


PARTS = {"masks": masks}
