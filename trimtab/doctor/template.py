"""The chat template: what it renders, and whether what is trained on is what the model will see and be asked to write."""

import re
from itertools import groupby

from trimtab.common.errors import UserError
from trimtab.doctor.check import Group, NotApplicable, Result, fail, judged, ok, warning
from trimtab.doctor.probes import ANSWERS, BEGINNINGS, FIRST, ONE_TURN, QUESTIONS, SECOND, SYSTEM, TWO_TURNS
from trimtab.doctor.subject import Subject
from trimtab.records import Message

GROUP = Group("Chat template")
MANY_MERGED = 0.25  # of the answers tried: then it is no matter of a rare letter
GENERATION = re.compile(r"{%-?\s*generation\b")


@GROUP.check(
    "renders",
    means="A template that refuses a question and its answer, or leaves one of them out, cannot be trained on.",
    do="Mend chat_template.jinja in the model's folder (or the field chat_template of tokenizer_config.json).",
)
def renders(s: Subject) -> Result:
    for messages in (ONE_TURN, TWO_TURNS):
        text = s.rendered(messages)
        if text.value is None:
            return fail(f"it refuses {', '.join(m.role for m in messages)}: {text.error}")
        lost = [m.content for m in messages if m.content not in text.value]
        if lost:
            return fail(f"it leaves out {lost[0]!r} of a conversation of {len(messages)} messages")
    return ok(f"questions and answers, one turn and two; {_system(s)}")


def _system(s: Subject) -> str:
    text = s.rendered((Message("system", SYSTEM), *FIRST), generation=True).value
    return f"system messages are {'refused' if text is None else 'taken' if SYSTEM in text else 'left out'}"


@GROUP.check(
    "prompt is a prefix",
    means="The model is sampled from the rendered prompt and trained on prompt + answer. If the first is not the beginning of the second, "
    "token by token, the loss mask is off by a token or more and the model is trained in a place where it never stands.",
    do="Let add_generation_prompt write exactly what stands before an answer, and end it with a special token or a newline. (Where single "
    "answers merge, trimtab encodes them apart from the prompt, as sampling does.)",
)
def prompt_is_a_prefix(s: Subject) -> Result:
    prompt, whole = s.render(FIRST, generation=True), s.render(ONE_TURN)
    if not whole.startswith(prompt):
        at = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole)))
        return fail(f"the rendered prompt goes on with {prompt[at : at + 24]!r}, prompt + answer with {whole[at : at + 24]!r}")
    ids, tried = s.encode(prompt), (*ANSWERS, *BEGINNINGS)  # which letters merge with the prompt's end is the vocabulary's secret
    merged = []
    for answer in tried:
        all_ids = s.encode(s.render((*FIRST, Message("assistant", answer))))
        same = next((i for i, (a, b) in enumerate(zip(ids, all_ids, strict=False)) if a != b), len(ids))
        if same < len(ids):
            merged.append(f"{_text(s, ids[same:])!r} becomes {_text(s, all_ids[same : same + 1])!r} before {answer!r}")
    if merged:
        found = f"its last token merges with {len(merged)} of {len(tried)} answers: {merged[0]}"
        return judged(found, bad=True, grave=len(merged) > MANY_MERGED * len(tried), merged=len(merged), tried=len(tried))
    return ok(f"its {len(ids)} tokens begin prompt + answer, for {len(tried)} answers", merged=0, tried=len(tried))


@GROUP.check(
    "end of answers",
    means="The model learns to stop from the token after its answer. If the template writes none, or only the next turn's first token "
    "stands there, the loss looks fine and answers never end.",
    do="Let the template write an end token (one that is marked special) right after every assistant message.",
)
def end_of_answers(s: Subject) -> Result:
    one, two = s.render(ONE_TURN), s.render(TWO_TURNS)
    after = _between(one, ANSWERS[0], "")
    first = _first_added(s, after)
    if first is None:
        return fail(f"after an answer the template writes {after[:24]!r}: no end token")
    token, special = first
    if not special:
        return fail(
            f"{s.named(token)} follows an answer but is not marked special: it stays in decoded text and can be typed by a user",
            f"Mark it: tokenizer.add_special_tokens({{'extra_special_tokens': [{s.tokenizer.convert_ids_to_tokens(token)!r}]}}), and save.",
        )
    middle = _first_added(s, _between(two, ANSWERS[0], QUESTIONS[1]))
    if middle is None or middle[0] != token:
        there = s.named(middle[0]) if middle else "no special token"
        return fail(f"{s.named(token)} ends the last answer only; after an earlier one stands {there}")
    return ok(f"{s.named(token)} after every answer", id=token)


@GROUP.check(
    "what is trained",
    means="Trained must be the assistant's words and their end tokens, and nothing else: a mask that is off by one never trains an "
    "answer's first token, or trains the user's.",
    do="See the colours: trimtab data show FILE --model MODEL. Mend the template as the other checks say.",
)
def what_is_trained(s: Subject) -> Result:
    found = s.chat_attempt
    if found.value is None:
        return fail(f"trimtab refuses the template: {found.error}")
    renderer = found.value
    supervised = 0
    for messages, answers in ((ONE_TURN, ANSWERS[:1]), (TWO_TURNS, ANSWERS)):
        try:
            _, ids, trained = renderer.conversation(messages)
        except UserError:
            continue  # several turns have a check of their own
        spans = [[i for i, _ in run] for kept, run in groupby(zip(ids, trained, strict=True), lambda pair: pair[1]) if kept]
        texts = [renderer.raw(span) for span in spans]
        right = [a in text and span[-1] == renderer.end_id for a, text, span in zip(answers, texts, spans, strict=False)]
        foreign = [q for q in QUESTIONS for text in texts if q in text]
        if len(spans) != len(answers) or not all(right) or foreign:
            shown = " | ".join(texts) or "nothing"
            return fail(f"of {len(answers)} answers, trained is {shown!r}")
        supervised = sum(trained)
    return ok(f"the answers and their end tokens, nothing else ({supervised} tokens of the example)", supervised=supervised)


@GROUP.check(
    "several turns",
    means="If a template rewrites earlier turns when later ones are added (thinking models drop their thoughts), an answer in the middle "
    "of a conversation is trained in a form that is never sampled.",
    do="Nothing in trimtab: it trains each answer after the prompt that it is sampled from. Elsewhere train on the last turn alone, or "
    "with a template that keeps its turns.",
)
def several_turns(s: Subject) -> Result:
    renderer = s.renderer
    try:
        parts = renderer.turns(TWO_TURNS)
    except UserError as error:
        return warning(f"trimtab refuses conversations of several turns: {error}")
    if len(parts) > 1:
        return warning("earlier turns are rendered otherwise than when they were the last")
    one, two = s.render(ONE_TURN), s.render(SECOND, generation=True)
    kept = two.startswith(one[: one.rindex(renderer.end) + len(renderer.end)])
    return ok("earlier turns stay as they were") if kept else warning("earlier turns are rendered otherwise than when they were the last")


@GROUP.check(
    "assistant mask",
    means="Trainers that ask transformers for the assistant's mask train where the template says {% generation %}: a template without it "
    "trains nothing there, and one that closes it before the end token never trains the end.",
    do="Put {% generation %} before the answer and {% endgeneration %} behind its end token. trimtab finds its spans without them.",
)
def assistant_mask(s: Subject) -> Result:
    template = s.tokenizer.chat_template
    if not template:
        raise NotApplicable("no chat template: a base model")
    if not GENERATION.search(str(template)):
        raise NotApplicable("no {% generation %} in the template: trimtab needs none, assistant_only_loss elsewhere would train nothing")
    rows = [{"role": m.role, "content": m.content} for m in TWO_TURNS]
    out = s.tokenizer.apply_chat_template(rows, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    pairs = list(zip(out["input_ids"], out["assistant_masks"], strict=True))
    spans = [[i for i, _ in run] for kept, run in groupby(pairs, lambda pair: bool(pair[1])) if kept]
    if not spans:
        return fail(f"{{% generation %}} marks none of {len(pairs)} tokens", supervised=0)
    texts = [_text(s, span) for span in spans]
    foreign = [q for q in QUESTIONS for text in texts if q in text]
    if foreign or len(spans) != len(ANSWERS) or any(a not in text for a, text in zip(ANSWERS, texts, strict=False)):
        return fail(f"{{% generation %}} marks {' | '.join(texts)!r}")
    ends = {s.answer_end, *(s.stops if not s.scores else ())}
    if any(not ends & set(span[-2:]) for span in spans):  # a newline may follow the end token
        return fail(f"{{% generation %}} leaves the end token out: it marks {' | '.join(texts)!r}")
    return ok(f"marks the answers and their end tokens ({sum(map(len, spans))} tokens of the example)", supervised=sum(map(len, spans)))


def _between(text: str, start: str, stop: str) -> str:
    """What stands behind the last ``start``, up to ``stop`` where one follows."""
    if start not in text:
        raise NotApplicable("the chat template leaves messages of the example out")
    rest = text[text.rindex(start) + len(start) :]
    return rest[: rest.index(stop)] if stop and stop in rest else rest


def _first_added(s: Subject, text: str) -> tuple[int, bool] | None:
    """The first token of ``text`` that is no ordinary piece of text, and whether it is marked special."""
    added = s.tokenizer.added_tokens_decoder
    return next(((i, added[i].special) for i in s.encode(text) if i in added), None)


def _text(s: Subject, ids: list[int]) -> str:
    return str(s.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
