"""Rendered text <-> token ids, with control tokens that nobody can type.

In a rendered chat, a control token such as ``<|im_end|>`` was written either by the template, and is a command, or by a person, and is
text. The two look alike. Here the template's have private names (the text is then called sealed), and a copy of the tokenizer knows the
same ids by those names. So one pass over the whole text gives the ids that the tokenizer itself would give, except that what people
typed is text: no switch is needed, and no text is cut into pieces, which tokenizers that mark the beginnings of words would notice.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from tokenizers import Tokenizer

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedTokenizerBase

START, END = "\U000f0000", "\U000f0001"  # around a name; private use, so no text has them, and the two that transformers uses so
REPLACEMENT = "\ufffd"
# white space to the tokenizers library: to Python, four separators are too
WHITE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f")
WORD_MARK = "\u2581"  # SentencePiece's mark before a word


class Codec:
    """``tokenizer`` with ``controls`` (token texts) apart from text that looks like them.

    Raises:
        UserError: the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, controls: Collection[str]) -> None:
        facts = json.loads(backend(tokenizer).to_str())
        self._inner = Tokenizer.from_str(json.dumps(_renamed(facts, {token: _name(token) for token in controls})))
        any_control = "|".join(map(re.escape, sorted(controls, key=len, reverse=True))) or r"(?!)"
        self._look_alike = re.compile(any_control)
        self._written = re.compile(f"{START}({any_control}){END}|({any_control})|[{START}{END}]")
        words = sorted((t["content"] for t in facts["added_tokens"] if t["content"] not in controls), key=len, reverse=True)
        self._names = re.compile(f"({START}.*?{END})", re.DOTALL)
        self._added = re.compile("|".join([f"({START}.*?{END}", *map(re.escape, words)]) + ")", re.DOTALL)
        flags = {_name(t["content"]): (t["lstrip"], t["rstrip"]) for t in facts["added_tokens"] if t["content"] in controls}
        self._eats_before = {name for name, (before, _) in flags.items() if before}
        self._eats_after = {name for name, (_, after) in flags.items() if after}
        self._unknown, self._unknown_name = tokenizer.unk_token_id, _name(str(tokenizer.unk_token))
        self.pad = self.decode(self.encode("x").ids)[:-1]  # what the tokenizer puts before a text
        first = next(iter(flags), "")
        self._pad_inside = self.decode(self.encode(f"{first}x").ids).removeprefix(first)[:-1]  # and before one after a control token

    def clean(self, text: str) -> str:
        """``text`` as it can be written: the two private characters around names become the replacement character."""
        return text.replace(START, REPLACEMENT).replace(END, REPLACEMENT) if START in text or END in text else text

    def typed(self, text: str) -> list[str]:
        """Control tokens that stand in what a person wrote."""
        return self._look_alike.findall(text)

    def mark(self, text: str) -> str:
        """What a person wrote, ready for a template: control tokens in it are marked as text."""
        return self._look_alike.sub(f"{START}\\g<0>{END}", self.clean(text))

    def seal(self, rendered: str) -> str:
        """What a template rendered of marked texts -> sealed text: its own control tokens by their names, marks gone."""
        return self._written.sub(lambda m: m[1] or (_name(m[2]) if m[2] else ""), rendered)

    def name(self, token: str) -> str:
        """A control token's name in sealed text."""
        return _name(token)

    def tail(self, sealed: str) -> str:
        """``sealed`` from its last control token on; all of it where there is none. Ids before it do not depend on what follows."""
        return sealed[max(0, sealed.rfind(START)) :]

    def encode(self, sealed: str) -> Any:
        """The tokenizer's encoding: ``ids``, and ``offsets`` into ``sealed``."""
        return self._inner.encode(sealed, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Sealed text of ``ids``."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))

    def plain(self, sealed: str) -> str:
        """``sealed`` with control tokens under their own names again, as one shows it."""
        return sealed.replace(START, "").replace(END, "")

    def parts(self, sealed: str) -> list[str]:
        """Text and control tokens in turn, beginning and ending with text; the control tokens under their own names again."""
        return [part if i % 2 == 0 else part[1:-1] for i, part in enumerate(self._names.split(sealed))]

    def says(self, ids: Sequence[int], sealed: str) -> bool:
        """Whether ``ids`` decode to ``sealed``, as far as the tokenizer gives any text back.

        What it may change: a space that it puts before a text, white space that its control tokens swallow, its own
        normalisation, and its unknown token (then only control tokens are compared).
        """
        found, wanted = self._added.split(self.decode(ids)), self._added.split(sealed)
        names = [[name.replace(WORD_MARK, " ") for name in parts[1::2]] for parts in (found, wanted)]
        if self._unknown is not None and self._unknown in ids:
            return [name for name in names[0] if name != self._unknown_name] == names[1]
        return names[0] == names[1] and all(self._alike(found[i], self._uneaten(wanted, i), i) for i in range(0, len(wanted), 2))

    def _uneaten(self, parts: Sequence[str], i: int) -> str:
        text = parts[i]
        if i and parts[i - 1] in self._eats_after:
            text = text.lstrip(WHITE)
        if i + 1 < len(parts) and parts[i + 1] in self._eats_before:
            text = text.rstrip(WHITE)
        return text

    def _alike(self, found: str, wanted: str, i: int) -> bool:
        if found == wanted:
            return True
        may_begin = {"", self._pad_inside if i else self.pad}
        return self._normal(found) in {self._normal(pad + wanted) for pad in may_begin}

    def _normal(self, text: str) -> str:
        normalizer = self._inner.normalizer
        return (normalizer.normalize_str(text) if normalizer else text).replace(WORD_MARK, " ")


def backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The tokenizer of the ``tokenizers`` library inside.

    Raises:
        UserError: there is none.
    """
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        name = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        raise UserError(f"{name}: not a fast tokenizer; save it with a tokenizer.json (AutoTokenizer converts most)")
    return inner


def _name(token: str) -> str:
    return f"{START}{token}{END}"


def _renamed(facts: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer's JSON in which tokens have other names: in the vocabulary too, where a model of whole pieces would find the old
    ones in plain text. What is put around a text, cut or filled up goes."""
    model = facts["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        vocab = {names.get(token, token): number for token, number in vocab.items()}
    else:
        vocab = [[names.get(token, token), score] for token, score in vocab]
    model = {**model, "vocab": vocab}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in facts["added_tokens"]]
    return {**facts, "model": model, "added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
