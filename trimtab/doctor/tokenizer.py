"""Whether text survives the way into tokens and back."""

from collections.abc import Callable, Sequence

from trimtab.doctor.check import Group, Result, fail, judged, ok, warning
from trimtab.doctor.subject import Subject

GROUP = Group("Tokenizer")

PLAIN = (
    "The quick brown fox jumps over the lazy dog.", "UPPER lower MiXeD", "1234567890 3.14159 -42 1,000,000",
    'a+b=c; x[i] != {y: "z"} // ~`@#$%^&*()_|\\',
)  # fmt: skip
WHITESPACE = ("two  spaces   three", "a line\nand another\n\n\nand a third", "\tindented\n    by four", "ends with a space ")
UNICODE = ("café naïve Ångström", "日本語と中文", "Ελληνικά русский עברית العربية", "😀 👩‍👧 🇨🇭", "≤ ∑ √ → “quotes” – dash…")
CLEANED = ("Hello , world ! It 's n't fine .", "a . b ? c")


@GROUP.check(
    "loads",
    means="trimtab needs a fast tokenizer beside the model: it says where in a text each token stands.",
    do="Save one: AutoTokenizer.from_pretrained(...).save_pretrained(MODEL) writes tokenizer.json.",
)
def loads(s: Subject) -> Result:
    found = s.tokenizer_attempt
    if found.value is None:
        return fail(f"no tokenizer to work with: {found.error}")
    template = "with a chat template" if found.value.chat_template else "without a chat template"
    return ok(f"{len(found.value):,} tokens, {template}", tokens=len(found.value))


@GROUP.check(
    "round trip",
    means="What the tokenizer loses the model can neither read nor write: numbers, code and names come back changed, and rewards are "
    "given to another text than the one that was sampled.",
    do="Train or choose a byte-level tokenizer (or one with byte fallback), and remove normalisers that change text.",
)
def round_trip(s: Subject) -> Result:
    lost = {kind: _changed(s, texts) for kind, texts in (("plain text", PLAIN), ("white space", WHITESPACE), ("Unicode", UNICODE))}
    count, tried = sum(map(len, lost.values())), len(PLAIN) + len(WHITESPACE) + len(UNICODE)
    shown = "; ".join(f"{kind}: {texts[0][0]!r} -> {texts[0][1]!r}" for kind, texts in lost.items() if texts)
    grave = bool(lost["plain text"] or lost["white space"])
    return judged(
        f"{tried - count} of {tried} texts come back as they were" + (f"; {shown}" if shown else ""), bad=bool(count), grave=grave,
        tried=tried, lost=count,
    )  # fmt: skip


@GROUP.check(
    "re-encoding",
    means="If the ids of a decoded text are not the ids that it was decoded from, whoever passes text between sampling and training "
    "trains on tokens that were never sampled, with logprobs of other tokens: KL jumps without a cause.",
    do="Pass token ids, never text, from sampling to training (trimtab does), and mend the tokenizer's decoder or normaliser.",
)
def re_encoding(s: Subject) -> Result:
    texts = (*PLAIN, *WHITESPACE, *UNICODE)
    again = [(text, ids) for text in texts if s.encode(_decode(s, ids := s.encode(text))) != ids]
    if not again:
        return ok(f"the ids of {len(texts)} texts are the same after decoding and encoding", tried=len(texts), changed=0)
    text, ids = again[0]
    return fail(
        f"the ids of {len(again)} of {len(texts)} texts change: {text!r} is {len(ids)} tokens, then {len(s.encode(_decode(s, ids)))}",
        tried=len(texts), changed=len(again),
    )  # fmt: skip


@GROUP.check(
    "decoding",
    means="clean_up_tokenization_spaces takes spaces out of decoded text ('a .' becomes 'a.'): what a judge reads is not what was sampled.",
    do="Set clean_up_tokenization_spaces to false in tokenizer_config.json (trimtab decodes without it).",
)
def decoding_adds_nothing(s: Subject) -> Result:
    texts = (*CLEANED, *PLAIN)
    changed = [t for t in texts if s.tokenizer.decode(s.encode(t)) != _decode(s, s.encode(t))]
    if changed:
        ids = s.encode(changed[0])
        return warning(f"by default {_decode(s, ids)!r} is shown as {s.tokenizer.decode(ids)!r}", changed=len(changed))
    asked = getattr(s.tokenizer, "clean_up_tokenization_spaces", False)
    note = " (older transformers would obey clean_up_tokenization_spaces)" if asked else ""
    return ok(f"decoded text is what the tokens say{note}", changed=0)


def _decode(s: Subject, ids: Sequence[int]) -> str:
    return str(s.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _changed(s: Subject, texts: Sequence[str]) -> list[tuple[str, str]]:
    """(text, what came back) where they differ by more than the space that some tokenizers put before a text."""
    bare: Callable[[str], str] = lambda text: text.lstrip(" ")  # noqa: E731
    return [(t, back) for t in texts if bare(back := _decode(s, s.encode(t))) != bare(t)]
