"""The arena's page and its two calls."""

import secrets
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from trimtab.label import arena as ring
from trimtab.label.api import ERRORS, Body, Name, person_of, place_of, store_of
from trimtab.label.assignment import admit
from trimtab.label.errors import Missing, Refused
from trimtab.label.projects import Project
from trimtab.label.render import markdown, page
from trimtab.label.store import log
from trimtab.records import JSON

router = APIRouter()
Number = Field(None, ge=1, le=2**31 - 1)


class Ask(Body):
    """What was said; ``battle`` is the one before it in this conversation."""

    text: str = Field(min_length=1, max_length=ring.LONGEST_TURN)
    battle: int | None = Number


class Answers(BaseModel):
    """Both answers as sanitised HTML, in their order on the screen."""

    battle: int
    html: tuple[str, str]


class Vote(Body):
    """Which of the two was better."""

    battle: int = Field(ge=1, le=2**31 - 1)
    choice: Literal["a", "b", "tie", "bad"]


class Names(BaseModel):
    """Who they were."""

    names: tuple[str, str]


@router.get("/p/{name}/arena", include_in_schema=False)
def arena(request: Request, name: Name, battle: int = 0) -> Response:
    """The page, with the conversation whose last turn is ``battle``."""
    project, ready = place_of(request, name), len(request.app.state.served.models) > 1
    last, earlier = _conversation(request, project, battle) if battle and ready else (None, [])
    return page(request, "arena.html", project=project, ready=ready, last=last, earlier=earlier)


def _conversation(request: Request, project: Project, battle: int) -> tuple[dict[str, Any], list[JSON]]:
    """A battle of this person as the page's script takes it, and the messages before it; names only where there is a vote."""
    with store_of(request).read() as connection:
        row = ring.own(connection, person_of(request).id, min(battle, 2**31 - 1))
    if row.project_id != project.id:
        raise Missing("no such conversation of yours")
    answers = [row.completions[i] for i in row.shown]
    last = {"battle": row.id, "said": row.messages[-1]["content"], "html": [markdown(a["text"]) for a in answers], "choice": row.choice}
    return {**last, "names": [a["model"] for a in answers] if row.choice else None}, row.messages[:-1]


@router.post("/api/projects/{name}/arena/ask", responses=ERRORS)
def api_arena_ask(request: Request, name: Name, body: Ask) -> Answers:
    """Two hidden models answer."""
    project, person, models = place_of(request, name), person_of(request), request.app.state.served.models
    with store_of(request).write() as connection:  # it may write down that the screening is passed
        admit(connection, project, person.id)
        before = ring.own(connection, person.id, body.battle) if body.battle else None
    messages = ring.conversation(before, body.text)
    try:
        with request.app.state.served.fighting():
            answers, shown = ring.fight(models, messages, secrets.randbelow(2**31))
    except ring.Unanswered as error:
        with store_of(request).write() as connection:
            log(connection, person.id, "arena failed", project=project.name, model=error.model, why=error.why[:500])
        raise Refused("the models could not answer this; try a shorter message, or begin a new conversation") from None
    with store_of(request).write() as connection:
        battle = ring.keep(connection, project, person.id, messages, answers, shown)
    first, second = (markdown(answers[i].text) for i in shown)
    return Answers(battle=battle, html=(first, second))


@router.post("/api/projects/{name}/arena/vote", responses=ERRORS)
def api_arena_vote(request: Request, name: Name, body: Vote) -> Names:
    """Keeps the vote and tells the names."""
    place_of(request, name)
    with store_of(request).write() as connection:
        first, second = ring.vote(connection, person_of(request).id, body.battle, body.choice)
    return Names(names=(first, second))
