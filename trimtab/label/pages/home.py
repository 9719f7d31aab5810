"""What one sees first: the projects, the instructions, the shared questions, what one has done."""

import time

from fastapi import APIRouter, Request
from sqlalchemy import Connection, select
from starlette.responses import RedirectResponse, Response

from trimtab.label import assignment, threads
from trimtab.label.access import allowed
from trimtab.label.accounts import Person
from trimtab.label.api import Name, labelled, onward, person_of, place_of, store_of
from trimtab.label.pages.door import field, whole_number
from trimtab.label.projects import Project, acknowledge, all_projects, screening_result, unread, versions
from trimtab.label.render import page
from trimtab.label.tables import assignments, labels, tasks

router = APIRouter(include_in_schema=False)
COUNTED = 200  # tasks that wait are counted up to here


@router.get("/")
def home(request: Request) -> Response:
    """All projects, each with what waits for this person."""
    person = person_of(request)
    with store_of(request).read() as connection:
        cards = [_card(connection, project, person) for project in all_projects(connection)]
    return page(request, "home.html", cards=cards, counted=COUNTED)


@router.get("/p/{name}/instructions")
def instructions(request: Request, name: Name) -> Response:
    """The newest instructions, and a button where this person has not read them."""
    project = place_of(request, name)
    with store_of(request).read() as connection:
        new = unread(connection, project.id, person_of(request).id)
        every = versions(connection, project.id)
    return page(
        request,
        "instructions.html",
        project=project,
        newest=every[0] if every else None,
        new=new is not None,
        every=every,
    )


@router.post("/p/{name}/instructions")
def acknowledge_do(request: Request, name: Name) -> Response:
    """Notes that a version was read, and goes on to the first task."""
    project, version = place_of(request, name), whole_number(request, "version", 1, 10**8)
    person = person_of(request)
    with store_of(request).write() as connection:
        acknowledge(connection, project.id, version or 0, person.id)
        if allowed("dashboard", person.role):  # they read them to check them
            return RedirectResponse("/", 303)
        following = assignment.claim(connection, project, person.id)
    return RedirectResponse(onward(project, following), 303)


@router.post("/p/{name}/start")
def start_do(request: Request, name: Name) -> Response:
    """Takes a task and goes to its page."""
    project = place_of(request, name)
    with store_of(request).write() as connection:
        following = assignment.claim(connection, project, person_of(request).id)
    return RedirectResponse(onward(project, following), 303)


@router.get("/p/{name}/mine")
def mine(request: Request, name: Name, why: str = "") -> Response:
    """What this person has done last, and why there is no task now."""
    project, person = place_of(request, name), person_of(request)
    query = (
        select(labels, tasks.c.kind, tasks.c.prompt, assignments.c.shown)
        .join(tasks, tasks.c.id == labels.c.task_id)
        .join(assignments, assignments.c.id == labels.c.assignment_id)
        .where(labels.c.project_id == project.id, labels.c.user_id == person.id, labels.c.withdrawn.is_(None))
        .order_by(labels.c.id.desc())
        .limit(50)
    )
    with store_of(request).read() as connection:
        rows = connection.execute(query).all()
        fresh = threads.fresh(connection, project, person.id, everything=False)
        number = labelled(connection, project, person.id)
        screening = screening_result(connection, project.id, person.id)
    reason = why if why in ("failed", "nothing", "closed") else ""
    return page(request, "mine.html", project=project, rows=rows, number=number, why=reason, screening=screening, fresh=fresh)


@router.get("/p/{name}/questions")
def questions(request: Request, name: Name) -> Response:
    """The project's thread, and the tasks that have one: all for reviewers and researchers, their own for labelers."""
    project, person = place_of(request, name), person_of(request)
    everything = allowed("task_view", person.role)
    with store_of(request).read() as connection:
        said = threads.thread(connection, project.id, None)
        fresh = threads.fresh(connection, project, person.id, everything=everything)
        busy = threads.busy_tasks(connection, project, None if everything else person.id)
    if fresh.get(0):
        with store_of(request).write() as connection:
            threads.mark_read(connection, project.id, person.id, said)
    return page(request, "questions.html", project=project, messages=said, busy=busy, fresh=fresh)


@router.post("/p/{name}/questions")
def question_do(request: Request, name: Name) -> Response:
    """A message into the project's thread."""
    project = place_of(request, name)
    with store_of(request).write() as connection:
        threads.post(connection, project.id, person_of(request).id, field(request, "text"))
    return RedirectResponse(f"/p/{name}/questions?done=sent", 303)


def _card(connection: Connection, project: Project, person: Person) -> dict[str, object]:
    user_id = person.id
    waiting = assignment.waiting(connection, project.id, user_id, COUNTED)
    fresh = threads.fresh(connection, project, user_id, everything=allowed("task_view", person.role))
    midnight = time.time() - time.time() % 86400
    return {
        "project": project, "waiting": waiting, "today": labelled(connection, project, user_id, midnight),
        "all": labelled(connection, project, user_id), "new": unread(connection, project.id, user_id) is not None,
        "screening": screening_result(connection, project.id, user_id), "fresh": sum(fresh.values()),
    }  # fmt: skip
