"""The one gate before every route: who is it, may they, and does the request come from our own pages."""

import secrets
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.responses import Response

from trimtab.label.access import ACCESS, allowed
from trimtab.label.accounts import SESSION_SECONDS, Person, who
from trimtab.label.served import Served

SAFE = ("GET", "HEAD")
MOST_FIELDS = 2000


async def guard(request: Request) -> None:
    """Puts ``person`` and ``form`` into ``request.state``, or refuses.

    Raises:
        HTTPException: 401 nobody is logged in, 403 the role may not, or the request is not from one of our pages.
    """
    served: Served = request.app.state.served
    route = request.scope["route"].name
    token = request.cookies.get(served.cookie, "")
    person = await run_in_threadpool(who, served.store, token) if token else None
    request.state.person = person
    request.state.form = FormData()
    if not allowed(route, person.role if person else None):
        raise HTTPException(
            403 if person or route not in ACCESS else 401, "you may not do this" if person else "log in first"
        )
    if request.method not in SAFE:
        await _from_our_pages(request, served, person)


def csrf_token(request: Request) -> str:
    """The token that a form on this page must send back: the session's, or, before logging in, one of a cookie of its own."""
    person: Person | None = request.state.person
    if person is not None:
        return person.csrf
    if not hasattr(request.state, "fresh"):
        request.state.fresh = request.cookies.get(request.app.state.served.cookie + "-form") or secrets.token_urlsafe(
            32
        )
    return str(request.state.fresh)


def keep_form_token(request: Request, response: Response) -> None:
    """Sends the cookie behind ``csrf_token`` where nobody is logged in."""
    if hasattr(request.state, "fresh"):
        set_cookie(request.app.state.served, response, "-form", request.state.fresh, 3600)


def set_cookie(served: Served, response: Response, suffix: str, value: str, seconds: int = SESSION_SECONDS) -> None:
    """A cookie that scripts cannot read and other sites cannot send."""
    response.set_cookie(
        served.cookie + suffix, value, max_age=seconds, path="/", secure=served.secure, httponly=True, samesite="lax"
    )


async def _from_our_pages(request: Request, served: Served, person: Person | None) -> None:
    if request.headers.get("origin", "").lower() not in served.origins:
        raise HTTPException(403, "this request did not come from one of this server's pages")
    expected = person.csrf if person else request.cookies.get(served.cookie + "-form", "")
    if request.url.path.startswith("/api/"):
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise HTTPException(415, "send JSON")
        given: Any = request.headers.get("x-csrf-token", "")
    else:
        request.state.form = await request.form(max_files=1, max_fields=MOST_FIELDS)
        given = request.state.form.get("csrf", "")
    if (
        not expected
        or not isinstance(given, str)
        or not secrets.compare_digest(expected.encode(), given.encode("utf-8", "replace"))
    ):
        raise HTTPException(403, "this page is from an earlier log-in; reload it and do it again")
