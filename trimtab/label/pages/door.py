"""Coming in and going out: log in, log out, the one-time link, one's own account."""

from fastapi import APIRouter, Request
from sqlalchemy import select
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from trimtab.label.accounts import change_password, link_owner, log_in, revoke, use_link
from trimtab.label.api import person_of, store_of
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.guard import set_cookie
from trimtab.label.projects import NAME
from trimtab.label.render import page
from trimtab.label.tables import sessions

router = APIRouter(include_in_schema=False)


def field(request: Request, name: str) -> str:
    """A text field of the form that was sent."""
    value = request.state.form.get(name, "")
    return value if isinstance(value, str) else ""


def whole_number(request: Request, name: str, least: int, most: int) -> int | None:
    """A field's whole number; None where it holds something else, or one that is too small or too large."""
    text = field(request, name).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return number if least <= (number := int(text)) <= most else None


@router.get("/login")
def login(request: Request, name: str = "") -> Response:
    """The form, unless somebody is logged in."""
    if request.state.person:
        return RedirectResponse("/", 303)
    return page(request, "login.html", problem="", name=name if NAME.match(name) else "")


@router.post("/login")
def login_do(request: Request) -> Response:
    """Logs in; a wrong password says no more than that."""
    served, name = request.app.state.served, field(request, "name")
    address = request.client.host if request.client else "?"
    try:
        token = log_in(served.store, name, field(request, "password"), address, request.headers.get("user-agent", ""))
    except Refused as error:
        request.state.person = None
        return page(request, "login.html", 401, problem=str(error), name=name)
    response = RedirectResponse("/", 303)
    set_cookie(served, response, "", token)
    return response


@router.post("/logout")
def logout(request: Request) -> Response:
    """Ends this session."""
    person = person_of(request)
    with store_of(request).write() as connection:
        revoke(connection, person.id, person.session)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(request.app.state.served.cookie, path="/")
    response.headers["Clear-Site-Data"] = '"storage"'
    return response


@router.get("/setup/{token}")
def setup(request: Request, token: str) -> Response:
    """The form to set a password by a one-time link."""
    with store_of(request).read() as connection:
        owner = link_owner(connection, token)
    return page(request, "setup.html", owner=owner, problem="")


@router.post("/setup/{token}")
def setup_do(request: Request, token: str) -> Response:
    """Sets the password; the link is used up."""
    with store_of(request).read() as connection:
        owner = link_owner(connection, token)
    password = field(request, "password")
    try:
        if password != field(request, "again"):
            raise Invalid("the two passwords are not the same")
        name = use_link(store_of(request), token, password)
    except (Invalid, Missing) as error:
        return page(request, "setup.html", 422, owner=owner, problem=str(error))
    return RedirectResponse(f"/login?done=ready&name={name}", 303)


@router.get("/account")
def account(request: Request) -> Response:
    """One's own password and sessions."""
    return _account(request, "")


@router.post("/account/password")
def password_do(request: Request) -> Response:
    """Another password."""
    try:
        if field(request, "password") != field(request, "again"):
            raise Invalid("the two new passwords are not the same")
        change_password(store_of(request), person_of(request), field(request, "old"), field(request, "password"))
    except (Invalid, Refused) as error:
        return _account(request, str(error))
    return RedirectResponse("/account?done=password", 303)


@router.post("/account/sessions")
def sessions_do(request: Request) -> Response:
    """Ends every other session of this person."""
    person = person_of(request)
    with store_of(request).write() as connection:
        revoke(connection, person.id, keep=person.session)
    return RedirectResponse("/account?done=sessions", 303)


@router.get("/health")
def health(request: Request) -> Response:
    """Whether the database answers."""
    with store_of(request).read() as connection:
        connection.execute(select(1))
    return PlainTextResponse("ok")


def _account(request: Request, problem: str) -> Response:
    person = person_of(request)
    mine = (
        select(sessions)
        .where(sessions.c.user_id == person.id, sessions.c.revoked.is_(None))
        .order_by(sessions.c.seen.desc())
    )
    with store_of(request).read() as connection:
        rows = connection.execute(mine.limit(20)).all()
    return page(request, "account.html", 422 if problem else 200, sessions=rows, problem=problem)
