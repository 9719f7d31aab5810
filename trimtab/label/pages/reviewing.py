"""Reviewers' pages: which tasks disagree most, one task with everything that was said of it, accepting, settling."""

import time
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import delete, insert, select, update
from starlette.responses import RedirectResponse, Response

from trimtab.label import threads
from trimtab.label.api import Id, Name, person_of, place_of, store_of
from trimtab.label.errors import Invalid, Missing
from trimtab.label.pages.door import field, whole_number
from trimtab.label.pages.manage import known_of, task_of
from trimtab.label.rankings import alike
from trimtab.label.render import page
from trimtab.label.store import log
from trimtab.label.tables import adjudications, assignments, labels, reviews, tasks, users
from trimtab.label.values import LONGEST_NOTE, LONGEST_TEXT, RANKED, clean, dense
from trimtab.records import pairs_of

router = APIRouter(include_in_schema=False)
LATEST = 3000
SHOWN = 100


@router.get("/p/{name}/review")
def review(request: Request, name: Name) -> Response:
    """Tasks that several people labelled, the least alike first; and what nobody has reviewed yet of the written ones."""
    project = place_of(request, name)
    query = (
        select(
            labels.c.task_id,
            labels.c.value,
            tasks.c.kind,
            tasks.c.prompt,
            reviews.c.accepted,
            adjudications.c.task_id.label("settled"),
        )
        .join(tasks, tasks.c.id == labels.c.task_id)
        .outerjoin(reviews, reviews.c.label_id == labels.c.id)
        .outerjoin(adjudications, adjudications.c.task_id == labels.c.task_id)
        .where(labels.c.project_id == project.id, labels.c.withdrawn.is_(None), tasks.c.purpose == "label")
        .order_by(labels.c.id.desc())
        .limit(LATEST)
    )
    with store_of(request).read() as connection:
        rows = connection.execute(query).all()
    return page(request, "review.html", project=project, rows=_worst_first(rows)[:SHOWN])


@router.get("/p/{name}/tasks/{number}")
def task_view(request: Request, name: Name, number: Id) -> Response:
    """A task with its answers, their models, every label, and its thread."""
    return _task_view(request, name, number)


def _task_view(request: Request, name: str, number: int, problem: str = "") -> Response:
    """The page; with a ``problem``, what was typed to settle the task stands in the form again."""
    project, row = place_of(request, name), task_of(request, name, number)
    query = (
        select(labels, users.c.shown, assignments.c.shown.label("order"), reviews.c.accepted, reviews.c.note)
        .join(users, users.c.id == labels.c.user_id)
        .join(assignments, assignments.c.id == labels.c.assignment_id)
        .outerjoin(reviews, reviews.c.label_id == labels.c.id)
        .where(labels.c.task_id == number, labels.c.withdrawn.is_(None))
        .order_by(labels.c.id)
    )
    with store_of(request).read() as connection:
        given = connection.execute(query).all()
        said = threads.thread(connection, project.id, number)
        settled = connection.execute(select(adjudications).where(adjudications.c.task_id == number)).first()
        held = connection.execute(
            select(assignments.c.state, assignments.c.reason, users.c.shown).join(users, users.c.id == assignments.c.user_id)
            .where(assignments.c.task_id == number, assignments.c.state.in_(("leased", "skipped")))
        ).all()  # fmt: skip
    if said:
        with store_of(request).write() as connection:
            threads.mark_read(connection, project.id, person_of(request).id, said, number)
    value = settled.value if settled else {}
    typed: dict[str, Any] = {
        "ranks": [rank or "" for rank in value.get("ranks") or [None] * len(row.completions)], "text": value.get("text", ""),
        "note": settled.note if settled else "",
    }  # fmt: skip
    if problem:
        typed = {"ranks": [field(request, f"rank-{i}") for i in range(len(row.completions))]}
        typed |= {name: field(request, name) for name in ("text", "note")}
    return page(
        request, "task_view.html", 422 if problem else 200, project=project, task=row, labels=given, messages=said, settled=settled,
        held=held, problem=problem, typed=typed,
    )  # fmt: skip


@router.post("/p/{name}/labels/{number}/review")
def review_do(request: Request, name: Name, number: Id) -> Response:
    """Accepts or rejects a label; the empty verdict takes it back."""
    project, verdict = place_of(request, name), field(request, "verdict")
    note = clean(field(request, "note"), "the note", LONGEST_NOTE)
    with store_of(request).write() as connection:
        where = (labels.c.id == number, labels.c.project_id == project.id, labels.c.withdrawn.is_(None))
        task = connection.execute(select(labels.c.task_id).where(*where)).scalar()
        if task is None:
            raise Missing("no such label")
        connection.execute(delete(reviews).where(reviews.c.label_id == number))
        if verdict in ("accept", "reject"):
            row = {
                "label_id": number,
                "user_id": person_of(request).id,
                "accepted": verdict == "accept",
                "note": note,
                "created": time.time(),
            }
            connection.execute(insert(reviews).values(row))
        log(connection, person_of(request).id, "review", label=number, verdict=verdict[:10])
    return RedirectResponse(f"/p/{name}/tasks/{task}?done=reviewed", 303)


@router.post("/p/{name}/tasks/{number}/settle")
def adjudicate_do(request: Request, name: Name, number: Id) -> Response:
    """Puts a reviewer's answer in the place of the labelers' (in exports that ask for it); a gold item's known answer follows it."""
    row = task_of(request, name, number)
    try:
        value = _settled_ranks(request, len(row.completions)) if row.kind in RANKED else _settled_text(request, row)
        note = clean(field(request, "note"), "the note", LONGEST_NOTE)
        if row.purpose != "label" and not pairs_of(value["ranks"]):
            raise Invalid("this task has a known answer: at least one answer is better than another")
    except Invalid as error:
        return _task_view(request, name, number, str(error))
    with store_of(request).write() as connection:
        if row.purpose != "label":
            connection.execute(update(tasks).where(tasks.c.id == number).values(known=known_of(value)))
        connection.execute(delete(adjudications).where(adjudications.c.task_id == number))
        given = {
            "task_id": number,
            "user_id": person_of(request).id,
            "value": {**value, "note": note},
            "note": note,
            "created": time.time(),
        }
        connection.execute(insert(adjudications).values(given))
        log(connection, person_of(request).id, "adjudicate", task=number)
    return RedirectResponse(f"/p/{name}/tasks/{number}?done=adjudicated", 303)


@router.post("/p/{name}/tasks/{number}/questions")
def task_message_do(request: Request, name: Name, number: Id) -> Response:
    """A reviewer's or researcher's message into a task's thread."""
    row = task_of(request, name, number)
    with store_of(request).write() as connection:
        threads.post(connection, row.project_id, person_of(request).id, field(request, "text"), row.id)
    return RedirectResponse(f"/p/{name}/tasks/{number}?done=sent#questions", 303)


def _settled_ranks(request: Request, k: int) -> dict[str, Any]:
    ranks: list[int | None] = []
    for i in range(k):
        rank = whole_number(request, f"rank-{i}", 1, k)
        if rank is None and field(request, f"rank-{i}").strip():
            raise Invalid(f"a rank is a number from 1 (best) to {k}, or nothing")
        ranks.append(rank)
    if sum(r is not None for r in ranks) < 2:
        raise Invalid("rank at least two answers")
    return {"ranks": dense(ranks), "ratings": [None] * k, "flags": [[] for _ in range(k)]}


def _settled_text(request: Request, row: Any) -> dict[str, Any]:
    text = clean(field(request, "text"), "the text", LONGEST_TEXT)
    if not text.strip():
        raise Invalid("the text is empty")
    return (
        {"text": text}
        if row.kind == "write"
        else {"style": "plain", "text": text, "examples": [], "use_case": row.use_case}
    )


def _worst_first(rows: Any) -> list[dict[str, Any]]:
    """One entry for each task: how many labels, what share of pairs is ordered alike, how many are reviewed."""
    by_task: dict[int, list[Any]] = {}
    for row in rows:
        by_task.setdefault(row.task_id, []).append(row)
    out = []
    for task, given in by_task.items():
        same = pairs = 0
        if given[0].kind in RANKED:
            for i, one in enumerate(given):
                for other in given[i + 1 :]:
                    a, n = alike(one.value["ranks"], other.value["ranks"])
                    same, pairs = same + a, pairs + n
        out.append({
            "task": task, "kind": given[0].kind, "prompt": given[0].prompt, "labels": len(given), "share": same / pairs if pairs else None,
            "reviewed": sum(row.accepted is not None for row in given), "settled": given[0].settled is not None,
        })  # fmt: skip
    return sorted(out, key=lambda e: (e["settled"], e["share"] if e["share"] is not None else 1.0, e["reviewed"]))
