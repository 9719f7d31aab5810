"""The app: every router behind the one gate, errors as pages or JSON, static files, headers around all of it."""

from pathlib import Path

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from trimtab import __version__
from trimtab.common.errors import UserError
from trimtab.label import api
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.guard import guard
from trimtab.label.headers import Fence
from trimtab.label.pages import ROUTERS
from trimtab.label.render import page
from trimtab.label.served import Served

STATIC = Path(__file__).parent / "static"
STATUS: dict[type[Exception], int] = {Missing: 404, Refused: 409, Invalid: 422}


def build(served: Served) -> ASGIApp:
    """The whole app, ready for a server."""
    app = inner(served)
    return Fence(app, served.hosts, served.secure)


def inner(served: Served) -> FastAPI:
    """The app without the fence of headers and limits, for tests that read its routes."""
    app = FastAPI(title="trimtab label", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.served = served
    for router in (*ROUTERS, api.router):
        app.include_router(router, dependencies=[Depends(guard)])
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(OperationalError, _busy)
    app.add_exception_handler(IntegrityError, _collision)
    app.add_exception_handler(Exception, _failed)
    return app


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | StarletteHTTPException)
    if error.status_code == 401 and not _wants_json(request):
        return RedirectResponse("/login", 303)
    headers = getattr(error, "headers", None)
    return _say(request, error.status_code, str(error.detail), dict(headers) if headers else None)


def _user_error(request: Request, error: Exception) -> Response:
    return _say(request, STATUS.get(type(error), 422), str(error))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return _say(request, 422, f"{where}: {first['msg']}" if where else str(first["msg"]))


def _busy(request: Request, error: Exception) -> Response:
    return _say(request, 503, "the database is busy; what you sent is still here, send it again", {"Retry-After": "2"})


def _collision(request: Request, error: Exception) -> Response:
    return _say(request, 409, "somebody did the same a moment ago; reload the page")


def _failed(request: Request, error: Exception) -> Response:
    return _say(request, 500, "something went wrong here; nothing was changed")


def _say(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    message = message.encode("utf-8", "replace").decode()  # what was sent may hold half a character
    if _wants_json(request):
        return JSONResponse({"error": message}, status, headers)
    response = page(request, "error.html", status, message=message)
    response.headers.update(headers or {})
    return response


def _wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/")
