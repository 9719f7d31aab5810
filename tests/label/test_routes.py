"""Every route, generated from the routers: who may, tokens, origins, other people's ids, headers, limits."""

import re
from typing import Any

import pytest
from label_people import Place, ranked
from label_web import URL, Browser, logged_in
from sqlalchemy import select

from trimtab.label import api
from trimtab.label.access import ACCESS, PUBLIC, allowed
from trimtab.label.accounts import ROLES
from trimtab.label.headers import BODY_LIMIT, UPLOAD_LIMIT
from trimtab.label.pages import ROUTERS
from trimtab.label.tables import assignments, events, labels

ROUTES = [route for router in (*ROUTERS, api.router) for route in router.routes]
STATES = [r for r in ROUTES if "POST" in r.methods]  # type: ignore[attr-defined]
NAMES = {"name": "p", "number": "1", "token": "nothing", "what": "comparisons", "form": "jsonl"}
BODIES: dict[str, Any] = {
    "api_draft": {"value": {}}, "api_submit": {"value": {}, "key": "0123456789"}, "api_skip": {"reason": "Other"},
    "api_preview": {"text": "x"},
}  # fmt: skip


def address(route: Any) -> str:
    return re.sub(r"{(\w+)[^}]*}", lambda m: NAMES[m[1]], route.path)


def call(browser: Browser, route: Any, **headers: str) -> Any:
    path = address(route)
    if "GET" in route.methods:
        return browser.get(path)
    if path.startswith("/api/"):
        return browser.api(path, BODIES.get(route.name), **headers)
    return browser.post(path, headers=headers)


@pytest.fixture
def here(lite_place: Place) -> Place:
    lite_place.begin(overlap=2).add(ranked("bees", 3), ranked("ants", 3))
    lite_place.label("owner")
    return lite_place


def test_every_route_is_in_the_table_and_no_other_is() -> None:
    names = [r.name for r in ROUTES]
    assert sorted(names) == sorted(ACCESS) and len(names) > 50
    assert {r.methods == {"GET"} or r.methods == {"POST"} for r in ROUTES} == {True}  # type: ignore[attr-defined]


@pytest.mark.parametrize("role", [None, *ROLES])
def test_roles_times_routes(here: Place, role: str | None) -> None:
    """Who may not is refused before anything happens; who may gets some other answer."""
    browser = logged_in(here, "somebody", role) if role else Browser(here.store)
    if role == "labeler":
        assert not any(
            allowed(name, role) for name in ("users_page", "dashboard", "export_file", "task_view", "review")
        )
    refused = []
    for route in ROUTES:
        if route.name in ("logout", "sessions_do"):
            continue
        answer = call(browser, route)
        if not allowed(route.name, role):
            wanted = {303} if role is None and "/api/" not in route.path else {401} if role is None else {403}
            assert answer.status_code in wanted, (route.name, answer.status_code)
            assert role is not None or "/api/" in route.path or answer.headers["location"] == "/login"
            refused.append(route.name)
        elif ACCESS[route.name] != PUBLIC:
            assert answer.status_code not in (401, 403, 500), (route.name, answer.status_code, answer.text[:300])
    assert len(refused) == sum(not allowed(n, role) for n in ACCESS if n not in ("logout", "sessions_do"))


@pytest.mark.parametrize("route", STATES, ids=lambda r: r.name)
def test_a_change_needs_the_token_and_our_origin(here: Place, route: Any) -> None:
    browser = logged_in(here, "boss", "admin") if ACCESS[route.name] != PUBLIC else Browser(here.store)
    if ACCESS[route.name] == PUBLIC:
        browser.get("/login")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8765", ""):
        assert call(browser, route, Origin=origin).status_code == 403, origin
    right, other = browser.csrf, logged_in(here, "other", "admin").csrf
    for token in ("", "wrong", other, right + "x", right[:-1]):
        browser.csrf = token
        assert call(browser, route, **{"X-CSRF-Token": token}).status_code == 403, token
    with here.store.read() as connection:
        assert connection.execute(select(events).where(events.c.what != "log in")).first() is None  # nothing happened


def test_a_json_route_takes_no_form(here: Place) -> None:
    browser = logged_in(here, "ada")
    headers = {"Origin": URL, "X-CSRF-Token": browser.csrf}
    assert browser.client.post("/api/projects/p/next", data={"a": "b"}, headers=headers).status_code == 415


def test_other_peoples_ids_are_as_if_they_were_not(here: Place) -> None:
    """Every id of an assignment is tried by somebody else; the answer is that of an id that does not exist."""
    browser = logged_in(here, "ada")
    with here.store.read() as connection:
        foreign = [a.id for a in connection.execute(select(assignments))]
    for number in (*foreign, 999):
        said = {
            browser.get(f"/a/{number}").status_code,
            browser.post(f"/a/{number}/questions", {"text": "hm"}).status_code,
            browser.api(f"/api/assignments/{number}/draft", {"value": {}}).status_code,
            browser.api(f"/api/assignments/{number}/skip", {"reason": "Other"}).status_code,
            browser.api(
                f"/api/assignments/{number}/submit", {"value": {"ranks": [1, 2, 3]}, "key": "0123456789"}
            ).status_code,
        }
        assert said == {404}, (number, said)
    assert len(here.rows(labels)) == 1


def test_a_task_shows_no_model_no_other_label_and_no_known_answer(lite_place: Place) -> None:
    lite_place.begin(overlap=2).add(ranked("known", 3, [1, 2, 3]), purpose="screening")
    lite_place.add(ranked("bees", 3))
    browser = logged_in(lite_place, "ada")
    html = browser.page(browser.api("/api/projects/p/next").json()["url"])
    assert "answer 2 about known" in html
    assert not re.search(r"model-\d|&#34;ranks|\"known\"|screening_score", html)


def test_a_label_by_the_api(here: Place) -> None:
    browser = logged_in(here, "ada")
    url = browser.api("/api/projects/p/next").json()["url"]
    number = int(url.rsplit("/")[-1])
    body = {
        "value": {"ranks": [1, 1, 2], "ratings": [7, 7, 1], "flags": [[], [], ["made_up"]], "note": ""},
        "seconds": 3.5,
        "key": "k" * 20,
    }
    first, again = (browser.api(f"/api/assignments/{number}/submit", body).json() for _ in range(2))
    assert first["label"] == again["label"] and first["url"] != url
    undone = browser.api("/api/projects/p/undo").json()["url"]
    assert undone == f"/a/{number}?done=undone" and "Your last label is back" in browser.page(undone)
    assert browser.api(f"/api/assignments/{number}/skip", {"reason": "Other"}).status_code == 200
    assert browser.get("/api/projects/p/mine").json() == {"labels": 0}


def test_every_answer_carries_the_headers(here: Place) -> None:
    browser = logged_in(here, "boss", "admin")
    for path in (
        "/",
        "/login",
        "/nowhere",
        "/p/p/dashboard",
        "/p/zz/dashboard",
        "/static/label.css",
        "/api/projects/p/mine",
        "/static/../x",
    ):
        answer = browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and "frame-ancestors 'none'" in policy
        assert ("no-store" in answer.headers["cache-control"]) == (not path.startswith("/static/label"))


def test_no_page_has_inline_script_or_style(here: Place) -> None:
    browser = logged_in(here, "boss", "admin")
    seen = 0
    for route in ROUTES:
        if "GET" in route.methods and "/api/" not in route.path and route.name != "export_file":  # type: ignore[attr-defined]
            html = browser.get(address(route)).text
            for tag in re.findall(r"<script\b[^>]*>", html):
                assert re.fullmatch(r'<script type="module" src="/static/[\w.]+"></script>'.split("</")[0], tag), tag
            assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script[^>]*>[^<]", html, re.I), route.name
            assert not re.search(r'(?:src|href)="(?:https?:)?//', html), route.name
            seen += 1
    assert seen >= 20


def test_hosts_and_bodies(here: Place) -> None:
    browser = logged_in(here, "boss", "admin")
    assert browser.client.get("/login", headers={"Host": "evil.example"}).status_code == 400
    assert browser.client.get("/login", headers={"Host": "localhost:8765"}).status_code in (200, 303)
    headers = {"Origin": URL, "X-CSRF-Token": browser.csrf, "Content-Type": "application/json"}
    assert (
        browser.client.post("/api/preview", content=b'"' + b"x" * BODY_LIMIT + b'"', headers=headers).status_code == 413
    )

    def slowly() -> Any:
        for _ in range(UPLOAD_LIMIT // (1 << 20) + 2):
            yield b"x" * (1 << 20)

    headers = {"Origin": URL, "Content-Type": "multipart/form-data; boundary=b"}
    assert browser.client.post("/p/p/import", content=slowly(), headers=headers).status_code == 413
    assert browser.client.post("/p/p/settings", content=b"x" * (BODY_LIMIT + 1), headers=headers).status_code == 413


def test_errors_are_pages_and_say_no_secret(here: Place) -> None:
    browser = logged_in(here, "ada")
    assert "no such task of yours" in browser.get("/a/77").text and browser.get("/a/77").status_code == 404
    assert browser.get("/a/99999999999999999999").status_code == 422
    assert browser.get("/p/..%2f..%2fetc/mine").status_code in (404, 422)
    assert browser.get("/static/%2e%2e/app.py").status_code == 404
    headers = {"Origin": URL, "X-CSRF-Token": browser.csrf, "Content-Type": "application/json"}
    for body in (
        b'{"value": {"a": "\\ud800"}}',
        b'{"value": {}, "\\ud800": 1}',
        b"\xff",
        b"[" * 50_000,
        b'{"value": NaN}',
        b"",
    ):
        assert browser.client.post("/api/assignments/1/draft", content=body, headers=headers).status_code in (
            404,
            422,
            400,
        ), body[:40]


def test_nothing_is_fetched_from_elsewhere(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route is called, by an admin, while each attempt to connect to anything is written down."""
    browser = logged_in(here, "boss", "admin")
    tried: list[Any] = []
    monkeypatch.setattr("socket.socket.connect", lambda self, address: tried.append(address))
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: tried.append(a) or [])
    for route in ROUTES:
        if route.name not in ("logout", "sessions_do"):
            call(browser, route)
    assert tried == []


def test_a_failure_inside_says_nothing_of_it(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = logged_in(here, "ada")
    monkeypatch.setattr("trimtab.label.pages.home._card", lambda *a: 1 / 0)
    answer = browser.get("/")
    assert answer.status_code == 500 and "ZeroDivision" not in answer.text and "Traceback" not in answer.text
    assert "content-security-policy" in answer.headers
