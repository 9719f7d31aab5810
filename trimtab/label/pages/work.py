"""The page of one task: write, rank, compare, write a prompt."""

import secrets
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import select
from starlette.responses import RedirectResponse, Response

from trimtab.label import threads
from trimtab.label.api import Id, labelled, own_task, person_of, store_of
from trimtab.label.pages.door import field
from trimtab.label.projects import project_by_id, version_read
from trimtab.label.render import page
from trimtab.label.screening import screening_step
from trimtab.label.settings import FLAGS, MIX, SKIP_REASONS
from trimtab.label.tables import labels
from trimtab.label.values import on_screen, to_screen

router = APIRouter(include_in_schema=False)
TEMPLATES = {"write": "write.html", "rank": "rank.html", "compare": "compare.html", "prompt": "prompt.html"}


@router.get("/a/{number}")
def task(request: Request, number: Id) -> Response:
    """A task of this person, as they see it: answers in their order, without the models' names."""
    row, person = own_task(request, number), person_of(request)
    if row.state == "done":
        return _labelled(request, row)
    if row.state == "skipped":
        with store_of(request).read() as connection:
            project = project_by_id(connection, row.project_id)
        return RedirectResponse(f"/p/{project.name}/mine", 303)
    with store_of(request).read() as connection:
        project = project_by_id(connection, row.project_id)
        said = threads.thread(connection, project.id, row.task_id)
        done = labelled(connection, project, person.id)
        version = version_read(connection, project.id, person.id)
        fresh = threads.fresh(connection, project, person.id, everything=False).get(row.task_id, 0)
        step = screening_step(connection, project.id, person.id) if row.purpose == "screening" else None
    _mark(request, row, said)
    answers = [completion["text"] for completion in to_screen(row.completions, row.shown)] if row.completions else []
    names = [name for name in project.settings.flags if name in FLAGS] + [
        n for n in project.settings.flags if n not in FLAGS
    ]
    return page(
        request, TEMPLATES[row.kind], task=row, project=project, answers=answers, messages=said, done=done, version=version,
        flags={name: FLAGS.get(name, name) for name in names}, draft=row.draft or {}, key=secrets.token_urlsafe(18),
        reasons=SKIP_REASONS, use_cases=list(project.settings.mix or MIX), screening=step, fresh=fresh,
    )  # fmt: skip


def _labelled(request: Request, row: Any) -> Response:
    """What this person said of a task, beside what they saw."""
    with store_of(request).read() as connection:
        project = project_by_id(connection, row.project_id)
        said = threads.thread(connection, project.id, row.task_id)
        live = (labels.c.assignment_id == row.id, labels.c.withdrawn.is_(None))
        label = connection.execute(select(labels).where(*live)).first()
    if label is None:  # undone a moment ago, in another tab
        return RedirectResponse(f"/p/{project.name}/mine", 303)
    answers = [completion["text"] for completion in to_screen(row.completions, row.shown)]
    value = on_screen(row.kind, label.value, row.shown)
    return page(request, "labelled.html", task=row, project=project, answers=answers, label=label, value=value, messages=said)


def _mark(request: Request, row: Any, said: list[Any]) -> None:
    """Notes that this person has a task's thread before them; most tasks have none."""
    if said:
        with store_of(request).write() as connection:
            threads.mark_read(connection, row.project_id, person_of(request).id, said, row.task_id)


@router.get("/a/{number}/questions")
def task_questions(request: Request, number: Id) -> Response:
    """The thread of a task that this person has, or had: an answer may come when it is long labelled."""
    row = own_task(request, number)
    with store_of(request).read() as connection:
        project = project_by_id(connection, row.project_id)
        said = threads.thread(connection, project.id, row.task_id)
    _mark(request, row, said)
    return page(request, "thread.html", task=row, project=project, messages=said)


@router.post("/a/{number}/questions")
def task_question_do(request: Request, number: Id) -> Response:
    """A message into the task's thread: who has the task, or had it, may ask."""
    row = own_task(request, number)
    with store_of(request).write() as connection:
        threads.post(connection, row.project_id, person_of(request).id, field(request, "text"), row.task_id)
    over = row.state in ("done", "skipped")
    return RedirectResponse(f"/a/{number}/questions?done=sent" if over else f"/a/{number}?done=sent#questions", 303)
