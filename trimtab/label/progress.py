"""What the dashboard shows of people: how fast and how alike they label, and who should be looked at."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from trimtab.common.stats import Estimate, bootstrap_interval, share_interval
from trimtab.label.agreement import Unit, ac1, alpha, pair_units, rank_units, raw_agreement
from trimtab.label.careless import (
    HORIZON,
    Position,
    Ranked,
    Suspicion,
    below_others,
    least_seconds,
    position_bias,
    suspicions,
    unread_share,
)
from trimtab.label.projects import Project
from trimtab.label.rankings import alike, concordance
from trimtab.label.tables import assignments, labels, onboarding, tasks, users
from trimtab.label.tasks import batched
from trimtab.label.values import RANKED

LATEST = 3000  # labels that statistics are made from
RESAMPLES = 300  # a page waits for them


@dataclass(slots=True)
class Worker:
    """One labeler's figures."""

    id: int
    name: str
    shown: str
    labels: int = 0
    seconds: float = math.nan  # median active time of a label
    skips: int = 0
    ties: float = math.nan  # share of pairs
    agreement: Estimate = field(default_factory=lambda: share_interval([]))
    gold: Estimate = field(default_factory=lambda: share_interval([]))
    position: Position = field(default_factory=lambda: position_bias([]))
    suspicion: Suspicion | None = None
    unread: float = math.nan  # share of the last rankings that were faster than anybody reads
    missed: bool = False  # known answers clearly below the others'
    passed: bool | None = None
    score: float | None = None

    @property
    def alarms(self) -> dict[str, str]:
        """What a researcher should look at: a name, and what is to be said of it."""
        out = {}
        if self.unread > 0.5:
            out["too fast"] = f"too fast to have read {100 * self.unread:.0f} % of the last rankings"
        if self.missed:
            out["known answers"] = f"orders {100 * self.gold.value:.0f} % of the known pairs as known, clearly fewer than the others"
        if self.suspicion and self.suspicion.flagged_at:
            out["careless?"] = "answers as if at random in a part of the last tasks"
        if self.position.biased:
            out["position bias"] = f"the first-shown answer wins {100 * self.position.share.value:.0f} % of pairs"
        return out


@dataclass(frozen=True, slots=True)
class Agreed:
    """How alike people label, over all of a project's rankings."""

    alike: Estimate  # pairs that neither ties, ordered alike: InstructGPT's figure
    raw: Estimate  # pairs, a tie being a third answer
    ac1: Estimate
    alpha: Estimate  # ordinal, of ranks
    ratings: Estimate  # ordinal, of 1-7
    ties: Estimate
    position: Position
    couples: tuple[tuple[int, int, int, int], ...]  # labeler, labeler, pairs alike, pairs


def workers(connection: Connection, project: Project) -> tuple[list[Worker], Agreed]:
    """Everybody who has labelled here, most labels first, and how alike they do."""
    people = _people(connection, project)
    rows = _rankings(connection, project)
    by_task: dict[int, list[Any]] = defaultdict(list)
    by_person: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_task[row.task_id].append(row)
        by_person[row.user_id].append(row)
    suspected = suspicions([
        Ranked(row.user_id, tuple(row.value["ranks"]), _others(row, by_task[row.task_id]), tuple(row.value["ratings"])) for row in rows
    ])  # fmt: skip
    couples: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    shares: dict[int, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))
    everything: tuple[list[float], list[int]] = ([], [])
    for task, given in by_task.items():
        if given[0].purpose != "label":
            continue
        for i, one in enumerate(given):
            for other in given[i + 1 :]:
                same, pairs = alike(one.value["ranks"], other.value["ranks"])
                couple = couples[min(one.user_id, other.user_id), max(one.user_id, other.user_id)]
                couple[0] += same
                couple[1] += pairs
                said = [1.0] * same + [0.0] * (pairs - same)
                for values, clusters in (shares[one.user_id], shares[other.user_id], everything):
                    values.extend(said)
                    clusters.extend([task] * pairs)
    least = _least_seconds(connection, by_person)
    known = {person: [_right(row) for row in by_person[person] if row.known] for person in people}
    for person in people.values():
        person.unread = unread_share([(row.seconds, least[row.task_id]) for row in by_person[person.id][-HORIZON:]])
        person.missed = below_others(known[person.id], [x for p, shares_of in known.items() if p != person.id for x in shares_of])
        own = by_person[person.id]
        person.suspicion = suspected.get(person.id)
        person.position = position_bias([(r.value["ranks"], r.shown) for r in own], resamples=RESAMPLES)
        person.agreement = _share(*shares[person.id])
        person.ties = float(np.mean(_tied([r.value["ranks"] for r in own])[0])) if own else math.nan
        person.gold = _gold([r for r in own if r.known])
    agreed = _agreed(rows, by_task, _share(*everything), couples)
    return sorted(people.values(), key=lambda p: (-p.labels, p.name)), agreed


def _agreed(
    rows: Sequence[Any], by_task: dict[int, list[Any]], both: Estimate, couples: dict[tuple[int, int], list[int]]
) -> Agreed:
    several = {t: given for t, given in by_task.items() if len(given) > 1 and given[0].purpose == "label"}
    rankings: dict[Any, list[list[int | None]]] = {t: [r.value["ranks"] for r in given] for t, given in several.items()}
    pairs = pair_units(rankings)
    rated = [
        Unit(tuple(float(r) for r in column), task)
        for task, given in several.items()
        for column in zip(*(g.value["ratings"] for g in given), strict=True)
        if None not in column
    ]
    return Agreed(
        both, raw_agreement(pairs, resamples=RESAMPLES), ac1(pairs, 3, resamples=RESAMPLES),
        alpha(rank_units(rankings), "ordinal", resamples=RESAMPLES), alpha(rated, "ordinal", resamples=RESAMPLES),
        _share(*_tied([r.value["ranks"] for r in rows])), position_bias([(r.value["ranks"], r.shown) for r in rows], resamples=RESAMPLES),
        tuple((a, b, same, n) for (a, b), (same, n) in sorted(couples.items()) if n),
    )  # fmt: skip


def _people(connection: Connection, project: Project) -> dict[int, Worker]:
    own = select(labels.c.user_id, labels.c.seconds).where(
        labels.c.project_id == project.id, labels.c.withdrawn.is_(None)
    )
    seconds: dict[int, list[float]] = defaultdict(list)
    for row in connection.execute(own.order_by(labels.c.id.desc())):
        seconds[row.user_id].append(row.seconds)
    skipped = select(assignments.c.user_id, func.count()).where(
        assignments.c.project_id == project.id, assignments.c.state == "skipped"
    )
    skips = {user: number for user, number in connection.execute(skipped.group_by(assignments.c.user_id))}
    screened = {
        r.user_id: r for r in connection.execute(select(onboarding).where(onboarding.c.project_id == project.id))
    }
    wanted = {*seconds, *skips, *screened}
    out = {}
    for row in connection.execute(select(users).where(users.c.id.in_(wanted))):
        result, given = screened.get(row.id), seconds[row.id]
        out[row.id] = Worker(
            row.id, row.name, row.shown, len(given), median(given[:500]) if given else math.nan, skips.get(row.id, 0),
            passed=bool(result.passed) if result else None, score=result.score if result else None,
        )  # fmt: skip
    return out


def _rankings(connection: Connection, project: Project) -> list[Any]:
    """The latest rankings, in the order in which they were given."""
    query = (
        select(
            labels.c.id,
            labels.c.task_id,
            labels.c.user_id,
            labels.c.value,
            labels.c.seconds,
            tasks.c.purpose,
            tasks.c.known,
            assignments.c.shown,
        )
        .join(tasks, tasks.c.id == labels.c.task_id)
        .join(assignments, assignments.c.id == labels.c.assignment_id)
        .where(labels.c.project_id == project.id, labels.c.withdrawn.is_(None), tasks.c.kind.in_(RANKED))
        .order_by(labels.c.id.desc())
        .limit(LATEST)
    )
    return list(connection.execute(query))[::-1]


def _least_seconds(connection: Connection, by_person: Mapping[int, Sequence[Any]]) -> dict[int, float]:
    """By task, of each person's last rankings: the time below which nobody has read it."""
    wanted = sorted({row.task_id for rows in by_person.values() for row in rows[-HORIZON:]})
    out = {}
    for some in batched(wanted, 500):
        query = select(tasks.c.id, tasks.c.prompt, tasks.c.completions).where(tasks.c.id.in_(some))
        for row in connection.execute(query):
            texts = [m["content"] for m in row.prompt["messages"]] + [c["text"] for c in row.completions]
            out[row.id] = least_seconds(sum(len(text.split()) for text in texts), len(row.completions))
    return out


def _others(row: Any, given: Sequence[Any]) -> tuple[tuple[int | None, ...], ...]:
    if row.known:
        return (tuple(row.known["ranks"]),)
    return tuple(tuple(other.value["ranks"]) for other in given if other.user_id != row.user_id)


def _right(row: Any) -> float:
    """The share of a known answer's pairs that this label orders as known."""
    right, pairs = concordance(row.known["ranks"], row.value["ranks"])
    return right / pairs


def _gold(rows: Sequence[Any]) -> Estimate:
    values: list[float] = []
    clusters: list[int] = []
    for row in rows:
        right, pairs = concordance(row.known["ranks"], row.value["ranks"])
        values += [right / pairs] * pairs
        clusters += [row.task_id] * pairs
    return _share(values, clusters)


def _share(values: Sequence[float], clusters: Sequence[int]) -> Estimate:
    """The mean of values in [0, 1] with its cluster bootstrap; where all are alike, Wilson's interval on the clusters."""
    if len(set(values)) < 2:
        return share_interval(values, clusters=clusters)
    return bootstrap_interval(values, clusters=clusters, resamples=RESAMPLES)


def _tied(rankings: Sequence[Sequence[int | None]]) -> tuple[list[float], list[int]]:
    """1 for each pair that is a tie, 0 for the others, and the ranking that each belongs to."""
    values: list[float] = []
    clusters: list[int] = []
    for i, ranks in enumerate(rankings):
        known = [r for r in ranks if r is not None]
        for a in range(len(known)):
            for b in known[a + 1 :]:
                values.append(float(known[a] == b))
                clusters.append(i)
    return values, clusters
