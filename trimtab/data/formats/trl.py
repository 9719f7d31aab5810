"""TRL's types of data sets, each as plain text ("standard") or as messages ("conversational")."""

from itertools import takewhile

from trimtab.common.errors import RowError, bad_field
from trimtab.data.formats.base import Format, ReadSettings, choice, fields, without
from trimtab.data.formats.messages import answered, conversation, is_transcript, messages, preferred
from trimtab.records import JSON

END_OF_TEXT = "<|endoftext|>"
LABELS = {True: True, False: False, "true": True, "false": False}  # 1 and 0 are True and False to Python
STEP_SEPARATOR = "\n"  # what TRL joins the steps of an answer with


def preference(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    rest = without(row, "prompt", "messages", "chosen", "rejected")
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None and all(isinstance(v, str) and not is_transcript(v) for v in (chosen, rejected)):
        prompt, chosen, rejected = shared_text(chosen, rejected, where)
    return [preferred(rest, prompt, chosen, rejected, where)]


def shared_text(chosen: str, rejected: str, where: str) -> tuple[str, str, str]:
    """TRL's implicit prompt: the longest common beginning, cut back to the end of a word.

    Raises:
        RowError: there is none.
    """
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    while 0 < shared < max(len(chosen), len(rejected)) and not chosen[shared - 1].isspace():
        shared -= 1
    prompt = chosen[:shared].rstrip()
    if not prompt or chosen == rejected:
        said = "'chosen' and 'rejected' begin with no common prompt"
        raise RowError(where, f"{said}; add a field 'prompt'", reason="no shared prompt")
    return prompt, chosen[shared:], rejected[shared:]


def prompt_completion(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    said = conversation(row["prompt"], row["completion"], "completion", where)
    if said[-1]["role"] != "assistant":
        raise bad_field(where, "completion", row["completion"], "it must end with the assistant's turn")
    return [answered(without(row, "prompt", "completion"), said, where)]


def unpaired(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    label = choice(row["label"], LABELS, where, "label")
    return [{**prompt_completion(row, where, settings)[0], "label": label}]


def is_stepwise(row: JSON) -> bool:
    steps = row["completions"]
    return isinstance(steps, list) and all(isinstance(step, str) for step in steps)


def stepwise(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    """An answer in steps, each called right or wrong; the whole is right (``label``) if all of them are."""
    steps, labels = row["completions"], row["labels"]
    if not isinstance(labels, list) or len(labels) != len(steps) or not steps:
        raise bad_field(where, "labels", labels, f"write true or false for each of the {len(steps)} steps in 'completions'")
    right = [choice(label, LABELS, where, f"labels[{i}]") for i, label in enumerate(labels)]
    rest = without(row, "prompt", "completions", "labels")
    said = messages(row["prompt"], where, "prompt")
    return [{**rest, "messages": said, "completion": STEP_SEPARATOR.join(steps), "steps": steps, "labels": right, "label": all(right)}]


def prompt_only(row: JSON, where: str, settings: ReadSettings) -> list[JSON]:
    return [{**without(row, "prompt"), "messages": messages(row["prompt"], where, "prompt")}]


def is_t0(row: JSON) -> bool:
    return isinstance(row["completion"], str) and row["completion"].endswith(END_OF_TEXT)


SKY = "What color is the sky?"
FORMATS = (
    Format(
        "hh-rlhf", "Anthropic's HH-RLHF: whole dialogues as text; the answers are where the two first differ",
        fields("chosen", "rejected"), preference,
        {"chosen": f"\n\nHuman: {SKY}\n\nAssistant: Blue.", "rejected": f"\n\nHuman: {SKY}\n\nAssistant: Green."},
        lambda row: is_transcript(row["chosen"]) and is_transcript(row["rejected"]),
    ),
    Format(
        "trl-preference", "TRL preference; the prompt in a field of its own, or repeated in both answers",
        fields("chosen", "rejected"), preference, {"prompt": SKY, "chosen": "Blue.", "rejected": "Green."},
    ),
    Format(
        "trl-unpaired", "TRL unpaired preference; an answer labelled false is no demonstration",
        fields("prompt", "completion", "label"), unpaired, {"prompt": SKY, "completion": "Green.", "label": False},
    ),
    Format(
        "trl-stepwise", "TRL stepwise supervision; the answer is all steps, its label whether all are right",
        fields("prompt", "completions", "labels"), stepwise,
        {"prompt": "2 + 2 * 2?", "completions": ["2 * 2 = 4.", "2 + 4 = 6."], "labels": [True, True]}, is_stepwise,
    ),
    Format(
        "t0", "T0 and P3: the end token is written out behind the answer, and taken away",
        fields("prompt", "completion"), prompt_completion, {"prompt": SKY, "completion": f"Blue.{END_OF_TEXT}"}, is_t0,
    ),
    Format(
        "trl-prompt-completion", "TRL prompt-completion", fields("prompt", "completion"), prompt_completion,
        {"prompt": [{"role": "user", "content": SKY}], "completion": [{"role": "assistant", "content": "Blue."}]},
    ),
)  # fmt: skip
PROMPT_ONLY = Format("trl-prompt", "TRL prompt-only, and any table with a column `prompt`", fields("prompt"), prompt_only, {"prompt": SKY})
