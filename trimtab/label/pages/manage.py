"""Researchers' pages about the project: begin one, settings, instructions, overlap, gold items, onboarding."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import Connection, Row, select, update
from starlette.responses import RedirectResponse, Response

from trimtab.common.config import from_mapping
from trimtab.common.errors import UserError
from trimtab.label.api import Id, Name, person_of, place_of, store_of
from trimtab.label.errors import Invalid, Missing
from trimtab.label.pages.door import field, whole_number
from trimtab.label.projects import Project, change_project, create_project, publish_instructions, versions
from trimtab.label.render import page
from trimtab.label.screening import decide
from trimtab.label.settings import FLAGS, MIX, MOST_OVERLAP, ProjectSettings, write_settings
from trimtab.label.store import log
from trimtab.label.tables import adjudications, tasks, users
from trimtab.label.tasks import close_task, follow_overlap, free_slots, order_queue, set_overlap
from trimtab.label.values import RANKED, clean
from trimtab.records import pairs_of

router = APIRouter(include_in_schema=False)


@router.get("/projects/new")
def project_new(request: Request) -> Response:
    """The form for a new project."""
    return page(request, "project_new.html", problem="", name="", title="")


@router.post("/projects/new")
def project_new_do(request: Request) -> Response:
    """Begins a project."""
    name, title = field(request, "name").strip(), field(request, "title").strip()
    try:
        with store_of(request).write() as connection:
            create_project(connection, name, title)
            log(connection, person_of(request).id, "project", name=name)
    except Invalid as error:
        return page(request, "project_new.html", 422, problem=str(error), name=name, title=title)
    return RedirectResponse(f"/p/{name}/import", 303)


@router.get("/p/{name}/settings")
def settings_page(request: Request, name: Name) -> Response:
    """All settings, each with its sentence."""
    project = place_of(request, name)
    return _settings(request, project)


@router.post("/p/{name}/settings")
def settings_do(request: Request, name: Name) -> Response:
    """Keeps the settings; another mix orders the queue anew."""
    project = place_of(request, name)
    try:
        settings = from_mapping(ProjectSettings, {**write_settings(project.settings), **_given(request)}, "settings")
        title = clean(field(request, "title").strip() or project.name, "title", 200)
    except UserError as error:
        return _settings(request, project, str(error))
    with store_of(request).write() as connection:
        change_project(connection, project, settings=settings, title=title, open=bool(field(request, "open")))
        log(connection, person_of(request).id, "settings", project=project.name)
        if settings.overlap != project.settings.overlap:
            follow_overlap(connection, project, settings.overlap)
        if settings.mix != project.settings.mix:
            order_queue(connection, replace(project, settings=settings))
    return RedirectResponse(f"/p/{name}/settings?done=saved", 303)


@router.get("/p/{name}/guidelines")
def guidelines(request: Request, name: Name) -> Response:
    """The instructions in all their versions, and a form for the next."""
    project = place_of(request, name)
    with store_of(request).read() as connection:
        every = versions(connection, project.id)
    return page(request, "guidelines.html", project=project, every=every, problem="")


@router.post("/p/{name}/guidelines")
def guidelines_do(request: Request, name: Name) -> Response:
    """Publishes a new version."""
    project = place_of(request, name)
    with store_of(request).write() as connection:
        publish_instructions(connection, project.id, field(request, "text"), person_of(request).id)
    return RedirectResponse(f"/p/{name}/guidelines?done=published", 303)


@router.post("/p/{name}/tasks/{number}/overlap")
def overlap_do(request: Request, name: Name, number: Id) -> Response:
    """Another number of labelers for a task."""
    row, overlap = task_of(request, name, number), whole_number(request, "overlap", 1, MOST_OVERLAP)
    if overlap is None:
        raise Invalid(f"overlap is a number from 1 to {MOST_OVERLAP}")
    with store_of(request).write() as connection:
        set_overlap(connection, [row.id], overlap)
    return RedirectResponse(f"/p/{name}/tasks/{number}?done=saved", 303)


@router.post("/p/{name}/tasks/{number}/close")
def close_do(request: Request, name: Name, number: Id) -> Response:
    """Takes a task out of the queue, or puts it back."""
    row = task_of(request, name, number)
    with store_of(request).write() as connection:
        close_task(connection, row.id, not row.closed)
    return RedirectResponse(f"/p/{name}/tasks/{number}?done=saved", 303)


@router.post("/p/{name}/tasks/{number}/gold")
def gold_do(request: Request, name: Name, number: Id) -> Response:
    """Makes a settled task a gold or screening item, or an ordinary one again."""
    row, purpose = task_of(request, name, number), field(request, "purpose")
    if purpose not in ("label", "gold", "screening") or row.kind not in RANKED:
        raise Invalid("only tasks with answers to order can have a known answer")
    with store_of(request).write() as connection:
        known = _settled(connection, row.id) or row.known  # a new settlement corrects an old one
        if purpose != "label" and (known is None or not pairs_of(known["ranks"])):
            raise Invalid("settle the task first (Settle, below), with at least one answer better than another")
        connection.execute(update(tasks).where(tasks.c.id == row.id).values(purpose=purpose, known=known))
        free_slots(connection, [row.id])
        log(connection, person_of(request).id, "purpose", task=row.id, purpose=purpose)
    return RedirectResponse(f"/p/{name}/tasks/{number}?done=saved", 303)


@router.post("/p/{name}/onboarding/{number}")
def onboarding_do(request: Request, name: Name, number: Id) -> Response:
    """Lets somebody in, or out, whatever the screening said."""
    project = place_of(request, name)
    with store_of(request).write() as connection:
        if connection.execute(select(users.c.id).where(users.c.id == number)).first() is None:
            raise Missing("no such person")
        decide(connection, project.id, number, field(request, "passed") == "yes")
        log(
            connection,
            person_of(request).id,
            "onboarding",
            project=project.name,
            of=number,
            passed=field(request, "passed") == "yes",
        )
    return RedirectResponse(f"/p/{name}/dashboard?done=saved", 303)


def task_of(request: Request, name: str, number: int) -> Row[Any]:
    """A task of the project in the address.

    Raises:
        Missing: there is none.
    """
    project = place_of(request, name)
    with store_of(request).read() as connection:
        row = connection.execute(select(tasks).where(tasks.c.id == number, tasks.c.project_id == project.id)).first()
    if row is None:
        raise Missing("no such task")
    return row


def _settings(request: Request, project: Project, problem: str = "") -> Response:
    said = {name: info.description for name, info in ProjectSettings.model_fields.items()}
    status = 422 if problem else 200
    return page(
        request,
        "settings.html",
        status,
        project=project,
        settings=project.settings,
        flags=FLAGS,
        mix=MIX,
        problem=problem,
        said_of=said,
    )


def _settled(connection: Connection, task_id: int) -> dict[str, Any] | None:
    value = connection.execute(select(adjudications.c.value).where(adjudications.c.task_id == task_id)).scalar()
    return known_of(value) if value else None


def known_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A settled ranking as a known answer."""
    return {"ranks": value["ranks"], "flags": value["flags"]}


def _given(request: Request) -> dict[str, Any]:
    """The form's fields as settings."""
    form = request.state.form
    out: dict[str, Any] = {
        "rate": bool(field(request, "rate")),
        "flags": [f for f in form.getlist("flags") if isinstance(f, str)],
    }
    for name in ("overlap", "gold_rate", "pass_score", "lease_minutes"):
        text = field(request, name).strip()
        try:
            out[name] = int(text) if name == "overlap" else float(text)
        except ValueError:
            raise Invalid(f"{name}: {text[:40]!r} is no number") from None
    shares = {}
    for line in field(request, "mix").splitlines():
        case, _, share = line.partition("=" if "=" in line else ":")
        if not line.strip():
            continue
        try:
            shares[clean(case.strip(), "use case", 64)] = float(share.strip().rstrip("%")) / (
                100 if "%" in share else 1
            )
        except ValueError:
            raise Invalid(f"mix: {line[:60]!r}; write a use case and its share a line, such as chat = 8.4 %") from None
    if shares and (min(shares.values()) < 0 or not sum(shares.values()) <= 1.001):
        raise Invalid("mix: shares are from 0, together at most 100 %")
    return {**out, "mix": shares}
