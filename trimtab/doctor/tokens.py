"""Which tokens start, end and pad: what tokenizer, config.json and generation_config.json say, and whether they agree."""

from trimtab.doctor.check import Group, NotApplicable, Result, fail, ok, warning
from trimtab.doctor.probes import FIRST
from trimtab.doctor.subject import Subject, as_list

GROUP = Group("Special tokens")


@GROUP.check(
    "end token",
    means="Tokenizer and configuration name the token that ends a text. Where they differ, training teaches one end and sampling waits "
    "for another.",
    do="Choose one token, set tokenizer.eos_token and model.config.eos_token_id to it, and save both.",
)
def end_token(s: Subject) -> Result:
    end = s.tokenizer.eos_token_id
    if end is None:
        return fail("the tokenizer has no end token", "Set eos_token in tokenizer_config.json to the token that ends a text.")
    said = {"config.json": as_list(getattr(s.settings, "eos_token_id", None))}
    if not s.scores:  # a scorer generates nothing
        said["generation_config.json"] = s.stops
    others = {file: ids for file, ids in said.items() if end not in ids}
    name = s.named(end)
    if not others:
        return ok(f"{name} in the tokenizer, {' and '.join(said)}", id=end)
    found = f"{name} in the tokenizer, but " + ", ".join(f"{_names(s, ids)} in {file}" for file, ids in others.items())
    return fail(found, id=end) if len(others) == len(said) and not s.scores else warning(found, id=end)


@GROUP.check(
    "generation stops",
    means="transformers' generate ends an answer only at the tokens that generation_config.json lists (vLLM also at the tokenizer's end "
    "token). If the token that ends the chat template's answers is missing there, every answer runs on to the length limit.",
    do="Add it: model.generation_config.eos_token_id = [...], then save. trimtab's training verbs do so when they save a model; its own "
    "engine stops at the template's token anyway.",
)
def generation_stops(s: Subject) -> Result:
    stops, end = s.stops, s.answer_end
    if end is None:
        raise NotApplicable("there is no end token")
    chat = "the chat template's answers end" if s.tokenizer.chat_template else "texts end"
    if not stops:
        return fail(f"generation_config.json names no end token at all; {chat} with {s.named(end)}")
    if end not in stops:
        return fail(f"{chat} with {s.named(end)}, generate stops only at {_names(s, stops)}", stops=_ids(stops), end=end)
    return ok(f"{chat} with {s.named(end)}, generate stops at {_names(s, stops)}", stops=_ids(stops), end=end)


@GROUP.check(
    "pad token",
    means="Trainers leave padding out of the loss by its id. If padding is the end token, ends are left out with it and the model never "
    "learns to stop; a reward model reads its score one token early; generate may take padding for an end.",
    do="Give padding a token of its own: tokenizer.add_special_tokens({'pad_token': '<|pad|>'}), resize the embeddings, set "
    "config.pad_token_id, save. trimtab never pads a language model, so it trains this one rightly; other programs do not.",
)
def pad_token(s: Subject) -> Result:
    pad, end = s.tokenizer.pad_token_id, s.answer_end
    configured = {"config.json": getattr(s.settings, "pad_token_id", None)}
    if not s.scores:
        configured["generation_config.json"] = s.generation.pad_token_id
    if pad is not None and pad in (end, s.tokenizer.eos_token_id):
        which = "ends answers" if pad == end else "is the tokenizer's end token"
        return (fail if pad == end else warning)(f"{s.named(pad)}, which {which} too", pad=pad, end=end)
    for file, ident in configured.items():
        if ident is not None and ident == end:
            return warning(f"{s.named(ident)} in {file}, which ends answers too", pad=ident, end=end)
    others = {file: ident for file, ident in configured.items() if None not in (pad, ident) and ident != pad}
    if others:
        found = f"{s.named(pad)} in the tokenizer, but " + ", ".join(f"{s.named(i)} in {file}" for file, i in others.items())
        return warning(found, "Set config.pad_token_id and generation_config.pad_token_id to the tokenizer's, and save.", pad=pad)
    if pad is not None and not s.scores and pad in s.stops:
        return warning(
            f"{s.named(pad)} is also among the tokens at which generate stops ({_names(s, s.stops)}); answers end with {s.named(end)}",
            "Harmless to trimtab. Elsewhere take a pad token that is no stop token, or give generate an attention mask.", pad=pad,
        )  # fmt: skip
    known = [ident for ident in (pad, *configured.values()) if ident is not None]
    return ok(f"{s.named(known[0])}, not an end token", pad=known[0]) if known else ok("none; trimtab needs none for a language model")


@GROUP.check(
    "start token",
    means="A model that was trained with a start token before every text is at a loss without it, and where it is also the end token a "
    "prompt begins with 'the text is over'.",
    do="Let the chat template begin with {{ bos_token }} if the model was pretrained so, and make config.bos_token_id the tokenizer's.",
)
def start_token(s: Subject) -> Result:
    start, configured = s.tokenizer.bos_token_id, getattr(s.settings, "bos_token_id", None)
    if start is None:
        return ok("the tokenizer has none")
    name = s.named(start)
    if s.tokenizer.chat_template:
        if start == s.answer_end:
            return warning(f"{name} ends the chat template's answers too", id=start)
        adds = list(s.tokenizer("x")["input_ids"])[:1] == [start]
        if adds and start not in s.encode(s.render(FIRST, generation=True)):
            return warning(f"{name} is put before plain text, and the chat template leaves it out", id=start)
    if configured is not None and configured != start:
        return warning(f"{name} in the tokenizer, {s.named(configured)} in config.json", id=start)
    return ok(f"{name}{', also the end token (as in GPT-2)' if start == s.tokenizer.eos_token_id else ''}", id=start)


@GROUP.check(
    "start token once",
    means="A prompt that begins with the start token twice is one the model was never trained on: logprobs and reward scores shift.",
    do="Take {{ bos_token }} out of the chat template where it stands twice. Text that the template has rendered is encoded with "
    "add_special_tokens=False (trimtab does).",
)
def start_token_once(s: Subject) -> Result:
    start = s.tokenizer.bos_token_id
    if start is None:
        raise NotApplicable("the tokenizer has no start token")
    text = s.render(FIRST, generation=True)
    count = _leading(s.encode(text), start)
    naive = _leading(list(s.tokenizer(text)["input_ids"]), start)
    if count > 1:
        return fail(f"{s.named(start)} stands {count} times before the chat template's prompt", count=count)
    if naive > max(count, 1):
        found = f"{s.named(start)} once; tokenizer(text) would put a second before a rendered prompt"
        advice = "Encode rendered prompts with add_special_tokens=False before they are scored."
        return warning(found, advice, count=count, naive=naive) if s.scores else ok(found, count=count, naive=naive)
    return ok(f"{s.named(start)} stands {'once' if count else 'nowhere'} before the chat template's prompt", count=count, naive=naive)


def _leading(ids: list[int], token: int) -> int:
    """How many times ``token`` stands at the beginning of ``ids``."""
    return next((i for i, x in enumerate(ids) if x != token), len(ids))


def _names(s: Subject, ids: list[int]) -> str:
    return ", ".join(map(s.named, ids)) or "none"


def _ids(ids: list[int]) -> str:
    return ", ".join(map(str, ids))
