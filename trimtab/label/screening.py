"""Known answers: how near a label is to one, who passes the screening, when a gold item is due."""

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select

from trimtab.common.rng import generator
from trimtab.label.projects import Project
from trimtab.label.rankings import concordance
from trimtab.label.tables import labels, onboarding, tasks


def screening_score(connection: Connection, project_id: int, user_id: int) -> float | None:
    """The share of the screening's known pairs that this person ordered as known; None before all items are done, or without items."""
    items = {
        row.id: row.known
        for row in connection.execute(
            select(tasks.c.id, tasks.c.known).where(
                tasks.c.project_id == project_id, tasks.c.purpose == "screening", tasks.c.closed.is_(False)
            )
        )
    }
    if not items:
        return None
    done = _done(connection, items, user_id)
    if set(items) - set(done):
        return None
    counts = [concordance(items[i]["ranks"], done[i]["ranks"]) for i in items]
    return sum(right for right, _ in counts) / sum(pairs for _, pairs in counts)


def screening_step(connection: Connection, project_id: int, user_id: int) -> tuple[int, int]:
    """Which of the screening's items comes next for this person, and how many there are."""
    where = (tasks.c.project_id == project_id, tasks.c.purpose == "screening", tasks.c.closed.is_(False))
    items = dict.fromkeys(connection.execute(select(tasks.c.id).where(*where)).scalars())
    return min(len(_done(connection, items, user_id)) + 1, len(items)), len(items)


def settle(connection: Connection, project: Project, user_id: int) -> bool | None:
    """Writes down whether the screening is passed once its last item is done; None while it is not."""
    score = screening_score(connection, project.id, user_id)
    if score is None:
        return None
    decide(connection, project.id, user_id, score >= project.settings.pass_score, score)
    return score >= project.settings.pass_score


def decide(connection: Connection, project_id: int, user_id: int, passed: bool, score: float | None = None) -> None:
    """A researcher's word, or the screening's, on whether this person may label."""
    connection.execute(delete(onboarding).where(onboarding.c.project_id == project_id, onboarding.c.user_id == user_id))
    connection.execute(
        insert(onboarding).values(project_id=project_id, user_id=user_id, passed=passed, score=score, at=time.time())
    )


def gold_due(connection: Connection, project: Project, user_id: int) -> bool:
    """Whether this person's next task is one with a known answer: a draw for each task, that nobody can foresee and nothing changes."""
    if not project.settings.gold_rate:
        return False
    query = (
        select(func.count()).select_from(labels).where(labels.c.project_id == project.id, labels.c.user_id == user_id)
    )
    number = int(connection.execute(query).scalar_one())
    return bool(generator(project.settings.seed, "gold", user_id, number).random() < project.settings.gold_rate)


def _done(connection: Connection, items: Mapping[int, Any], user_id: int) -> dict[int, Any]:
    where = and_(labels.c.user_id == user_id, labels.c.withdrawn.is_(None), labels.c.task_id.in_(list(items)))
    return {row.task_id: row.value for row in connection.execute(select(labels.c.task_id, labels.c.value).where(where))}
