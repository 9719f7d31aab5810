"""The JSON API: what the labeler's page does without a reload."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, func, select

from trimtab.label import assignment
from trimtab.label.accounts import Person
from trimtab.label.assignment import Next
from trimtab.label.counts import counted
from trimtab.label.projects import Project, find_project, project_by_id, screening_result
from trimtab.label.render import rendered
from trimtab.label.store import Store
from trimtab.label.tables import labels
from trimtab.label.values import LONGEST_TEXT, check_json, clean

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": what, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for code, what in (
        (400, "not readable"), (401, "nobody is logged in"), (403, "not allowed, or not from our pages"), (404, "no such thing of yours"),
        (409, "not possible now"), (413, "too large"), (415, "not JSON"), (422, "not what is needed"), (503, "busy, send it again"),
    )
}  # fmt: skip
router = APIRouter(prefix="/api", responses=ERRORS)


class Body(BaseModel):
    """What a request carries; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(BaseModel):
    """One sentence for the person in front of the screen."""

    error: str


class Draft(Body):
    """What is written so far; only the page that wrote it reads it."""

    value: dict[str, Any]
    seconds: float = Field(0, ge=0, le=10**7)


class Submission(Draft):
    """A label, in the order of the screen. ``key`` is the page's own: sent twice, the label is kept once."""

    key: str = Field(min_length=8, max_length=64)


class Reason(Body):
    """Why a task is skipped."""

    reason: str = Field(min_length=1, max_length=5000)


class Text(Body):
    """A text to render."""

    text: str = Field(max_length=LONGEST_TEXT)


class Onward(BaseModel):
    """Where the page goes next: a task, or the page that says why there is none."""

    url: str
    why: Literal["", "instructions", "failed", "nothing", "closed"] = ""
    label: int | None = None


class Kept(BaseModel):
    """Until when the task is kept for this person, seconds since 1970."""

    until: float


class Html(BaseModel):
    """Sanitised HTML."""

    html: str


class Mine(BaseModel):
    """How many labels of a project are this person's."""

    labels: int


def store_of(request: Request) -> Store:
    """The database."""
    store: Store = request.app.state.served.store
    return store


def person_of(request: Request) -> Person:
    """Who is logged in."""
    person: Person = request.state.person
    return person


def place_of(request: Request, name: str) -> Project:
    """The project of the address."""
    with store_of(request).read() as connection:
        return find_project(connection, name)


def onward(project: Project, following: Next) -> str:
    """The page of what comes next."""
    if following.assignment is not None:
        return f"/a/{following.assignment}"
    if following.why == "instructions":
        return f"/p/{project.name}/instructions"
    return f"/p/{project.name}/mine?why={following.why}"


@router.post("/projects/{name}/next")
def api_next(request: Request, name: Name) -> Onward:
    """Takes the next task, or says why there is none."""
    project = place_of(request, name)
    with store_of(request).write() as connection:
        following = assignment.claim(connection, project, person_of(request).id)
    return Onward(url=onward(project, following), why=following.why)


@router.post("/assignments/{number}/draft")
def api_draft(request: Request, number: Id, body: Draft) -> Kept:
    """Keeps what is written so far and prolongs the lease."""
    check_json(body.value, "the draft", 10 * LONGEST_TEXT)
    with store_of(request).write() as connection:
        return Kept(until=assignment.save_draft(connection, person_of(request).id, number, body.model_dump()))


@router.post("/assignments/{number}/submit")
def api_submit(request: Request, number: Id, body: Submission) -> Onward:
    """Keeps a label and takes the next task, in one transaction; answered once it is on the disk."""
    person = person_of(request)
    with store_of(request).write() as connection:
        label = assignment.submit(connection, person.id, number, body.key, body.value, body.seconds)
        row = assignment.own(connection, person.id, number)
        project = project_by_id(connection, row.project_id)
        result = screening_result(connection, project.id, person.id) if row.purpose == "screening" else None
        following = assignment.claim(connection, project, person.id)
    url = onward(project, following)
    if result is not None and result.passed:
        url += ("&" if "?" in url else "?") + "done=passed"
    return Onward(url=url, why=following.why, label=label)


@router.post("/assignments/{number}/skip")
def api_skip(request: Request, number: Id, body: Reason) -> Onward:
    """Gives the task to somebody else and takes the next one."""
    person = person_of(request)
    with store_of(request).write() as connection:
        assignment.skip(connection, person.id, number, body.reason)
        project = project_by_id(connection, assignment.own(connection, person.id, number).project_id)
        following = assignment.claim(connection, project, person.id)
    return Onward(url=onward(project, following), why=following.why)


@router.post("/projects/{name}/undo")
def api_undo(request: Request, name: Name) -> Onward:
    """Takes the last label back and opens it again."""
    project = place_of(request, name)
    with store_of(request).write() as connection:
        number = assignment.undo(connection, project, person_of(request).id)
    return Onward(url=f"/a/{number}?done=undone")


@router.post("/preview")
def api_preview(request: Request, body: Text) -> Html:
    """Markdown as it will be read."""
    return Html(html=rendered(clean(body.text, "the text", LONGEST_TEXT)))


@router.get("/projects/{name}/mine")
def api_mine(request: Request, name: Name) -> Mine:
    """How many labels are mine."""
    project = place_of(request, name)
    with store_of(request).read() as connection:
        return Mine(labels=labelled(connection, project, person_of(request).id))


class Progress(BaseModel):
    """How far a project is."""

    tasks: int
    complete: int
    wanted: int
    given: int


@router.get("/projects/{name}/progress")
def api_progress(request: Request, name: Name) -> Progress:
    """Tasks, and labels given of those that are wanted."""
    project = place_of(request, name)
    with store_of(request).read() as connection:
        count = counted(connection, project)
    return Progress(tasks=count.tasks, complete=count.complete, wanted=count.wanted, given=count.given)


def labelled(connection: Connection, project: Project, user_id: int, since: float = 0.0) -> int:
    """How many labels of a project are this person's."""
    mine = (
        labels.c.project_id == project.id,
        labels.c.user_id == user_id,
        labels.c.withdrawn.is_(None),
        labels.c.created >= since,
    )
    return int(connection.execute(select(func.count()).select_from(labels).where(*mine)).scalar_one())


def own_task(request: Request, number: int) -> Any:
    """The assignment of the address, which must be this person's."""
    with store_of(request).read() as connection:
        return assignment.own(connection, person_of(request).id, number)
