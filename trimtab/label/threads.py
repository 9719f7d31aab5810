"""The shared questions: a thread for each task and one for the project. What others labelled is in none of them."""

import time
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from trimtab.label.errors import Invalid
from trimtab.label.projects import Project
from trimtab.label.tables import assignments, messages, tasks, users
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
