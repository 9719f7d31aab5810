"""A browser without a browser: logs in, reads the form token, posts as our pages do."""

import re
from typing import Any

from label_people import Place
from sqlalchemy import update
from starlette.testclient import TestClient

from trimtab.label import accounts
from trimtab.label.app import build
from trimtab.label.served import Served
from trimtab.label.store import Store
from trimtab.label.tables import users

URL = "http://127.0.0.1:8765"
PASSWORD = "correct horse battery staple"
CODED = accounts.HASHER.hash(PASSWORD)


class Browser:
    """One person's cookies, for one app."""

    def __init__(self, store: Store, url: str = URL) -> None:
        self.client = TestClient(
            build(Served(store, url)), base_url=url, follow_redirects=False, raise_server_exceptions=False
        )
        self.csrf = ""
        self.origin = url

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def page(self, path: str) -> str:
        """The HTML of a page that must be there."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
        return str(answer.text)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        """A form, with token and origin."""
        headers = {"Origin": self.origin, **options.pop("headers", {})}
        return self.client.post(path, data={"csrf": self.csrf, **(data or {})}, headers=headers, **options)

    def api(self, path: str, body: Any = None, **headers: str) -> Any:
        """JSON, with token and origin."""
        given = {"Origin": self.origin, "X-CSRF-Token": self.csrf, **headers}
        return self.client.post(path, json=body if body is not None else {}, headers=given)

    def log_in(self, name: str, password: str = PASSWORD) -> Any:
        self.csrf = token_of(self.client.get("/login").text)
        answer = self.post("/login", {"name": name, "password": password})
        if answer.status_code == 303:
            self.csrf = token_of(self.client.get("/").text)
        return answer


def token_of(html: str) -> str:
    """The form token of a page."""
    found = re.search(r'<meta name="csrf" content="([^"]*)">', html)
    assert found, html[:300]
    return found[1]


def invite(place: Place, name: str, role: str = "labeler") -> None:
    """Gives this person, made if need be, the password."""
    person = place.person(name, role)
    with place.store.write() as connection:
        connection.execute(update(users).where(users.c.id == person).values(password=CODED))


def logged_in(place: Place, name: str, role: str = "labeler") -> Browser:
    """A browser in which this person, made if need be, is logged in."""
    invite(place, name, role)
    browser = Browser(place.store)
    assert browser.log_in(name).status_code == 303
    return browser
