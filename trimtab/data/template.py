"""Messages -> token ids, through the tokenizer's own chat template, with the tokens that are trained.

The template is rendered as text; where a prompt ends and where an answer ends are positions in that text, so trained spans are found by
construction. Each is then verified: the prompt's ids come first, unchanged; the rest decodes to what the template wrote, which is the
assistant's text and the end token. What a model is trained on is what it sees when it samples. Where a template rewrites earlier turns
(drops their thoughts, moves the system message to the last question), each answer is trained after the prompt that it would be
sampled from. A template for which neither can be had is refused.

Control tokens that stand in somebody's text (a typed ``<|im_end|>``) are encoded as plain text: nobody can end a turn from inside it.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from jinja2 import TemplateError

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedTokenizerBase
from trimtab.common.yamls import read_text
from trimtab.data.around import PROBE_ANSWERS, PROBE_NEXT, PROBE_PROMPT, THOUGHT_AT_END, Around, find_around, find_end
from trimtab.data.codec import Codec, backend
from trimtab.records import Message, Prompt

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PAD = "<|pad|>"
MINDED = ("model", "normalizer", "pre_tokenizer", "added_tokens")  # what decides which ids a text has
TAILS = 1000  # ends of prompts whose ids are remembered; there are few but for templates without control tokens
SHOWN = 40  # characters of an answer in an error
GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


def read_template(path: str) -> str:
    """The text of a chat template's file, without the newline that editors put at its end.

    Raises:
        UserError: no such file, not text, or empty.
    """
    text = read_text(path).rstrip("\n")
    if not text.strip():
        raise UserError(f"chat_template={path}: the file is empty")
    return text


def ensure_template(tokenizer: PreTrainedTokenizerBase) -> int:
    """Adds ChatML to a tokenizer without a chat template; returns how many token ids were added (0 where it has one).

    The model's embedding must then have at least ``len(tokenizer)`` rows. ``<|im_end|>`` becomes the end token where
    there was none; otherwise the end token stays what it was.
    """
    if tokenizer.chat_template:
        return 0
    before = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(CHATML_TOKENS)}, replace_extra_special_tokens=False)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = CHATML_TOKENS[1]
    tokenizer.chat_template = CHATML
    return len(tokenizer) - before


def added_template(source: str, added: int) -> str:
    """One line for whoever's model got ChatML; ``added`` is what ``ensure_template`` returned."""
    tokens = f"{added} new tokens, which start as the mean of all others" if added else "its tokens were there"
    return f"{source}: no chat template; ChatML is used and saved with what is trained ({tokens}; answers end with {CHATML_TOKENS[1]})"


def tokenizer_sha(tokenizer: PreTrainedTokenizerBase) -> str:
    """A SHA-256 of everything that decides which ids a text has; equal before and after saving and loading.

    The chat template, padding and truncation are left out: they do not change what an id means; nor does the pad token that a
    reward model's tokenizer gets.
    """
    inner = json.loads(backend(tokenizer).to_str())
    inner["added_tokens"] = [t for t in inner["added_tokens"] if t["content"] != PAD]
    text = json.dumps({name: inner.get(name) for name in MINDED}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Encoded(NamedTuple):
    """A conversation, or the part of one that ends with one of its answers."""

    prompt: list[int]  # up to the first answer to a user
    completion: list[int]  # the rest, up to the last end token
    trained: list[bool]  # of each id of ``completion``: what the assistant writes, end tokens included


@dataclass(frozen=True)
class _Context:
    """Sealed text that an answer follows, and its end from the last control token on, which alone decides how the answer is split."""

    text: str
    tail: str
    tail_ids: list[int]


class Renderer:
    """One tokenizer with one template: ``chat`` is its own, ``plain`` is text alone, for models that know no chat.

    Plain: the start token if there is one, then each message's text and a newline; an answer ends with the end token.
    ``answers=False``: a template that is good to sample from, but whose answers cannot be told from prompts, is refused when the first
    answer's text is to become ids, which sampled answers never need.

    Raises:
        UserError: the tokenizer has no template or no end token, or is not a fast one; or the template does not keep a
            prompt's ids when the answer is added, or ends answers with no special token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Literal["chat", "plain"] = "chat", *, answers: bool = True
    ) -> None:  # fmt: skip
        self.tokenizer, self.template = tokenizer, template
        self.name = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        if template == "plain" and tokenizer.eos_token_id is None:
            raise UserError(f"{self.name}: the tokenizer has no end token, which template=plain needs; set eos_token")
        if template == "chat" and not tokenizer.chat_template:
            raise UserError(f"{self.name}: the tokenizer has no chat template; set chat_template or use template=plain")
        self._tail_ids: dict[str, list[int]] = {}
        self._last: tuple[Sequence[Message], _Context] | None = None
        self._codec = Codec(tokenizer, self._controls())
        self.end, shared = find_end(self.name, self._render, self._codec, tokenizer.bos_token)
        self.end_id = int(tokenizer.convert_tokens_to_ids(self.end))
        self.around = Around(self.end, shared=shared)
        self._probe = self._context(PROBE_PROMPT, self.name)
        self._unfit: UserError | None = None
        try:
            self.around = find_around(self.name, self._render, self._codec, self.end, shared)
            self._check_probes()
        except UserError as error:
            if answers:
                raise
            self._unfit = error

    @cached_property
    def sha(self) -> str:
        """``tokenizer_sha`` of the tokenizer."""
        return tokenizer_sha(self.tokenizer)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, ready for the answer: the template's generation prompt is its end.

        Raises:
            UserError: the template refuses these messages.
        """
        return self._prompt_ids(self._context(prompt.messages, prompt.id), prompt.id)

    def completion(self, text: str, *, end: bool = True, after: Prompt | None = None) -> list[int]:
        """Token ids of an answer with its end token (``end=False``: an answer that was cut by length, without it), verified as it
        stands ``after`` a prompt, or after one of ours.

        Raises:
            UserError: the template changes the answer's words, or its ids cannot follow the prompt's.
        """
        messages, where = (after.messages, after.id) if after else (PROBE_PROMPT, self.name)
        context = self._context(messages, where) if after else self._probe
        span = self._span(context, (*messages, Message("assistant", text)), where)
        if not end:
            span = span.removesuffix(self._codec.name(self.end)).removesuffix(self.around.gap)
        return self._follow(context, span, where)

    def conversation(self, messages: Sequence[Message], where: str = "conversation") -> Encoded:
        """A conversation that ends with the assistant as one sequence: every answer to a user is trained, nothing between them.

        Raises:
            UserError: no answer to a user; the template refuses these messages or changes an answer's words; or it rewrites earlier
                turns when later ones are added, so that one sequence cannot hold what each answer is sampled from.
        """
        parts = self.turns(messages, where)
        if len(parts) > 1:
            raise UserError(
                f"{where}: {self.name}'s chat template rewrites the turns before a later answer, so that what is trained in one sequence "
                "is not what is sampled; use single-turn records or another template"
            )
        return parts[0]

    def turns(self, messages: Sequence[Message], where: str = "conversation") -> list[Encoded]:
        """As ``conversation``; where the template rewrites earlier turns, one for each answer, after the prompt it is sampled from.

        Raises:
            UserError: no answer to a user; the template refuses these messages or changes an answer's words.
        """
        answers = [i for i, m in enumerate(messages) if m.role == "assistant" and "user" in {b.role for b in messages[:i]}]
        if not answers or messages[-1].role != "assistant":
            raise UserError(f"{where}: a conversation to train on ends with an assistant's answer to a user")
        contexts = [self._context(messages[:i], where) for i in answers]
        spans = [self._span(context, messages[: i + 1], where) for context, i in zip(contexts, answers, strict=True)]
        if len(answers) > 1 and (together := self._together(contexts, spans)):
            return [together]
        apart = []
        for context, span in zip(contexts, spans, strict=True):
            ids = self._follow(context, span, where)
            apart.append(Encoded(self._prompt_ids(context, where), ids, [True] * len(ids)))
        return apart

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, without special tokens and the space that the tokenizer puts before a text."""
        return self._decoded([token for token in ids if token != self.end_id], special=False)

    def written(self, ids: Sequence[int]) -> str:
        """The same with special tokens: what strings that end an answer are looked for in, as vLLM does."""
        return self._decoded(ids, special=True)

    def decode_before(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        """``decode`` of what stands before the first of the strings ``stop`` in ``written``; of everything where there is none."""
        text = self.written(ids)
        before = text[: min((at for string in stop if (at := text.find(string)) >= 0), default=len(text))]
        count = next(n for n in range(len(ids), -1, -1) if before.startswith(self.written(ids[:n])))
        return self.decode(ids[:count]) + before[len(self.written(ids[:count])) :]  # the stop string may begin inside a token

    def _decoded(self, ids: Sequence[int], *, special: bool) -> str:
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False))
        return text.removeprefix(self._codec.pad) if self._codec.pad else text

    def raw(self, ids: Sequence[int]) -> str:
        """The text of ids as the model sees them, special tokens included."""
        return "".join(self.parts(ids))

    def parts(self, ids: Sequence[int]) -> list[str]:
        """The text of ids as text and control tokens in turn, beginning and ending with text."""
        return self._codec.parts(self._codec.decode(ids))

    def typed(self, text: str) -> list[str]:
        """The control tokens that somebody wrote in a text, where they are text."""
        return self._codec.typed(text)

    def count(self, text: str) -> int:
        """How many tokens a plain text has."""
        return len(self._codec.encode(self._codec.clean(text)).ids)

    def _render(self, messages: Sequence[Message], *, generation: bool, where: str = "") -> str:
        """The sealed text of the messages."""
        marked = [Message(m.role, self._codec.mark(m.content)) for m in messages]
        return self._codec.seal(self._raw(marked, generation=generation, where=where))

    def _raw(self, messages: Sequence[Message], *, generation: bool, where: str = "") -> str:
        """What the template makes of the messages."""
        rows = [{"role": m.role, "content": m.content} for m in messages]
        if self.template == "plain":
            stop = self.tokenizer.eos_token
            bodies = (r["content"] + (stop if r["role"] == "assistant" else "\n") for r in rows)
            return (self.tokenizer.bos_token or "") + "".join(bodies)
        try:
            return str(self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation))
        except (TemplateError, TypeError, ValueError) as error:
            roles = [m.role for m in messages]
            hint = "; it may know no system messages: put their text into the first user message" if "system" in roles else ""
            raise UserError(
                f"{where or self.name}: {self.name}'s chat template refuses these messages "
                f"({', '.join(roles)}: {' '.join(str(error).split())}){hint}"
            ) from None

    def _controls(self) -> set[str]:
        """The special tokens, and other added tokens with which the template marks turns (DeepSeek's roles are no special tokens).

        Others (a thought's tags, a tool's) are words like any other, which the assistant writes and a user may quote.
        """
        added = [t for t in self.tokenizer.added_tokens_decoder.values() if t.content.strip().strip("\u2581")]
        turn = self._raw((*PROBE_PROMPT, Message("assistant", PROBE_ANSWERS[0])), generation=False)
        before, _, after = turn.partition(PROBE_ANSWERS[0])
        turn = THOUGHT_AT_END.sub("", before) + after
        return {t.content for t in added if t.special or t.content in turn}

    def _context(self, messages: Sequence[Message], where: str) -> _Context:
        if self._last and self._last[0] is messages:  # K answers to one prompt
            return self._last[1]
        text = self._render(messages, generation=True, where=where)
        tail = self._codec.tail(text)
        if tail not in self._tail_ids:
            if len(self._tail_ids) >= TAILS:
                self._tail_ids.clear()
            self._tail_ids[tail] = self._codec.encode(tail).ids
        context = _Context(text, tail, self._tail_ids[tail])
        if isinstance(messages, tuple):
            self._last = messages, context
        return context

    def _prompt_ids(self, context: _Context, where: str) -> list[int]:
        ids: list[int] = self._codec.encode(context.text).ids
        n = len(context.tail_ids)
        if not ids or ids[-n:] != context.tail_ids:
            raise UserError(f"{where}: {self.name} splits the end of this prompt in another way when it stands alone; leave it out")
        return ids

    def _span(self, context: _Context, messages: Sequence[Message], where: str) -> str:
        """The sealed text of ``messages``' last answer as the template writes it after ``context``, its end token included.

        Raises:
            UserError: it is not the answer's words; the template is good for sampling alone.
        """
        if self._unfit:
            raise self._unfit
        whole, name, text = self._render(messages, generation=False, where=where), self._codec.name(self.end), messages[-1].content
        if not whole.startswith(context.text):
            raise UserError(
                f"{where}: {self.name}'s chat template changes the turns before the answer {_cut(text)} when it is added, so that it "
                "is not rendered after what it is sampled from; use records that it keeps, or another template"
            )
        written, close, _ = whole[len(context.text) :].partition(name)
        if not close and not self.around.shared:
            raise UserError(f"{where}: {self.name}'s chat template does not end the answer {_cut(text)} with {self.end}")
        wanted, found = self._codec.clean(text), self._codec.plain(written)
        words = _words(wanted)
        if _words(written) not in (words, _words(self.around.opening) + words, words.removeprefix(self.around.opened)):
            raise UserError(
                f"{where}: {self.name}'s chat template rewrites the answer {_cut(text)} as {_cut(found)}; what it drops would never be "
                "trained: take it out of the text, or give the model another template"
            )
        return written + name

    def _follow(self, context: _Context, span: str, where: str) -> list[int]:
        """The ids of an answer after ``context``: what the tokenizer makes of both together where that begins with the context's own ids.

        An answer that begins with white space may merge with the prompt's end. There the prompt's own ids count, for they are what
        sampling starts from, and the answer is encoded after something else.
        """
        head = context.tail_ids
        for before in (context.tail, "", self._codec.name(self.end), "\n", "x"):
            start = head if before == context.tail else self._codec.encode(before).ids
            ids: list[int] = self._codec.encode(before + span).ids
            if ids[: len(start)] == start and self._codec.says(head + ids[len(start) :], context.tail + span):
                return ids[len(start) :]
        text = _cut(self._codec.plain(span))
        raise UserError(f"{where}: {self.name} has no token ids for the answer {text} after its prompt that decode to it; leave it out")

    def _together(self, contexts: Sequence[_Context], spans: Sequence[str]) -> Encoded | None:
        """All answers in one sequence, if it holds, for each, the ids of its prompt and then of its answer; else None."""
        whole = contexts[-1].text + spans[-1]
        if not all(whole.startswith(context.text + span) for context, span in zip(contexts, spans, strict=True)):
            return None
        encoding = self._codec.encode(whole)
        ids, starts = encoding.ids, [start for start, _ in encoding.offsets]
        borders = [0]
        for context, span in zip(contexts, spans, strict=True):
            # control tokens are where their text is; a byte of a character that the vocabulary lacks may not be
            tail = bisect_left(starts, len(context.text) - len(context.tail))
            first = tail + len(context.tail_ids)
            after = 1 + bisect_left(starts, len(context.text) + len(span) - len(self._codec.name(self.end)))
            if (
                ids[tail:first] != context.tail_ids or ids[after - 1] != self.end_id
                or not self._codec.says(ids[tail:after], context.tail + span)
            ):  # fmt: skip
                return None
            borders += [first, after]
        prompt, *rest = [ids[i:j] for i, j in pairwise(borders)]
        if prompt != self._codec.encode(contexts[0].text).ids:
            return None
        trained = [k % 2 == 0 for k, piece in enumerate(rest) for _ in piece]
        return Encoded(prompt, [token for piece in rest for token in piece], trained)

    def _check_probes(self) -> None:
        """Checks on known answers that prompt ids + completion ids are what the tokenizer makes of the rendered text.

        Raises:
            UserError: they are not.
        """
        ids = self._prompt_ids(self._probe, self.name)
        if ids[:2] == [self.tokenizer.bos_token_id] * 2:
            raise UserError(f"{self.name}: the chat template writes {self.tokenizer.bos_token} twice at the beginning; take one out")
        thought = f"{self.around.opened}\nHm.\n{self.around.opening.strip()}\n\n" if self.around.opened else ""
        for answer in (thought + text for text in PROBE_ANSWERS):
            span = self._span(self._probe, (*PROBE_PROMPT, Message("assistant", answer)), self.name)
            if ids + self.completion(answer) != self._codec.encode(self._probe.text + span).ids:
                raise UserError(
                    f"{self.name}: the chat template's prompt is not a token prefix of prompt + answer (its last token "
                    "merges with the answer's first); end the generation prompt with a special token or a newline"
                )
        if self.template == "chat" and GENERATION_TAG.search(self.tokenizer.get_chat_template()):
            self._check_tags()

    def _check_tags(self) -> None:
        """Where the template says itself what the assistant writes ({% generation %}), both must mean the same tokens.

        Raises:
            UserError: its tags leave out part of an answer, or mark what a user wrote.
        """
        asked = (*PROBE_PROMPT, Message("assistant", PROBE_ANSWERS[0]), PROBE_NEXT, Message("assistant", PROBE_ANSWERS[1]))
        rows = [{"role": m.role, "content": m.content} for m in asked]
        theirs = self.tokenizer.apply_chat_template(rows, return_dict=True, return_assistant_tokens_mask=True)
        ids, marked = theirs["input_ids"], theirs["assistant_masks"]
        # text is compared, not ids: the template may say less of an answer's borders than of its words
        said = _words(str(self.tokenizer.decode([t for t, mark in zip(ids, marked, strict=True) if mark])))
        answers = [_words(m.content) for m in asked if m.role == "assistant"]
        if not all(answer in said for answer in answers) or any(_words(m.content) in said for m in asked if m.role == "user"):
            raise UserError(
                f"{self.name}: the chat template's own {{% generation %}} tags mark {_cut(said)} in a conversation whose answers are "
                f"{' and '.join(map(repr, answers))}; mend the tags, or take them out"
            )


def _words(text: str) -> str:
    """``text`` without white space, which is all that a template may change in an answer."""
    return "".join(text.split())


def _cut(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
