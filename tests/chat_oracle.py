"""What must be trained of a conversation, found without trimtab: answers are told from the rest by rendering the template with sentinels in
their place, and tokens by the tokenizer's own call on the text up to each border. ``check`` holds a ``Renderer`` against it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from transformers import PreTrainedTokenizerFast

from trimtab.common.rng import generator
from trimtab.data.template import Encoded, Renderer
from trimtab.records import Message

Rows = Sequence[dict[str, str]]
# what a template may do to an answer's ends
STRIPS: list[Callable[[str], str]] = [str, str.strip, str.lstrip, str.rstrip, lambda text: text.lstrip("\n")]
OPENING = re.compile(r"\s*((<think>\s*)?</think>\s*)?")


@dataclass(frozen=True)
class Checked:
    """What was verified of one conversation."""

    spans: int
    together: bool  # in one sequence
    merged: int  # answers that the tokenizer would merge with their prompt's end


@dataclass(frozen=True)
class Answer:
    """Where one answer stands in a rendered conversation, in characters."""

    start: int  # its prompt's end
    end: int  # after its end token
    text: str  # between opening and gap, as rendered


def rows_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def render(tokenizer: PreTrainedTokenizerFast, rows: Rows, *, generation: bool = False) -> str:
    return str(tokenizer.apply_chat_template(list(rows), tokenize=False, add_generation_prompt=generation))


def answers_of(rows: Rows) -> list[int]:
    """Positions of what is trained: the assistant's turns after a user's."""
    return [i for i, row in enumerate(rows) if row["role"] == "assistant" and any(r["role"] == "user" for r in rows[:i])]


def find(tokenizer: PreTrainedTokenizerFast, rows: Rows, end: str) -> tuple[str, dict[int, Answer]]:
    """The rendered conversation up to its last end token, and its answers."""
    places = answers_of(rows)
    asked = [{**row, "content": f"Qz{i}zQ" if i in places else row["content"]} for i, row in enumerate(rows)]
    parts = re.split("|".join(f"Qz{i}zQ" for i in places), render(tokenizer, asked))
    whole = render(tokenizer, rows)
    for strip, strip_last in product(STRIPS, STRIPS):
        texts = [(strip_last if i == places[-1] else strip)(rows[i]["content"]) for i in places]
        if "".join(a + b for a, b in zip(parts, [*texts, ""], strict=True)) == whole:
            break
    else:
        raise AssertionError(f"the template does more to answers than strip them: {whole!r}")
    if end not in parts[-1]:  # the next turn's first token
        parts[-1] += end
        whole += end
    at, found = 0, {}
    for k, (i, text) in enumerate(zip(places, texts, strict=True)):
        at += len(parts[k])
        prompt = render(tokenizer, rows[:i], generation=True)
        gap = parts[k + 1][: parts[k + 1].index(end)]
        assert not gap.strip(), f"{gap!r} stands between an answer and its end"
        if whole.startswith(prompt):
            assert OPENING.fullmatch(whole[len(prompt) : at]), whole[len(prompt) : at]
        found[i] = Answer(len(prompt), at + len(text) + len(gap) + len(end), text)
        at += len(text)
    return whole[: found[places[-1]].end], found


def check(renderer: Renderer, tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], end: str) -> Checked:
    """Holds ``renderer.turns`` against the oracle.

    Raises:
        AssertionError: they differ.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = rows_of(messages)
    got, places = renderer.turns(messages), answers_of(rows)
    whole, answers = find(tokenizer, rows, end)
    alone = {i: find(tokenizer, rows[: i + 1], end) for i in places}
    prompts = {i: render(tokenizer, rows[:i], generation=True) for i in places}
    ids, heads = encode(whole), {i: encode(prompt) for i, prompt in prompts.items()}
    together = all(whole.startswith(alone[i][0]) and ids[: len(heads[i])] == heads[i] for i in places)
    assert len(got) == (1 if together else len(places)), "one sequence where it can be, else one for each answer"
    if together:
        n = len(heads[places[0]])
        spans = [range(len(heads[i]), len(encode(whole[: answers[i].end]))) for i in places]
        trained = [any(at in span for span in spans) for at in range(n, len(ids))]
        assert (got[0].prompt, got[0].completion, got[0].trained) == (ids[:n], ids[n:], trained)
        _decodes(tokenizer, got[0], [answers[i].text for i in places], end)
        return Checked(len(places), True, 0)
    merged = 0
    for i, encoded in zip(places, got, strict=True):
        text, found = alone[i]
        ids, n = encode(text), len(heads[i])
        assert encoded.prompt == heads[i] and all(encoded.trained) and len(encoded.trained) == len(encoded.completion)
        if ids[:n] == heads[i]:
            assert encoded.completion == ids[n:]
        else:
            merged += 1
            assert squeeze(tokenizer.decode(encoded.prompt + encoded.completion)) == squeeze(text)
        _decodes(tokenizer, encoded, [found[i].text], end)
    return Checked(len(places), False, merged)


def check_typed(renderer: Renderer, tokenizer: PreTrainedTokenizerFast, *, system: bool) -> int:
    """Types each control token into what system, user and assistant say; returns how many there are.

    Raises:
        AssertionError: the ids have one control token more than with a word in its place, or not the text that was typed.
    """
    tokens = [t for t in tokenizer.get_added_vocab() if t not in ("<think>", "</think>")]
    controls = {tokenizer.convert_tokens_to_ids(t) for t in tokens}

    def counted(typed: str) -> tuple[Counter[int], str]:
        texts = [f"one {typed}", f"{typed}two", f"x{typed}\nthree{typed}", f"four {typed} five"]
        turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
        pieces = renderer.turns([*([Message("system", f"a {typed} b")] if system else []), *turns])
        ids = [token for piece in pieces for token in (*piece.prompt, *piece.completion)]
        assert all(piece.completion[-1] == renderer.end_id for piece in pieces)
        return Counter(t for t in ids if t in controls), squeeze(renderer.raw(ids))

    plain, written = counted("word")
    for token in tokens:
        again, text = counted(token)
        assert again == plain and text == written.replace("word", squeeze(token))
    return len(tokens)


def check_tags(renderer: Renderer, tagged: PreTrainedTokenizerFast, messages: Sequence[Message]) -> None:
    """Holds the last piece of ``renderer.turns`` against transformers' assistant mask of the template with generation tags.

    Raises:
        AssertionError: they differ.
    """
    pieces = renderer.turns(messages)
    theirs = tagged.apply_chat_template(rows_of(messages), return_dict=True, return_assistant_tokens_mask=True)
    got, n = pieces[-1], len(pieces[-1].prompt)
    assert got.prompt + got.completion == theirs["input_ids"][: n + len(got.completion)]
    mask = list(map(bool, theirs["assistant_masks"][: n + len(got.completion)]))
    assert got.trained == mask[n:]
    assert len(pieces) > 1 or not any(mask[:n])  # of a conversation in pieces, the last answer is compared


def _decodes(tokenizer: PreTrainedTokenizerFast, encoded: Encoded, texts: Sequence[str], end: str) -> None:
    """The trained tokens say what the assistant says and its end token, an empty thought or its end before it at most; in this order."""
    kept = [token for token, flag in zip(encoded.completion, encoded.trained, strict=True) if flag]
    end_id = tokenizer.convert_tokens_to_ids(end)
    assert kept[-1] == end_id and kept.count(end_id) == len(texts)
    spans: list[list[int]] = [[]]
    for token in kept[:-1]:
        spans = [*spans, []] if token == end_id else [*spans[:-1], [*spans[-1], token]]
    said = [squeeze(tokenizer.decode(span)).removeprefix("<think>").removeprefix("</think>") for span in spans]
    assert said == [squeeze(text) for text in texts]


def squeeze(text: str) -> str:
    """``text`` without white space and SentencePiece's mark for it: tokenizers add and lose some around control tokens."""
    return "".join(text.replace("▁", " ").split())


TEXTS = (
    "Where does Anna live?", "By the river.", "1. one\n2. two", "Thank you, and a lovely day to all!", "I do not know", "a", "x  y",
    "def mill(x):\n    return x + 1\n", "Über café naïve", "你好,世界。", "Привет, как дела?", "مرحبا", "👩‍👩‍👧 family 🏳️‍🌈",
    "e\u0301 combining", "tab\tand\r\nreturn", "https://example.org/?q=1&r=2#x", "$x^2 + y_2$ \\frac{1}{2}", "{{ not jinja }} {% at all %}",
    "</b> <b> < > << >> [ ] [INST", "the " * 60, "Anna\n\n\n\nlives\n\n here", "12345678901234567890", "'quoted' \"twice\"", "...",
    "<think",
)  # fmt: skip
EDGES = ("", " ", "\n", "\n\n", "  ", "\t", " \n ")


def conversations(count: int, seed: int, *, system: bool, edges: bool = True) -> Iterator[list[Message]]:
    """Conversations of one to four questions, some with a system message; ``edges``: some texts begin or end with white space, or are
    empty."""
    draw = generator(seed, "conversations")

    def text(empty: bool) -> str:
        words = " ".join(str(draw.choice(TEXTS)) for _ in range(draw.integers(1, 4)))
        if not edges or draw.random() < 0.7:
            return words
        if empty and draw.random() < 0.1:
            return str(draw.choice(EDGES))
        return f"{draw.choice(EDGES)}{words}{draw.choice(EDGES)}"

    for _ in range(count):
        messages = [Message("system", text(False))] if system and draw.random() < 0.5 else []
        for _ in range(draw.integers(1, 5)):
            messages += [Message("user", text(False)), Message("assistant", text(True))]
        yield messages
