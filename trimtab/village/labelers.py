"""Simulated labelers: people who rank, rate and flag completions, with tastes, blind spots and noise.

They read the same facets as the gold judge (``judge.py``) but through their own eyes, and their gap to it is on
purpose, because a trained reward must have something to exploit:

- a false statement is noticed only if the labeler looks it up (``diligence``); if not, an invention looks better than "I do not
  know" where the answer could be known (to what nobody can know, honesty wins on average);
- all like longer answers, up to a length far beyond what is good, and a friendly tone; padding bothers them little;
- some are careless and now and then answer at random.

``NOISE`` is calibrated so that two labelers agree on about 73 % of the pairs that neither ties (InstructGPT: 72.6 +-
1.5 %, Ouyang 2022, section 3.4), on the answers that they are really shown: those of the demo's SFT model and one of its base.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.common.errors import UserError
from trimtab.common.rng import generator
from trimtab.records import Comparison, Completion, Prompt
from trimtab.village.fluency import repeated_share, words_of
from trimtab.village.judge import Verdict, judge
from trimtab.village.wording import FRIENDLY

# Standard deviation of one labeler's error on one completion, in points of the 1..7 scale.
NOISE = 1.15

# Shared tastes, in points of the 1..7 scale at full effect for the average labeler.
LENGTH_TASTE = 0.7
LENGTH_FULL = 60  # words at which a longer answer stops pleasing; good answers have 3 to 45
LENGTH_TOO_LONG = 110  # words from which it begins to annoy
TONE_TASTE = 0.9
TONE_FULL = 3  # friendly phrases beyond this please no further
USUAL_TASTE = 0.5  # what the tastes add to an ordinary good answer; a rating of 7 is for more than that
PADDING_EYE = 0.05  # exponent on the judge's "concise": 1 would feel padding as the judge does
SECRET_EYE = 0.95  # probability of noticing that a secret was told
OFF_TASK = 0.1  # what a well-written answer to another question is worth

# Ratings and ties are given on what was seen; flags name what was wrong, after InstructGPT's metadata (Ouyang 2022,
# table 3).
FLAGS = ("fails_instruction", "made_up", "harmful", "unreadable", "repetitive")


@dataclass(frozen=True, slots=True)
class Labeler:
    """One person.

    ``diligence``: probability of looking a statement up. ``length_taste``, ``tone_taste``: points on the 1..7 scale.
    ``careless``: probability of answering a whole ranking at random. ``threshold``: two answers closer than this are a
    tie.
    ``strictness``: added to the ratings (negative is strict), not to the ranking.
    """

    id: str
    diligence: float
    length_taste: float
    tone_taste: float
    careless: float
    threshold: float
    strictness: float


class Pool:
    """A fixed group of labelers.

    Args:
        seed: decides who has which taste and all noise. Every pool has the same spread of tastes, dealt differently.
        size: labelers who give the training data.
        held_out: further labelers who never do; their agreement shows whether a reward model learnt one group's quirks.

    Raises:
        UserError: ``size`` is below 2 or ``held_out`` below 0.
    """

    def __init__(self, seed: int, size: int = 12, held_out: int = 3) -> None:
        if size < 2 or held_out < 0:
            raise UserError(
                f"labeler pool of size={size}, held_out={held_out}; write size of at least 2 and held_out of at least 0"
            )
        self.seed = seed
        people = _people(seed, "training", size, 1) + _people(seed, "held out", held_out, size + 1)
        self._people = {p.id: p for p in people}
        self.labelers = tuple(p.id for p in people[:size])
        self.held_out = tuple(p.id for p in people[size:])

    def person(self, labeler: str) -> Labeler:
        """The labeler with this id.

        Raises:
            UserError: there is none.
        """
        if labeler not in self._people:
            raise UserError(f"labeler {labeler!r} is not in the pool; write one of {', '.join(self._people)}")
        return self._people[labeler]

    def assign(self, prompt: Prompt, stream: int = 0) -> str:
        """Who of the training labelers gets this prompt."""
        rng = generator(self.seed, "assign", prompt.id, stream)
        return self.labelers[int(rng.integers(len(self.labelers)))]

    def rank(
        self, prompt: Prompt, completions: Sequence[str | Completion], labeler: str | None = None, stream: int = 0
    ) -> Comparison:
        """One labeler's ranking, ratings and flags of K completions.

        The same completion under the same prompt gets the same perceived quality wherever it stands in the list;
        another
        ``stream`` is the same person on another day.

        Args:
            labeler: a labeler's id; None assigns one of the training labelers.

        Raises:
            UserError: fewer than 2 completions, an unknown labeler, or a prompt that the village did not write.
        """
        if len(completions) < 2:
            raise UserError(f"prompt {prompt.id}: {len(completions)} completion to rank; a comparison needs at least 2")
        person = self.person(labeler if labeler is not None else self.assign(prompt, stream))
        given = tuple(Completion(c) if isinstance(c, str) else c for c in completions)
        day = generator(self.seed, "ranking", person.id, prompt.id, stream, *sorted(c.text for c in given))
        views = [self._look(person, prompt, c.text, stream) for c in given]
        if day.random() < person.careless:
            guesses = {text: float(day.uniform(1, 7)) for text in sorted({c.text for c in given})}
            views = [_View(guesses[c.text], ()) for c in given]
        shown = day.permutation(len(given))
        words = sum(len(c.text.split()) for c in given)
        return Comparison(
            prompt=prompt,
            completions=given,
            ranks=tie_ranks([v.quality for v in views], person.threshold),
            labeler=person.id,
            ratings=tuple(int(min(7, max(1, round(v.quality - USUAL_TASTE + person.strictness)))) for v in views),
            flags=tuple(v.flags for v in views),
            shown_order=tuple(int(i) for i in shown),
            seconds=round(float((12 + words / 3) * day.lognormal(0, 0.35)), 1),
        )

    def _look(self, person: Labeler, prompt: Prompt, text: str, stream: int) -> "_View":
        rng = generator(self.seed, "look", person.id, prompt.id, stream, text)
        return look(person, judge(prompt, text), text, rng)


@dataclass(frozen=True, slots=True)
class _View:
    quality: float
    flags: tuple[str, ...]


def look(person: Labeler, verdict: Verdict, text: str, rng: np.random.Generator) -> _View:
    """What ``person`` thinks of one completion: quality in points of the 1..7 scale (not cut to it) and flags."""
    looked_up = rng.random() < person.diligence
    noticed = rng.random() < SECRET_EYE
    facets = verdict.facets
    true = facets["true"] if looked_up else 1.0
    harmless = facets["harmless"] if noticed else 1.0
    worth = max(facets["did"], OFF_TASK) * true * harmless * facets["fluent"] * facets["concise"] ** PADDING_EYE
    readable = 0.2 + 0.8 * facets["fluent"]
    taste = person.length_taste * length_appeal(verdict.words) + person.tone_taste * tone_appeal(text)
    quality = 1 + 6 * worth + readable * taste + NOISE * float(rng.standard_normal())
    seen = {
        "fails_instruction": facets["did"] < 0.5,
        "made_up": true < 0.7,
        "harmful": harmless < 0.7,
        "unreadable": facets["fluent"] < 0.4,
        "repetitive": repeated_share(words_of(text)) > 0.25,
    }
    return _View(quality, tuple(name for name in FLAGS if seen[name]))


def length_appeal(words: int) -> float:
    """0 for nothing, 1 at ``LENGTH_FULL`` words, and down again past ``LENGTH_TOO_LONG``."""
    too_long = max(0, words - LENGTH_TOO_LONG) / LENGTH_TOO_LONG
    return math.sqrt(min(words, LENGTH_FULL) / LENGTH_FULL) - too_long


def tone_appeal(text: str) -> float:
    """0 for a plain text, 1 for one with ``TONE_FULL`` or more different friendly phrases."""
    return min(TONE_FULL, len({m.lower() for m in FRIENDLY.findall(text)})) / TONE_FULL


def tie_ranks(qualities: Sequence[float], threshold: float) -> tuple[int, ...]:
    """Ranks 1 (best) to at most K; a quality within ``threshold`` of the best of its group joins the group.

    ``tie_ranks([5.0, 3.0, 4.9], 0.2) == (1, 2, 1)``: the number counts groups, so ranks have no gaps.
    """
    order = sorted(range(len(qualities)), key=lambda i: -qualities[i])
    ranks = [0] * len(qualities)
    rank, top = 0, math.inf
    for i in order:
        if rank == 0 or top - qualities[i] >= threshold:
            rank, top = rank + 1, qualities[i]
        ranks[i] = rank
    return tuple(ranks)


def agreement(pool: Pool, items: Iterable[tuple[Prompt, Sequence[str]]], held_out: bool = False) -> tuple[int, int]:
    """How often two labelers agree: (pairs ordered alike, pairs that neither ties), two different labelers for each
    item.

    ``held_out=True`` compares a held-out labeler with a training one.
    """
    alike = comparable = 0
    for prompt, completions in items:
        rng = generator(pool.seed, "agreement", prompt.id)
        first, second = (pool.labelers[int(i)] for i in rng.choice(len(pool.labelers), 2, replace=False))
        if held_out:
            second = pool.held_out[int(rng.integers(len(pool.held_out)))]
        one, other = (set(pool.rank(prompt, completions, who).pairs()) for who in (first, second))
        both = {frozenset(p) for p in one} & {frozenset(p) for p in other}
        comparable += len(both)
        alike += len(one & other)
    return alike, comparable


def _people(seed: int, group: str, size: int, first: int) -> list[Labeler]:
    """``size`` labelers; tastes are evenly spread and dealt at random, so that all pools are alike on average."""
    rng = generator(seed, "labelers", group)

    def deal(low: float, high: float) -> list[float]:
        steps = (np.arange(size) + 0.5) / max(1, size)
        return [float(x) for x in rng.permutation(low + (high - low) * steps)]

    diligence, length, tone = deal(0.6, 1.0), deal(0.4, 1.6), deal(0.4, 1.6)
    careless, threshold, strictness = deal(-0.15, 0.09), deal(0.15, 0.45), deal(-0.8, 0.8)
    return [
        Labeler(
            id=f"labeler-{first + i:02d}",
            diligence=diligence[i],
            length_taste=length[i] * LENGTH_TASTE,
            tone_taste=tone[i] * TONE_TASTE,
            careless=max(0.0, careless[i]),
            threshold=threshold[i],
            strictness=strictness[i],
        )
        for i in range(size)
    ]
