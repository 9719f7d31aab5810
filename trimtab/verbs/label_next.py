"""``trimtab label next``: which tasks are labelled first, because a reward model knows least about them."""

import itertools
from collections.abc import Sequence

import numpy as np
from pydantic import Field
from sqlalchemy import bindparam, select, update

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.feedback.ensemble import Ensemble
from trimtab.feedback.protocol import Feedback
from trimtab.label.store import log, open_store
from trimtab.label.tables import tasks
from trimtab.label.tasks import prompt_of
from trimtab.label.values import RANKED
from trimtab.records import Comparison, parse_comparison
from trimtab.verbs.feedback import resolve_feedback
from trimtab.verbs.label import DATABASE, PROJECT, chosen
from trimtab.verbs.score import fitting, scored

# How many labels chosen at random 200 labels were worth of which the second hundred was chosen so, on the village's simulated labelers
# (docs/results.md, "labelling: saving"; a test holds these against it): by one model's wavering, by what several disagree on.
CHOSEN, WORTH_OF_ONE, WORTH_OF_SEVERAL = 200, 268, 138


class Next(Settings):
    """Settings of ``trimtab label next``."""

    database: str = DATABASE
    project: str = PROJECT
    by: str = Field("", description="reward:DIR, first where it is least sure, or mean:reward:A,reward:B, first where they differ most")
    show: int = Field(10, ge=0, description="tasks to print, the first ones")


def run(config: Next) -> str:
    """Gives every open task a priority; returns the first tasks as text.

    Raises:
        UserError: there is no such judge.
    """
    if not config.by:
        raise UserError("label next needs a judge: trimtab label next DATABASE by=reward:DIR")
    store = open_store(config.database)
    project = chosen(store, config.project)
    query = select(tasks).where(tasks.c.project_id == project.id, tasks.c.kind.in_(RANKED), tasks.c.slots > 0)
    with store.read() as connection:
        rows = connection.execute(query).all()
    if not rows:
        store.close()
        return f"{project.name}: every task with answers to rank is handed out or closed; there is nothing to order"
    items = [comparison_of(row) for row in rows]
    judge = resolve_feedback(config.by)
    fits, long = fitting(items, judge)
    known = iter(uncertainty(judge, list(itertools.compress(items, fits))))
    values = [next(known) if fit else 0.0 for fit in fits]  # nobody can say of the others: they come last
    with store.write() as connection:
        given = [{"task": row.id, "value": value} for row, value in zip(rows, values, strict=True)]
        connection.execute(update(tasks).where(tasks.c.id == bindparam("task")).values(priority=bindparam("value")), given)
        log(connection, None, "next", project=project.name, by=config.by, tasks=len(rows))
    store.close()
    first = sorted(range(len(rows)), key=lambda i: -values[i])[: config.show]
    lines = [f"{project.name}: {len(rows)} open tasks ordered by {config.by}"]
    lines += [] if all(fits) else [f"  {long}, last"]
    lines += [f"  task {rows[i].id:<6} {values[i]:6.3f}  {prompt_of(rows[i].prompt).text[:80]!r}" for i in first]
    return "\n".join([*lines, saved(WORTH_OF_SEVERAL if isinstance(judge, Ensemble) else WORTH_OF_ONE)])


def saved(worth: int) -> str:
    """What a choice of this kind has saved where it was measured."""
    if worth <= CHOSEN:
        return "On simulated labelers such a choice saved nothing: by=reward:DIR, one model, did (docs/results.md)."
    return f"On simulated labelers {CHOSEN} labels, half of them chosen so, were worth {worth} chosen at random (docs/results.md)."


def uncertainty(judge: Feedback, items: Sequence[Comparison]) -> list[float]:
    """How little a judge knows of the order of each task's answers; higher is less.

    Of several models: the mean over pairs of answers of the variance of "is the first better", each model saying so with the
    probability of its own Bradley-Terry score difference (disagreement). Of one: the mean of 4 p (1 - p), 1 where it wavers.
    """
    members = judge.members if isinstance(judge, Ensemble) else [judge]
    scores = [scored(member, items, "label next") for member in members]
    return [task_uncertainty(np.array([rows[i] for rows in scores])) for i in range(len(items))]


def task_uncertainty(scores: np.ndarray) -> float:
    """(M models, K answers) rewards -> one number; see ``uncertainty``."""
    values = []
    for a, b in itertools.combinations(range(scores.shape[1]), 2):
        p = 1 / (1 + np.exp(-np.clip(scores[:, a] - scores[:, b], -50, 50)))
        values.append(p.var() * 4 if len(p) > 1 else 4 * p[0] * (1 - p[0]))
    return float(np.mean(values))


def comparison_of(row: object) -> Comparison:
    """A task as an unranked comparison."""
    fields = {**row.prompt, "completions": row.completions, "ranks": [None] * len(row.completions)}  # type: ignore[attr-defined]
    return parse_comparison(fields, f"task {row.id}")  # type: ignore[attr-defined]
