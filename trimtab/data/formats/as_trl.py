"""Native records -> rows of TRL's types, as messages (conversational) or as plain text (standard).

A ranking becomes one pair for each two answers of different rank. What a type cannot say of a record is refused, and what it
says in fewer words is left out and told: only TRL's own fields are written, and those that ``keep`` names.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from trimtab.common.errors import RowError
from trimtab.data.formats.read import Skipped
from trimtab.data.formats.trl import STEP_SEPARATOR
from trimtab.records import JSON, Comparison, Demonstration, Prompt, Record

Style = Literal["conversational", "standard"]


def prompt_of(record: Record) -> Prompt:
    """What is asked."""
    return record if isinstance(record, Prompt) else record.prompt


def _prompt(record: Record, style: Style, where: str) -> Any:
    messages = prompt_of(record).messages
    if style == "conversational":
        return [{"role": m.role, "content": m.content} for m in messages]
    if len(messages) > 1:
        said = "standard rows have one message in a prompt"
        raise RowError(where, f"{said}, this has {len(messages)}; write style=conversational", reason=said)
    return messages[0].content


def _answer(text: str, style: Style) -> Any:
    return [{"role": "assistant", "content": text}] if style == "conversational" else text


def _best(record: Record) -> list[str]:
    """The answers to learn from: a demonstration's that is not labelled bad, or all that are ranked best where some are worse."""
    if isinstance(record, Demonstration):
        if prompt_of(record).extra.get("label") is False:
            raise Skipped("labelled as bad")
        return [record.completion]
    if isinstance(record, Prompt):
        raise Skipped("a prompt without an answer")
    return [text for text, good in _labelled(record) if good]


def _labelled(record: Comparison) -> list[tuple[str, bool]]:
    """(answer, whether it is ranked best) of every ranked answer; a ranking that prefers none says nothing."""
    if not record.pairs():
        raise Skipped("no two answers of different rank")
    best = min(rank for rank in record.ranks if rank is not None)
    return [(c.text, rank == best) for c, rank in zip(record.completions, record.ranks, strict=True) if rank is not None]


def prompt_only(record: Record, style: Style, where: str) -> list[JSON]:
    return [{"prompt": _prompt(record, style, where)}]


def prompt_completion(record: Record, style: Style, where: str) -> list[JSON]:
    prompt = _prompt(record, style, where)
    return [{"prompt": prompt, "completion": _answer(text, style)} for text in _best(record)]


def language_modeling(record: Record, style: Style, where: str) -> list[JSON]:
    prompt = _prompt(record, style, where)
    name = "messages" if style == "conversational" else "text"
    return [{name: prompt + _answer(text, style)} for text in _best(record)]


def preference(record: Record, style: Style, where: str) -> list[JSON]:
    if not isinstance(record, Comparison):
        raise Skipped("no answers to compare")
    if not record.pairs():
        raise Skipped("no two answers of different rank")
    prompt, texts = _prompt(record, style, where), [c.text for c in record.completions]
    return [
        {"prompt": prompt, "chosen": _answer(texts[better], style), "rejected": _answer(texts[worse], style)}
        for better, worse in record.pairs()
    ]


def unpaired(record: Record, style: Style, where: str) -> list[JSON]:
    prompt = _prompt(record, style, where)
    if isinstance(record, Prompt):
        raise Skipped("a prompt without an answer")
    if isinstance(record, Comparison):
        labelled = _labelled(record)
    else:
        labelled = [(record.completion, record.prompt.extra.get("label") is not False)]
    return [{"prompt": prompt, "completion": _answer(text, style), "label": good} for text, good in labelled]


def stepwise(record: Record, style: Style, where: str) -> list[JSON]:
    """TRL has no conversational form of it."""
    extra = prompt_of(record).extra
    steps, labels = extra.get("steps"), extra.get("labels")
    if not isinstance(record, Demonstration) or not isinstance(steps, list) or not isinstance(labels, list):
        raise Skipped("no steps and labels")
    if STEP_SEPARATOR.join(map(str, steps)) != record.completion:
        raise RowError(where, "'steps' are not the completion's lines", reason="wrong field 'steps'", field="steps")
    return [{"prompt": _prompt(record, "standard", where), "completions": steps, "labels": labels}]


Writer = Callable[[Record, Style, str], list[JSON]]
TRL_TYPES: dict[str, Writer] = {
    "trl-prompt": prompt_only, "trl-prompt-completion": prompt_completion, "trl-language-modeling": language_modeling,
    "trl-preference": preference, "trl-unpaired": unpaired, "trl-stepwise": stepwise,
}  # fmt: skip


def trl_rows(record: Record, to: str, style: Style, keep: Sequence[str], where: str) -> list[JSON]:
    """The rows of type ``to``, with the record's fields in ``keep`` (null where it has none).

    Raises:
        RowError: the type, or ``style``, cannot say it.
        Skipped: it has nothing of that type.
    """
    whole = record.to_json() if keep else {}
    return [{**{name: whole.get(name) for name in keep}, **row} for row in TRL_TYPES[to](record, style, where)]
