"""Which samples a page shows: a fixed rule that looks at no text, so that nobody's favourite gets in."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.report.read import Evaluation, number, text

COUNT = 20
COLUMNS = ("base", "sft", "dpo", "ppo")
"""Models shown side by side, where the evaluation has them."""


@dataclass(frozen=True)
class Choice:
    """The chosen prompts (rows by model's name) and the rule in words."""

    rule: str
    models: tuple[str, ...]
    prompts: tuple[Mapping[str, Mapping[str, Any]], ...]


def choose(evaluation: Evaluation, count: int = COUNT) -> Choice:
    """``count`` prompts spread over use cases and outcomes."""
    models = columns(evaluation)
    rows: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in evaluation.samples:
        rows[text(row.get("id"))].setdefault(text(row.get("model")), row)
    complete = {id_: by for id_, by in rows.items() if all(m in by for m in models)}
    last, baseline = models[-1], evaluation.baseline if evaluation.baseline in models else models[0]
    gains = {id_: _gold(by[last]) - _gold(by[baseline]) for id_, by in complete.items()}
    groups: dict[str, list[str]] = defaultdict(list)
    for id_, by in complete.items():
        groups[text(by[last].get("use_case") or "")].append(id_)
    chosen = []
    for use_case, places in _places({name: len(ids) for name, ids in groups.items()}, count).items():
        ordered = sorted(groups[use_case], key=lambda id_: (gains[id_], id_))
        chosen += [ordered[int((j + 0.5) / places * len(ordered))] for j in range(places)]
    spread = "Each use case gets places by its share of the prompts, at least one while there are enough. "
    rule = (
        f"Chosen by a fixed rule that reads no text: {spread if len(groups) > 1 else ''}Prompts are ordered by how "
        f"much "
        f"{evaluation.title_of(last)}'s first answer gains on {evaluation.title_of(baseline)}'s in score and taken at equal "
        f"distances, "
        f"from the largest loss to the largest gain. {len(chosen)} of {len(complete)} prompts."
    )
    return Choice(rule, models, tuple(complete[id_] for id_ in chosen))


def columns(evaluation: Evaluation) -> tuple[str, ...]:
    """The models to show: base, SFT, DPO, PPO where there are, else the first, the baseline and the last two."""
    names = [m.name for m in evaluation.models]
    known = tuple(name for name in COLUMNS if name in names)
    if len(known) >= 2:
        return known
    wanted = {names[0], evaluation.baseline, *names[-2:]}
    return tuple(name for name in names if name in wanted)


def evenly(rows: Sequence[Mapping[str, Any]], count: int = COUNT) -> list[Mapping[str, Any]]:
    """A training run's samples: one row a step, steps at equal distances, the first and the last among them."""
    firsts: dict[float, Mapping[str, Any]] = {}
    for row in rows:
        firsts.setdefault(number(row.get("step")) or 0.0, row)
    ordered = [firsts[step] for step in sorted(firsts)]
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def _gold(row: Mapping[str, Any]) -> float:
    return number(row.get("gold")) or 0.0


def _places(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """``count`` places by size: one each while they last, then by largest remainder; never more than the size."""
    names = sorted(sizes, key=lambda n: (-sizes[n], n))
    out = dict.fromkeys(names[:count], 1)
    total = sum(sizes[n] for n in out)
    while sum(out.values()) < min(count, total):
        owed = {n: count * sizes[n] / total - out[n] for n in out if out[n] < sizes[n]}
        out[max(owed, key=lambda n: (owed[n], sizes[n], n))] += 1
    return out
