"""Researchers' pages about the project: begin one, settings, instructions, overlap, gold items, onboarding."""

import math
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
NUMBERS = ("overlap", "lease_minutes", "gold_rate", "pass_score")


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
    project, is_open = place_of(request, name), bool(field(request, "open"))
    given, problems = _given(request)
    try:
        settings = from_mapping(ProjectSettings, {**write_settings(project.settings), **given}, "settings")
        title = clean(field(request, "title").strip() or project.name, "title", 200)
    except UserError as error:
        problems.append(str(error))
    if problems:
        return _settings(request, project, problems)
    with store_of(request).write() as connection:
        change_project(connection, project, settings=settings, title=title, open=is_open)
        log(connection, person_of(request).id, "settings", project=project.name, **_changes(project, settings, title, is_open))
        if settings.overlap != project.settings.overlap:
            follow_overlap(connection, project, settings.overlap)
        if settings.mix != project.settings.mix:
            order_queue(connection, replace(project, settings=settings))
    return RedirectResponse(f"/p/{name}/settings?done=saved", 303)


@router.get("/p/{name}/guidelines")
def guidelines(request: Request, name: Name) -> Response:
    """The instructions in all their versions, and a form for the next."""
    return _guidelines(request, place_of(request, name))


@router.post("/p/{name}/guidelines")
def guidelines_do(request: Request, name: Name) -> Response:
    """Publishes a new version."""
    project, text = place_of(request, name), field(request, "text")
    try:
        with store_of(request).write() as connection:
            version = publish_instructions(connection, project.id, text, person_of(request).id)
            log(connection, person_of(request).id, "instructions", project=project.name, version=version)
    except Invalid as error:
        return _guidelines(request, project, problem=str(error), text=text)
    return RedirectResponse(f"/p/{name}/guidelines?done=published", 303)


def _guidelines(request: Request, project: Project, problem: str = "", text: str | None = None) -> Response:
    with store_of(request).read() as connection:
        every = versions(connection, project.id)
    text = text if text is not None else (every[0].text if every else "")
    return page(request, "guidelines.html", 422 if problem else 200, project=project, every=every, problem=problem, text=text)


@router.post("/p/{name}/tasks/{number}/overlap")
def overlap_do(request: Request, name: Name, number: Id) -> Response:
    """Another number of labelers for a task."""
    row, overlap = task_of(request, name, number), whole_number(request, "overlap", 1, MOST_OVERLAP)
    if overlap is None:
        raise Invalid(f"overlap is a number from 1 to {MOST_OVERLAP}")
    with store_of(request).write() as connection:
        set_overlap(connection, [row.id], overlap)
        log(connection, person_of(request).id, "overlap", project=name, task=row.id, overlap=overlap)
    return RedirectResponse(f"/p/{name}/tasks/{number}?done=saved", 303)


@router.post("/p/{name}/tasks/{number}/close")
def close_do(request: Request, name: Name, number: Id) -> Response:
    """Takes a task out of the queue, or puts it back."""
    row = task_of(request, name, number)
    with store_of(request).write() as connection:
        close_task(connection, row.id, not row.closed)
        log(connection, person_of(request).id, "open task" if row.closed else "close task", project=name, task=row.id)
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


def _settings(request: Request, project: Project, problems: list[str] | None = None) -> Response:
    """The form as the project has it, or, where something is wrong with it, as it was sent."""
    settings = project.settings
    values: dict[str, Any] = {name: getattr(settings, name) for name in NUMBERS}
    values |= {"title": project.title, "open": project.open, "rate": settings.rate, "flags": settings.flags}
    values["mix"] = "".join(f"{case} = {round(100 * share, 2)} %\n" for case, share in settings.mix.items())
    if problems:
        values |= {name: field(request, name) for name in ("title", "mix", *NUMBERS)}
        values |= {name: bool(field(request, name)) for name in ("open", "rate")}
        values["flags"] = _flags(request)
    said = {name: info.description for name, info in ProjectSettings.model_fields.items()}
    return page(
        request, "settings.html", 422 if problems else 200, project=project, values=values, flags=FLAGS, mix=MIX, problems=problems or [],
        said_of=said,
    )  # fmt: skip


def _changes(project: Project, settings: ProjectSettings, title: str, is_open: bool) -> dict[str, Any]:
    """What is another than before, for the journal."""
    before = {**write_settings(project.settings), "title": project.title, "open": project.open}
    after = {**write_settings(settings), "title": title, "open": is_open}
    return {name: value for name, value in after.items() if value != before[name]}


def _settled(connection: Connection, task_id: int) -> dict[str, Any] | None:
    value = connection.execute(select(adjudications.c.value).where(adjudications.c.task_id == task_id)).scalar()
    return known_of(value) if value else None


def known_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A settled ranking as a known answer."""
    return {"ranks": value["ranks"], "flags": value["flags"]}


def _bounds(name: str) -> tuple[float, float]:
    """From and up to what a number of the settings goes."""
    said = ProjectSettings.model_fields[name].metadata
    return next(m.ge for m in said if hasattr(m, "ge")), next(m.le for m in said if hasattr(m, "le"))


def _flags(request: Request) -> list[str]:
    return [f for f in request.state.form.getlist("flags") if isinstance(f, str)]


def _given(request: Request) -> tuple[dict[str, Any], list[str]]:
    """The form's fields as settings, and what is wrong with them, all at once."""
    out: dict[str, Any] = {"rate": bool(field(request, "rate")), "flags": _flags(request)}
    problems = []
    for name in NUMBERS:
        least, most = _bounds(name)
        text = field(request, name).strip()
        whole = name == "overlap"
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if least <= number <= most:
            out[name] = number
        else:
            kind = "a whole number" if whole else "a number"
            problems.append(f"{name.replace('_', ' ').capitalize()}: {text[:40]!r}; write {kind} from {least:g} to {most:g}.")
    shares = {}
    for line in filter(str.strip, field(request, "mix").splitlines()):
        case, _, share = line.partition("=" if "=" in line else ":")
        try:
            shares[clean(case.strip(), "use case", 64)] = float(share.strip().rstrip("%")) / (100 if "%" in share else 1)
        except (ValueError, Invalid):
            problems.append(f"Mix of use cases: {line[:60]!r}; write a use case and its share a line, such as chat = 8.4 %.")
    if shares and (min(shares.values()) < 0 or not sum(shares.values()) <= 1.001):
        problems.append("Mix of use cases: shares are from 0, together at most 100 %.")
    return {**out, "mix": shares}, problems
