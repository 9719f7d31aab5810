"""Comparisons: what the ranks say, whether they contradict each other, and what else they go by than quality."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trimtab.common.rng import generator
from trimtab.common.stats import Estimate, proportion_interval, share_interval
from trimtab.data.encode import comparison_trees
from trimtab.doctor.check import Group, NotApplicable, Result, estimated, fail, judged, ok, warning
from trimtab.doctor.records import SEVERAL, faults, share
from trimtab.doctor.subject import Subject
from trimtab.feedback.reward_model import score_in_budget
from trimtab.records import Comparison, Completion, Record, pairs_of

GROUP = Group("Comparisons")
MANY_TIES, MANY_LONGER, FEW_LONGER, ONE_LABELER = 0.5, 0.65, 0.35, 0.5
LEAST = 10  # rankings below which nothing is concluded
COIN = 0.45  # of pairs that were judged twice, judged both ways: hardly better than tossing
OWN = 0.05  # the same by one labeler
SCORED = 200  # comparisons that a reward model reads
# Fields in which datasets keep what made the ranks: (of the preferred, of the rejected), or a list in the order of the answers.
SCORE_FIELDS = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"),
                ("chosen_rating", "rejected_rating"))  # fmt: skip


def needed(s: Subject) -> list[Comparison]:
    """The drawn comparisons, if there are any."""
    if not s.data.comparisons:
        raise NotApplicable("no comparisons")
    return s.data.comparisons


@GROUP.check(
    "pairs to learn from",
    means="Ties and answers without a rank are in no pair, so a record of them teaches a reward model or DPO nothing.",
    do="Ask labelers to tie only what they cannot tell apart, and drop records without a decided pair.",
)
def pairs_to_learn_from(s: Subject) -> Result:
    items, decided = needed(s), len(s.data.pairs)
    ranked = [sum(rank is not None for rank in c.ranks) for c in items]
    if not any(ranked):
        raise NotApplicable("nobody has ranked these answers yet")
    tied = sum(n * (n - 1) // 2 for n in ranked) - decided
    idle = sum(not c.pairs() for c in items)
    if not decided:
        return fail(f"no pair is decided in {s.data.drawn}: {tied:,} ties, {sum(n < 2 for n in ranked):,} records without ranks", tied=tied)
    found = f"{decided:,} decided pairs, {tied:,} ties ({100 * tied / (decided + tied):.1f} %); {idle:,} records without a decided pair"
    return judged(found, bad=tied > MANY_TIES * (decided + tied) or idle > MANY_TIES * len(items), grave=False, decided=decided, tied=tied)


@GROUP.check(
    "identical answers",
    means="A pair whose two answers are the same text has no better one: its gradient is noise, and accuracy on it is a coin.",
    do="Remove these pairs; if there are many, look at whether one field was copied to both.",
)
def identical_answers(s: Subject) -> Result:
    needed(s)

    def wrong(record: Record) -> str:
        assert isinstance(record, Comparison)
        same = [a for a, b in record.pairs() if record.completions[a].text.strip() == record.completions[b].text.strip()]
        return f"preferred to itself: {record.completions[same[0]].text.strip()[:40]!r}" if same else ""

    return faults(needed(s), wrong, "prefer an answer to itself", clean="no answer is preferred to its own text")


@GROUP.check(
    "contradictions",
    means="The same two answers to the same prompt, judged both ways: two people may differ (in InstructGPT they did on 27 % of pairs), "
    "but one labeler who contradicts himself, or labels without names that do, are noise.",
    do="Look at these labelers, or at whether ranks were mixed from files of opposite order; keep the field 'labeler'.",
)
def contradictions(s: Subject) -> Result:
    needed(s)
    data = s.data
    pairs, who = (np.frombuffer(keys, dtype=np.uint64) for keys in (data.pair_keys, data.pair_labelers))
    first = np.frombuffer(data.pair_first, dtype=np.int8)
    again, both = _judged_twice(pairs, first)
    if not again:
        return ok(f"none of the file's {len(pairs):,} pairs was judged twice", again=0, both=0)
    found = share("pairs that were judged more than once were judged both ways", both, again)
    if not set(data.labelers) - {""}:
        return judged(found, bad=both > 0, grave=both >= SEVERAL and both > again / 2, again=again, both=both)
    own_again, own_both = _judged_twice(pairs ^ who, first)
    found += f"; by one and the same labeler {own_both:,} of {own_again:,}"
    coin = proportion_interval(both, again).low > COIN
    return judged(found, bad=own_both > 0 or coin, grave=own_both >= SEVERAL and own_both > OWN * own_again, again=again, both=both)


def _judged_twice(pairs: np.ndarray, first: np.ndarray) -> tuple[int, int]:
    """How many distinct pairs come more than once, and how many of these were judged both ways."""
    _, place, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    won = np.bincount(place, weights=first, minlength=len(counts))
    return int((counts > 1).sum()), int(((won > 0) & (won < counts)).sum())


@GROUP.check(
    "length bias",
    means="How often the longer answer is preferred. Far above one half, a policy learns length first: answers grow and nothing else does; "
    "a reward model must beat this number to know anything more.",
    do="Compare the reward model's accuracy with it, report win rates by length, and ask labelers not to pay for words.",
)
def length_bias(s: Subject) -> Result:
    longer = []
    for comparison in needed(s):
        sizes = [len(c.text.split()) for c in comparison.completions]
        differ = [sizes[a] > sizes[b] for a, b in comparison.pairs() if sizes[a] != sizes[b]]
        longer += [sum(differ) / len(differ)] if differ else []
    if len(longer) < LEAST:
        raise NotApplicable(f"too few rankings with answers of different length ({len(longer)})")
    found = proportion_interval(sum(longer), len(longer))
    apart = found.low > MANY_LONGER or found.high < FEW_LONGER
    said = f"the longer answer is preferred on {found.percent()} (rankings, by words)"
    return judged(said, bad=apart, grave=False).also(estimated(found))


@GROUP.check(
    "rank direction",
    means="Files disagree on whether rank 0, 1 or the highest number is best, and chosen and rejected are swapped by a slip: a model "
    "trained on reversed ranks learns the worst answer.",
    do="Read a few: trimtab data show FILE. Turn them: trimtab data convert FILE ranks.best=high -o NEW, or swap the two fields.",
)
def ranks_the_right_way_round(s: Subject) -> Result:
    needed(s)
    clues = {
        "the rejected answer has the higher rating": _by_ratings(s.data.comparisons),
        "the rejected answer has the higher score": _by_scores(s.data.comparisons),
        "the preferred answer is empty or repeats itself and the other does not": _by_faults(s.data.comparisons),
    }
    clues = {words: estimate for words, estimate in clues.items() if estimate.n >= LEAST}
    if not clues:
        return ok("nothing in the file (ratings, scores, empty or repeating answers) tells")
    words, worst = max(clues.items(), key=lambda item: item[1].low)
    return judged(f"{words} on {worst.percent()} (rankings)", bad=False, grave=worst.low > 0.5).also(estimated(worst))


def _by_ratings(items: Iterable[Comparison]) -> Estimate:
    """How often the answer with the better rank has the lower rating."""
    return _against((c, c.ratings) for c in items if c.ratings)


def _by_scores(items: Iterable[Comparison]) -> Estimate:
    """The same for scores that the file keeps beside the ranks."""
    found: list[tuple[Comparison, Sequence[float]]] = []
    for c in items:
        extra = {**c.prompt.extra, **c.extra}
        lists = [extra.get("scores"), *([extra.get(chosen), extra.get(rejected)] for chosen, rejected in SCORE_FIELDS)]
        found += [(c, x) for x in lists if isinstance(x, list) and len(x) == len(c.ranks) and all(map(_number, x))]
    return _against(found)


def _against(items: Iterable[tuple[Comparison, Sequence[float]]]) -> Estimate:
    """How often the better rank has the lower number."""
    return _over_rankings([x[a] < x[b] for a, b in c.pairs() if x[a] != x[b]] for c, x in items)


def _by_faults(items: Iterable[Comparison]) -> Estimate:
    """Of the pairs in which one answer has a fault that nobody pays for, how often it is the preferred one."""

    def against(c: Comparison) -> list[bool]:
        faulty = [_faulty(answer) for answer in c.completions]
        return [faulty[a] for a, b in c.pairs() if faulty[a] != faulty[b]]

    return _over_rankings(map(against, items))


def _over_rankings(rankings: Iterable[Sequence[bool]]) -> Estimate:
    """The mean over rankings of the share of their pairs: the 36 pairs of nine answers are one person's word, not 36."""
    return share_interval([sum(pairs) / len(pairs) for pairs in rankings if pairs])


def _faulty(answer: Completion) -> bool:
    words = answer.text.split()
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    repeating = len(grams) >= 12 and len(set(grams)) < len(grams) / 2
    return not words or repeating


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@GROUP.check(
    "labelers",
    means="What one labeler likes is learnt as what people like, if most of the data are his; and agreement can only be measured between "
    "several.",
    do="Spread the work, cap the records of one labeler, and let some records be judged by two.",
)
def labelers(s: Subject) -> Result:
    needed(s)
    counts = Counter({name: n for name, n in s.data.labelers.items() if name})
    total = sum(s.data.labelers.values())
    if not counts:
        raise NotApplicable("the file names no labelers")
    name, most = counts.most_common(1)[0]
    if len(counts) == 1:
        return ok(f"one: {name}", labelers=1)
    effective = sum(counts.values()) ** 2 / sum(n * n for n in counts.values())
    found = f"{len(counts):,}, as good as {effective:.1f} equal ones; {name} judged {100 * most / total:.0f} % of the file"
    bad = total >= 2 * LEAST and most > ONE_LABELER * total
    return judged(found, bad=bad, grave=False, labelers=len(counts), effective=effective, most=most / total)


@GROUP.check(
    "order shown",
    means="Labelers who prefer whatever is shown first tell about the screen, not about the answers.",
    do="Shuffle the order for each labeler, and keep it in shown_order.",
)
def order_shown(s: Subject) -> Result:
    early = []
    for c in needed(s):
        if c.shown_order is not None:
            place = {int(k): i for i, k in enumerate(c.shown_order)}
            first = [place[a] < place[b] for a, b in c.pairs() if a in place and b in place]
            early += [sum(first) / len(first)] if first else []
    if len(early) < LEAST:
        raise NotApplicable("the file does not say in which order answers were shown")
    found = proportion_interval(sum(early), len(early))
    said = f"the answer shown first is preferred on {found.percent()}"
    return judged(said, bad=found.low > 0.55 or found.high < 0.45, grave=False).also(estimated(found))


@GROUP.check(
    "reward model agrees",
    means="How often MODEL gives the preferred answer the higher score. Below one half, it or the ranks are the wrong way round; at one "
    "half it knows nothing of what these labelers want.",
    do="Look at 'rank direction'; otherwise train the reward model on comparisons of this kind.",
)
def reward_model_agrees(s: Subject) -> Result:
    needed(s)
    scorer = s.scorer
    decided = [c for c in s.data.comparisons if c.pairs()]
    few = generator(s.config.seed, "doctor", "scored").permutation(len(decided))[:SCORED]  # a file may be in an order of its own
    items = [decided[i] for i in sorted(few.tolist())]
    trees, _ = comparison_trees(items, s.renderer, s.longest)
    right = []
    for tree, scores in zip(trees, score_in_budget(scorer, trees, 4096), strict=True):
        pairs = pairs_of(tree.ranks or ())
        right += [sum((scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b]) for a, b in pairs) / len(pairs)]
    if len(right) < LEAST:
        raise NotApplicable(f"too few comparisons fit the model ({len(right)})")
    found = proportion_interval(sum(right), len(right))
    said = f"with the ranks on {found.percent()} (rankings)"
    if found.high < 0.5:
        return fail(f"{said}: the wrong way round").also(estimated(found))
    return (ok(said) if found.low > 0.5 else warning(f"{said}: no better than a coin")).also(estimated(found))
