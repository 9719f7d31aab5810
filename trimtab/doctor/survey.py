"""One pass over a data file: records drawn by a seeded reservoir, and of all records a few bytes each.

What is rare but must be found (a prompt that comes twice, a pair that was judged both ways, a prompt of the test set) is
looked for in the whole file, by 64-bit hashes; what is a share is estimated on the drawn records.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trimtab.common.errors import UserError
from trimtab.common.rng import generator
from trimtab.data.formats import kind_of, read_prompts, reading, scan
from trimtab.doctor.settings import Config
from trimtab.records import Comparison, Completion, Demonstration, Prompt, Record, pairs_of

FIRST_ERRORS = 3
NGRAM = 13  # words, as in GPT-3's contamination study (Brown et al. 2020, appendix C)

Keys = NDArray[np.uint64]


@dataclass
class Survey:
    """What a file holds. Arrays have one entry a record (``prompt_keys``, ``record_keys``) or a judged pair (the others)."""

    path: str
    limit: int
    seed: int
    rows: int = 0
    bad_rows: int = 0
    errors: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    labelers: Counter[str] = field(default_factory=Counter)
    records: list[Record] = field(default_factory=list)  # at most ``limit``
    prompt_keys: "array[int]" = field(default_factory=lambda: array("Q"))
    record_keys: "array[int]" = field(default_factory=lambda: array("Q"))
    pair_keys: "array[int]" = field(default_factory=lambda: array("Q"))  # the prompt and two answers, in an order of their own
    pair_first: "array[int]" = field(default_factory=lambda: array("b"))  # whether the first in that order is preferred
    pair_labelers: "array[int]" = field(default_factory=lambda: array("Q"))
    test_prompts: list[Prompt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = generator(self.seed, "doctor", "rows")

    @property
    def total(self) -> int:
        """Records of the whole file."""
        return len(self.prompt_keys)

    @property
    def drawn(self) -> str:
        """``all 480 records`` or ``10,000 of 1,203,114 records``."""
        few = len(self.records) < self.total
        return f"{len(self.records):,} of {self.total:,} records" if few else f"all {self.total:,} records"

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Of the drawn records."""
        return [prompt_of(record) for record in self.records]

    @cached_property
    def demonstrations(self) -> list[Demonstration]:
        """Among the drawn records."""
        return [record for record in self.records if isinstance(record, Demonstration)]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Among the drawn records."""
        return [record for record in self.records if isinstance(record, Comparison)]

    @cached_property
    def pairs(self) -> list[tuple[Comparison, Completion, Completion]]:
        """(comparison, preferred, rejected) of every decided pair of the drawn comparisons."""
        return [(c, c.completions[a], c.completions[b]) for c in self.comparisons for a, b in c.pairs()]

    @cached_property
    def answers(self) -> list[str]:
        """Texts of every answer of the drawn records."""
        out = [d.completion for d in self.demonstrations]
        return out + [c.text for comparison in self.comparisons for c in comparison.completions]

    def few(self, count: int) -> list[Record]:
        """At most ``count`` of the drawn records, in the file's order."""
        if count >= len(self.records):
            return self.records
        places = generator(self.seed, "doctor", "few").choice(len(self.records), count, replace=False)
        return [self.records[i] for i in sorted(places.tolist())]

    def refuse(self, error: UserError) -> None:
        """Notes a row that cannot be read."""
        self.bad_rows += 1
        self.errors += [str(error)] if len(self.errors) < FIRST_ERRORS else []

    def add(self, record: Record) -> None:
        """Notes a record, and keeps it if the draw says so (algorithm R: Vitter 1985)."""
        prompt = prompt_of(record)
        key = prompt_key(prompt)
        self.prompt_keys.append(key)
        self.record_keys.append(_hash(str(key), *_content(record)))
        self.kinds[kind_of(record)] += 1
        if isinstance(record, Comparison):
            self._compare(record, key)
        if self.total <= self.limit:
            self.records.append(record)
        elif (place := int(self._draw.integers(self.total))) < self.limit:
            self.records[place] = record

    def _compare(self, record: Comparison, prompt: int) -> None:
        if any(rank is not None for rank in record.ranks):
            self.labelers[record.labeler or ""] += 1
        who = _hash(record.labeler or "")
        texts = [_hash(c.text) for c in record.completions]
        said = {(texts[better], texts[worse]) for better, worse in record.pairs()}  # a text that was sampled twice speaks once
        for a, b in sorted(said):
            if a != b:
                self.pair_keys.append(_hash(f"{prompt} {min(a, b)} {max(a, b)}"))
                self.pair_first.append(a < b)
                self.pair_labelers.append(who)


def survey(config: Config) -> Survey:
    """Reads ``config.data`` once.

    Raises:
        UserError: there is no such file, or it is of no kind that is read.
    """
    out = Survey(config.data, config.rows, config.seed)
    if config.test:
        out.test_prompts = read_prompts(config.test)
    with reading(config.data) as bar:
        try:
            for found in scan(config.data, config):
                out.rows += 1
                bar.advance()
                if found.error is not None:
                    out.refuse(found.error)
                    continue
                out.formats[found.format] += 1
                for record in found.records:
                    out.add(record)
        except UserError as error:  # the file breaks off: what was read before it still counts
            if not out.rows:
                raise
            out.refuse(error)
    return out


def prompt_of(record: Record) -> Prompt:
    """The prompt that a record is or holds."""
    return record if isinstance(record, Prompt) else record.prompt


def words_of(prompt: Prompt) -> list[str]:
    """What a prompt says, without case and white space."""
    return " ".join(m.content for m in prompt.messages).casefold().split()


def prompt_key(prompt: Prompt) -> int:
    """64 bits, equal for prompts that say the same."""
    return _hash(" ".join(words_of(prompt)))


def ngrams(words: Sequence[str], n: int = NGRAM) -> Iterator[tuple[str, ...]]:
    """Every ``n`` words in a row."""
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def repeats(keys: Sequence[int]) -> int:
    """How many entries came before."""
    found = np.frombuffer(keys, dtype=np.uint64) if isinstance(keys, array) else np.array(keys, dtype=np.uint64)
    return len(found) - len(np.unique(found))


def _content(record: Record) -> list[str]:
    """What makes a record the same as another beside its prompt."""
    if isinstance(record, Demonstration):
        return [record.completion]
    if isinstance(record, Comparison):
        return [*(c.text for c in record.completions), str(pairs_of(record.ranks)), record.labeler or ""]
    return []


def _hash(*texts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).digest(), "little")
