"""Admins' pages: who works here, one-time links, roles, sessions, the journal."""

from fastapi import APIRouter, Request
from sqlalchemy import func, select
from starlette.responses import RedirectResponse, Response

from trimtab.label.accounts import ROLES, change_user, create_user, new_link, revoke
from trimtab.label.api import Id, person_of, store_of
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.pages.door import field
from trimtab.label.render import page
from trimtab.label.store import log
from trimtab.label.tables import events, labels, sessions, users

router = APIRouter(include_in_schema=False)


@router.get("/users")
def users_page(request: Request) -> Response:
    """Everybody, and a form for somebody new."""
    return _users(request)


@router.post("/users")
def user_new_do(request: Request) -> Response:
    """A new account; its one-time link is shown once."""
    name = field(request, "name").strip().lower()
    try:
        with store_of(request).write() as connection:
            user = create_user(connection, name, field(request, "role"), field(request, "shown"))
            token = new_link(connection, user)
            log(connection, person_of(request).id, "new user", of=user, role=field(request, "role"))
    except Invalid as error:
        return _users(request, problem=str(error))
    return _users(request, link=_link(request, token), of=name)


@router.post("/users/{number}")
def user_change_do(request: Request, number: Id) -> Response:
    """Another role, or switched off and on."""
    values: dict[str, object] = {}
    if field(request, "role"):
        values["role"] = field(request, "role")
    if field(request, "active"):
        values["active"] = field(request, "active") == "yes"
    if not values:
        raise Invalid("nothing to change")
    try:
        with store_of(request).write() as connection:
            change_user(connection, number, **values)
            log(connection, person_of(request).id, "change user", of=number, **values)
    except (Invalid, Refused) as error:
        return _users(request, problem=str(error))
    return RedirectResponse("/users?done=saved", 303)


@router.post("/users/{number}/link")
def user_link_do(request: Request, number: Id) -> Response:
    """A new one-time link, for a forgotten password."""
    with store_of(request).write() as connection:
        name = connection.execute(select(users.c.name).where(users.c.id == number, users.c.active)).scalar()
        if name is None:
            raise Missing("no such person")
        token = new_link(connection, number)
        log(connection, person_of(request).id, "new link", of=number)
    return _users(request, link=_link(request, token), of=name)


@router.post("/users/{number}/sessions")
def user_sessions_do(request: Request, number: Id) -> Response:
    """Logs somebody out everywhere."""
    with store_of(request).write() as connection:
        revoke(connection, number)
        log(connection, person_of(request).id, "revoke sessions", of=number)
    return RedirectResponse("/users?done=saved", 303)


@router.get("/journal")
def journal(request: Request) -> Response:
    """Who did what, latest first."""
    query = (
        select(events, users.c.name)
        .outerjoin(users, users.c.id == events.c.user_id)
        .order_by(events.c.id.desc())
        .limit(300)
    )
    with store_of(request).read() as connection:
        rows = connection.execute(query).all()
    return page(request, "journal.html", rows=rows)


def _users(request: Request, *, problem: str = "", link: str = "", of: str = "") -> Response:
    given = (
        select(labels.c.user_id, func.count().label("given"))
        .where(labels.c.withdrawn.is_(None))
        .group_by(labels.c.user_id)
        .subquery()
    )
    seen = select(sessions.c.user_id, func.max(sessions.c.seen).label("seen")).group_by(sessions.c.user_id).subquery()
    query = (
        select(users, func.coalesce(given.c.given, 0).label("given"), seen.c.seen)
        .outerjoin(given, given.c.user_id == users.c.id)
        .outerjoin(seen, seen.c.user_id == users.c.id)
        .order_by(users.c.active.desc(), users.c.name)
    )
    with store_of(request).read() as connection:
        rows = connection.execute(query).all()
    return page(
        request, "users.html", 422 if problem else 200, rows=rows, roles=ROLES, problem=problem, link=link, of=of
    )


def _link(request: Request, token: str) -> str:
    return f"{request.app.state.served.url}/setup/{token}"
