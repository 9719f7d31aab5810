"""Messages -> token ids, through the tokenizer's own chat template, with the tokens that are trained.

The template is rendered as text; where a prompt ends and where an answer ends are positions in that text, so trained
spans are found by construction. What a model is trained on is what it sees when it samples: the prompt's ids come
first, unchanged, and the answer with its end token follows. A template for which that cannot hold is refused.

Special tokens that stand in somebody's text (a typed ``<|im_end|>``) are encoded as plain text: nobody can end a turn
from inside it.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from trimtab.common.errors import UserError
from trimtab.common.yamls import read_text
from trimtab.records import Message, Prompt

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# private-use characters around a special token that a user wrote; the same two that transformers uses for this
MARKS = "\U000f0000", "\U000f0001"
PROBE_PROMPT = (Message("user", "Where is the mill?"),)
PROBE_ANSWERS = ("By the river.", "1. one\n2. two")
PAD = "<|pad|>"
MINDED = ("model", "normalizer", "pre_tokenizer", "added_tokens")  # what decides which ids a text has


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


def tokenizer_sha(tokenizer: PreTrainedTokenizerBase) -> str:
    """A SHA-256 of everything that decides which ids a text has; equal before and after saving and loading.

    The chat template, padding and truncation are left out: they do not change what an id means; nor does the pad token that a
    reward model's tokenizer gets.
    """
    inner = json.loads(_backend(tokenizer).to_str())
    inner["added_tokens"] = [t for t in inner["added_tokens"] if t["content"] != PAD]
    text = json.dumps({name: inner.get(name) for name in MINDED}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Renderer:
    """One tokenizer with one template: ``chat`` is its own, ``plain`` is text alone, for models that know no chat.

    Plain: the start token if there is one, then each message's text and a newline; an answer ends with the end token.

    Raises:
        UserError: the tokenizer has no template or no end token, or is not a fast one; or the template does not keep a
            prompt's ids when the answer is added, or ends answers with no special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Literal["chat", "plain"] = "chat") -> None:
        self.tokenizer, self.template = tokenizer, template
        self.name = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        self._inner = _backend(tokenizer)
        special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted({token.content for token in special}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        start, end = MARKS
        self._marked = re.compile(f"{start}({self._special.pattern}){end}|[{start}{end}]")
        if template == "plain" and tokenizer.eos_token_id is None:
            raise UserError(f"{self.name}: the tokenizer has no end token, which template=plain needs; set eos_token")
        if template == "chat" and not tokenizer.chat_template:
            raise UserError(f"{self.name}: the tokenizer has no chat template; set chat_template or use template=plain")
        self._probe = self._render(PROBE_PROMPT, generation=True)
        self._probe_ids = self._encode(self._probe)
        self.end, self._tail = self._find_end()
        self.end_id = int(tokenizer.convert_tokens_to_ids(self.end))
        self._close = re.compile(f"(?<!{start}){re.escape(self.end)}")
        self._pad = tokenizer.decode(self._encode("x"), clean_up_tokenization_spaces=False)[:-1]
        for answer in PROBE_ANSWERS:
            self._verify(answer)

    @cached_property
    def sha(self) -> str:
        """``tokenizer_sha`` of the tokenizer."""
        return tokenizer_sha(self.tokenizer)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, ready for the answer: the template's generation prompt is its end.

        Raises:
            UserError: the template refuses these messages.
        """
        return self._encode(self._render(prompt.messages, generation=True, where=prompt.id))

    def completion(self, text: str, *, end: bool = True) -> list[int]:
        """Token ids of an answer with its end token (``end=False``: an answer that was cut by length, without it)."""
        rest = self._answer(text)
        ids = self._pieces([self._probe, rest if end else rest.removesuffix(self._tail)], self._probe_ids)[1]
        return [*ids, self.end_id] if end else ids

    def conversation(
        self, messages: Sequence[Message], where: str = "conversation"
    ) -> tuple[list[int], list[int], list[bool]]:
        """``(prompt ids, completion ids, trained)`` of a conversation that ends with the assistant.

        The prompt ends where the first answer to a user begins; the completion is the rest, up to the last end token.
        ``trained[t]`` is True on what the assistant writes, its end tokens included, and False on what stands between.

        Raises:
            UserError: no answer to a user, or the template rewrites earlier turns when later ones are added.
        """
        answers = [
            i for i, m in enumerate(messages) if m.role == "assistant" and "user" in {b.role for b in messages[:i]}
        ]
        if not answers or messages[-1].role != "assistant":
            raise UserError(f"{where}: a conversation to train on ends with an assistant's answer to a user")
        whole = self._render(messages, generation=False, where=where)
        pieces, done = [], 0
        for i in answers:
            before = self._render(messages[:i], generation=True, where=where)
            close = self._close.search(whole, len(before))
            if not whole.startswith(before) or len(before) < done or not close:
                raise UserError(
                    f"{where}: {self.name}'s chat template rewrites the turns before answer {i + 1}, so that what is "
                    "trained is not what is sampled; use single-turn records or another template"
                )
            pieces += [whole[done : len(before)], whole[len(before) : close.end()]]
            done = close.end()
        encoded = self._pieces(pieces, self._encode(pieces[0]))
        rest = [(token, k % 2 == 0) for k, piece in enumerate(encoded[1:]) for token in piece]
        return encoded[0], [token for token, _ in rest], [trained for _, trained in rest]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, without special tokens and the space that the tokenizer puts before a text."""
        kept = [token for token in ids if token != self.end_id]
        text = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).removeprefix(self._pad) if self._pad else str(text)

    def raw(self, ids: Sequence[int]) -> str:
        """The text of ids as the model sees them, special tokens included."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def count(self, text: str) -> int:
        """How many tokens a plain text has."""
        return len(self._encoding(text, as_text=True).ids)

    def _render(self, messages: Sequence[Message], *, generation: bool, where: str = "") -> str:
        """The text of the messages, with marks around special tokens that their writers typed."""
        start, end = MARKS
        rows = [
            {
                "role": m.role,
                "content": self._special.sub(f"{start}\\g<0>{end}", m.content.replace(start, "").replace(end, "")),
            }
            for m in messages
        ]
        if self.template == "plain":
            stop = self.tokenizer.eos_token
            bodies = (r["content"] + (stop if r["role"] == "assistant" else "\n") for r in rows)
            return (self.tokenizer.bos_token or "") + "".join(bodies)
        try:
            return str(self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation))
        except (TemplateError, TypeError, ValueError) as error:
            said = f"{', '.join(m.role for m in messages)}: {' '.join(str(error).split())}"
            raise UserError(
                f"{where or self.name}: {self.name}'s chat template refuses these messages ({said})"
            ) from None

    def _find_end(self) -> tuple[str, str]:
        """The end token's text, and what the template writes between an answer and it (Llama 2: a space)."""
        text = PROBE_ANSWERS[0]
        whole = self._render((*PROBE_PROMPT, Message("assistant", text)), generation=False)
        if not whole.startswith(self._probe) or text not in whole[len(self._probe) :]:
            raise UserError(
                f"{self.name}: the chat template's prompt is not the beginning of prompt + answer, so that answers "
                "cannot be told from prompts; let add_generation_prompt write what stands before an answer"
            )
        after = whole[whole.index(text, len(self._probe)) + len(text) :]
        match = self._special.search(after)
        if not match:
            raise UserError(
                f"{self.name}: the chat template ends answers with no special token; add eos_token after each"
            )
        return match.group(), after[: match.start()]

    def _verify(self, answer: str) -> None:
        """Checks on one answer that prompt ids + completion ids are what the template renders, with one end token.

        Raises:
            UserError: they are not.
        """
        whole = self._render((*PROBE_PROMPT, Message("assistant", answer)), generation=False)
        cut = whole[: whole.index(self.end, len(self._probe)) + len(self.end)]
        ids = self.completion(answer)
        if self._probe_ids + ids != self._encode(cut) or ids.count(self.end_id) != 1:
            raise UserError(
                f"{self.name}: the chat template's prompt is not a token prefix of prompt + answer (its last token "
                "merges with the answer's first); end the generation prompt with a special token or a newline"
            )

    def _answer(self, text: str) -> str:
        """What the template writes between the probe prompt and the end token for an answer."""
        whole = self._render((*PROBE_PROMPT, Message("assistant", text)), generation=False)
        close = self._close.search(whole, len(self._probe))
        if not whole.startswith(self._probe) or not close:
            raise UserError(f"{self.name}: the chat template changes its prompt for the answer {text[:40]!r}")
        return whole[len(self._probe) : close.start()]

    def _pieces(self, texts: Sequence[str], first: Sequence[int]) -> list[list[int]]:
        """The ids of consecutive texts: as encoded together where no token crosses a border, else each encoded alone.

        Together is what the template renders, and what tokenizers that mark the beginnings of words need. A border is
        crossed when an answer begins with white space that merges with its prompt's end; there the prompt's own ids
        ``first`` count, for they are what sampling starts from.
        """
        whole = "".join(texts)
        if MARKS[0] not in whole:
            encoding = self._encoding(whole)
            ids, offsets = encoding.ids, encoding.offsets
            borders = list(accumulate(map(len, texts)))
            starts = [0, *(bisect_left(offsets, border, key=itemgetter(0)) for border in borders)]
            crossed = any(offsets[n - 1][1] > border for n, border in zip(starts[1:-1], borders, strict=False))
            if ids[: starts[1]] == first and not crossed:
                return [ids[i:j] for i, j in pairwise(starts)]
        return [list(first), *map(self._encode, texts[1:])]

    def _encode(self, text: str) -> list[int]:
        """Ids of a rendered text; marked special tokens as plain text."""
        ids: list[int] = []
        for i, piece in enumerate(self._marked.split(text) if MARKS[0] in text else [text]):
            if piece:
                ids += self._encoding(piece, as_text=i % 2 == 1).ids
        return ids

    def _encoding(self, text: str, as_text: bool = False) -> Any:
        # straight from the backend: the tokenizer's own call sets the same switches and wraps every result
        if self._inner.truncation or self._inner.padding:
            self._inner.no_truncation()
            self._inner.no_padding()
        self._inner.encode_special_tokens = as_text
        try:
            return self._inner.encode(text, add_special_tokens=False)
        finally:
            self._inner.encode_special_tokens = False


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        name = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        raise UserError(f"{name}: not a fast tokenizer; save it with a tokenizer.json (AutoTokenizer converts most)")
    return inner
