"""How much a text reads like the village's English: known n-grams, sentence form, repetition.

The judge's eye for language. It knows nothing of the world or of tasks: it is given sample texts once, remembers which
word pairs and which class-abstracted word triples occur in them ("Anna lives in" -> "<name> lives in"), and measures
other texts against that. Content is other files' business.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

WORD = re.compile(r"['’]s\b|[^\W\d_]+(?:(?:['’](?!s\b)|-)[^\W\d_]+)*|\d+|[^\w\s]|_")
"""A word, a number, a mark, or the possessive "'s", which is not part of the name before it."""
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
START, END = "<s>", "."
TERMINALS = frozenset(".!?")

# Shares of known n-grams at which a text is unreadable and at which it is faultless. Held-out text of the village has
# 0.97 and more of either; its words in random order have about 0.1 and 0.2.
TRIPLES_NONE, TRIPLES_ALL = 0.25, 0.9
PAIRS_NONE, PAIRS_ALL = 0.4, 0.95


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text's surface shows.

    ``triples`` and ``pairs`` are the shares of known n-grams, ``form`` the share of sentences that begin with a
    capital and end with a stop, ``repeated`` the share of the text's words that only say again what was said (all in
    0..1); ``words`` counts words, without punctuation.
    """

    words: int
    sentences: tuple[str, ...]
    triples: float
    pairs: float
    form: float
    repeated: float

    @property
    def known(self) -> float:
        """0 for noise, 1 for the village's own English, by n-grams alone."""
        return ramp(self.triples, TRIPLES_NONE, TRIPLES_ALL) * ramp(self.pairs, PAIRS_NONE, PAIRS_ALL)

    @property
    def fluent(self) -> float:
        """``known``, of which bad form costs up to three tenths."""
        return self.known * (0.7 + 0.3 * self.form)


class Grammar:
    """Remembers the n-grams of sample texts.

    Args:
        texts: what counts as English here; every sentence of it reads with ``fluent`` 1.
        classes: lower-case phrase -> class tag (``"anna" -> "<name>"``, ``"mill lane" -> "<street>"``); phrases of one
            class are one word in triples, so that a triple seen with one name is known with all.
        light: word -> tag for pairs, a finer division; pairs keep all other words as they are.
    """

    def __init__(
        self, texts: Iterable[str], classes: Mapping[str, str], light: Mapping[str, str] | None = None
    ) -> None:
        phrases: dict[str, list[tuple[list[str], str]]] = {}
        for phrase, tag in classes.items():
            words = phrase.split()
            phrases.setdefault(words[0], []).append((words, tag))
        self._phrases = {first: sorted(rows, key=lambda row: -len(row[0])) for first, rows in phrases.items()}
        self._light = dict(light or {})
        self._triples: set[tuple[str, str, str]] = set()
        self._pairs: set[tuple[str, str]] = set()
        for text in texts:
            self.learn(text)

    def learn(self, text: str) -> None:
        """Adds a text's n-grams to those that are known."""
        triples, pairs = self._ngrams(split_sentences(text))
        self._triples.update(triples)
        self._pairs.update(pairs)

    def read(self, text: str, context: str = "") -> Reading:
        """Measures ``text``; n-grams of ``context`` (the prompt, which an answer may quote) count as known too."""
        sentences = split_sentences(text)
        words = [w for s in sentences for w in words_of(s)]
        if not words:
            return Reading(0, tuple(sentences), 0.0, 0.0, 0.0, 0.0)
        triples, pairs = self._ngrams(sentences)
        strange_triples = [t for t in triples if t not in self._triples]
        strange_pairs = [p for p in pairs if p not in self._pairs]
        if context and (strange_triples or strange_pairs):
            quoted_triples, quoted_pairs = self._ngrams(split_sentences(context))
            strange_triples = [t for t in strange_triples if t not in quoted_triples]
            strange_pairs = [p for p in strange_pairs if p not in quoted_pairs]
        return Reading(
            words=len(words),
            sentences=tuple(sentences),
            triples=1 - len(strange_triples) / len(triples),
            pairs=1 - len(strange_pairs) / len(pairs),
            form=sum(map(well_formed, sentences)) / len(sentences),
            repeated=repeated_share(words),
        )

    def _ngrams(self, sentences: Sequence[str]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
        triples: list[tuple[str, str, str]] = []
        pairs: list[tuple[str, str]] = []
        for sentence in sentences:
            tokens = WORD.findall(sentence.lower())
            if not tokens:
                continue
            if tokens[-1] not in TERMINALS:
                tokens.append(END)  # a missing stop is a fault of form, counted there
            light = [START, *(self._light.get(t, t) for t in tokens)]
            pairs.extend(zip(light, light[1:], strict=False))
            classed = [START, *self._classed(tokens)]
            triples.extend(zip(classed, classed[1:], classed[2:], strict=False))
        return triples, pairs

    def _classed(self, tokens: Sequence[str]) -> Iterator[str]:
        i = 0
        while i < len(tokens):
            for words, tag in self._phrases.get(tokens[i], ()):
                if len(words) == 1 or tokens[i : i + len(words)] == words:
                    yield tag
                    i += len(words)
                    break
            else:
                yield tokens[i]
                i += 1


def split_sentences(text: str) -> list[str]:
    """Sentences and lines, stripped; none is empty."""
    return [s for part in SENTENCE_END.split(text) if (s := part.strip())]


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers; a character that belongs to no word counts as one unless it is punctuation."""
    return [t for t in WORD.findall(text.lower()) if t[0].isalnum() or ord(t[0]) > 0x2100]


def well_formed(sentence: str) -> bool:
    """Begins with a capital (or a digit or an opening mark) and ends with a stop."""
    body = sentence.lstrip("\"'(¿¡- ")
    return bool(body) and (body[0].isupper() or body[0].isdigit()) and sentence.rstrip("\"')")[-1:] in TERMINALS


def repeated_share(words: Sequence[str]) -> float:
    """The share of words that close a word triple already seen, or repeat the word before: 0 for fresh text, near 1
    for a loop.

    The first is free: "nine nine" in a phone number is no loop.
    """
    seen: set[tuple[str, ...]] = set()
    again = 0
    for i, word in enumerate(words):
        triple = tuple(words[max(0, i - 2) : i + 1])
        stutter = i > 0 and word == words[i - 1]
        if stutter or (len(triple) == 3 and triple in seen):
            again += 1
        seen.add(triple)
    return max(0, again - 1) / len(words) if words else 0.0


def ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high``, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
