"""The shared questions: a thread for each task and one for the project. What others labelled is in none of them."""

import time
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, insert, or_, select, update

from trimtab.label.errors import Invalid
from trimtab.label.projects import Project
from trimtab.label.store import insert_if_new
from trimtab.label.tables import assignments, messages, reads, tasks, users
from trimtab.label.values import clean

LONGEST_MESSAGE = 5000
SHOWN = 200
BUSY = 50


def post(connection: Connection, project_id: int, user_id: int, text: str, task_id: int | None = None) -> None:
    """A message into a task's thread, or the project's.

    Raises:
        Invalid: it is empty or too long.
    """
    text = clean(text, "the message", LONGEST_MESSAGE)
    if not text.strip():
        raise Invalid("the message is empty")
    row = {"project_id": project_id, "task_id": task_id, "user_id": user_id, "text": text, "created": time.time()}
    connection.execute(insert(messages).values(row))


def thread(connection: Connection, project_id: int, task_id: int | None) -> list[Row[Any]]:
    """The last messages of a thread, oldest first."""
    query = (
        select(messages, users.c.shown, users.c.role)
        .join(users, users.c.id == messages.c.user_id)
        .where(
            messages.c.project_id == project_id,
            messages.c.task_id.is_(None) if task_id is None else messages.c.task_id == task_id,
        )
        .order_by(messages.c.id.desc())
        .limit(SHOWN)
    )
    return list(connection.execute(query))[::-1]


def fresh(connection: Connection, project: Project, user_id: int, *, everything: bool) -> dict[int, int]:
    """How many messages of others this person has not read, by task (0: the project's own thread).

    Args:
        everything: of all threads; otherwise of the project's and of those this person has written into.
    """
    task = func.coalesce(messages.c.task_id, 0)
    theirs = and_(reads.c.user_id == user_id, reads.c.project_id == messages.c.project_id, reads.c.task_id == task)
    where = [
        messages.c.project_id == project.id,
        messages.c.user_id != user_id,
        messages.c.id > func.coalesce(reads.c.upto, 0),
    ]
    if not everything:
        mine = messages.alias("mine")
        where.append(or_(messages.c.task_id.is_(None), exists().where(mine.c.task_id == messages.c.task_id, mine.c.user_id == user_id)))
    query = select(task.label("task"), func.count()).select_from(messages.outerjoin(reads, theirs)).where(*where).group_by(task)
    return {int(of): int(number) for of, number in connection.execute(query)}


def mark_read(connection: Connection, project_id: int, user_id: int, said: list[Row[Any]], task_id: int | None = None) -> None:
    """Notes that this person has the messages of a thread before them."""
    if said:
        row = {"user_id": user_id, "project_id": project_id, "task_id": task_id or 0}
        insert_if_new(connection, reads, {**row, "upto": 0})
        where = [reads.c[name] == value for name, value in row.items()]
        connection.execute(update(reads).where(*where, reads.c.upto < said[-1].id).values(upto=said[-1].id))


def busy_tasks(connection: Connection, project: Project, user_id: int | None = None) -> list[Row[Any]]:
    """Tasks with messages, the latest first; those that ``user_id`` has or had, with the assignment, or all of them."""
    latest = func.max(messages.c.created)
    query = (
        select(messages.c.task_id, func.count().label("number"), latest.label("latest"), tasks.c.kind)
        .join(tasks, tasks.c.id == messages.c.task_id)
        .where(messages.c.project_id == project.id)
        .group_by(messages.c.task_id, tasks.c.kind)
        .order_by(latest.desc())
        .limit(BUSY)
    )
    if user_id is not None:
        own = (assignments.c.task_id == messages.c.task_id) & (assignments.c.user_id == user_id)
        query = query.join(assignments, own).add_columns(assignments.c.id.label("assignment")).group_by(assignments.c.id)
    return list(connection.execute(query))
