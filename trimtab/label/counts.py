"""How far a project is: tasks, labels, days, skips. What takes statistics is in progress.py."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from trimtab.label.projects import Project
from trimtab.label.tables import assignments, labels, tasks

DAYS = 14


@dataclass(frozen=True, slots=True)
class Counted:
    """Tasks and labels of a project."""

    tasks: int
    complete: int
    wanted: int
    given: int
    closed: int
    gold: int
    screening: int
    known_given: int  # answers to gold and screening items
    days: tuple[tuple[str, int], ...]  # labels a day, of ordinary tasks as ``given``, oldest first
    skips: tuple[tuple[str, int], ...]  # reasons


def counted(connection: Connection, project: Project) -> Counted:
    """How far the work is."""
    mine = tasks.c.project_id == project.id
    given = (
        select(labels.c.task_id, func.count().label("given"))
        .where(labels.c.project_id == project.id, labels.c.withdrawn.is_(None))
        .group_by(labels.c.task_id)
        .subquery()
    )
    number = func.coalesce(given.c.given, 0)
    label = (tasks.c.purpose == "label") & tasks.c.closed.is_(False)

    def of(condition: Any, value: Any = 1) -> Any:
        return func.coalesce(func.sum(case((condition, value), else_=0)), 0)

    row = connection.execute(
        select(
            of(label), of(label & (number >= tasks.c.overlap)), of(label, tasks.c.overlap), of(tasks.c.purpose == "label", number),
            of(tasks.c.closed.is_(True)), of(tasks.c.purpose == "gold"), of(tasks.c.purpose == "screening"),
            of(tasks.c.purpose != "label", number),
        )
        .select_from(tasks.outerjoin(given, given.c.task_id == tasks.c.id))
        .where(mine)
    ).one()  # fmt: skip
    reasons = Counter(
        reason.split(":")[0]
        for (reason,) in connection.execute(
            select(assignments.c.reason).where(assignments.c.project_id == project.id, assignments.c.state == "skipped")
        )
    )
    whole, complete, wanted, done, closed, gold, screening, known = (int(x) for x in row)
    return Counted(
        whole, complete, wanted, done, closed, gold, screening, known, _days(connection, project), tuple(reasons.most_common())
    )


def _days(connection: Connection, project: Project) -> tuple[tuple[str, int], ...]:
    today = int(time.time() // 86400)
    day = func.floor(labels.c.created / 86400).label("day")
    query = (
        select(day, func.count())
        .join(tasks, tasks.c.id == labels.c.task_id)
        .where(labels.c.project_id == project.id, labels.c.withdrawn.is_(None), tasks.c.purpose == "label")
        .where(labels.c.created >= (today - DAYS + 1) * 86400)
    )
    found = {int(d): int(n) for d, n in connection.execute(query.group_by(day))}
    return tuple(
        (time.strftime("%d %b", time.gmtime(d * 86400)), found.get(d, 0)) for d in range(today - DAYS + 1, today + 1)
    )
