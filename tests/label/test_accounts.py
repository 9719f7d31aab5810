"""Links that work once, argon2id, the lock, sessions that end."""

import re
import time

import pytest
from label_people import Place
from label_web import PASSWORD, Browser, logged_in
from sqlalchemy import select, update

from trimtab.label import accounts
from trimtab.label.accounts import HASHER, create_user, hash_password, log_in, new_link, use_link, who
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.store import Store
from trimtab.label.tables import attempts, links, sessions, users


def somebody(store: Store, name: str = "ada", role: str = "labeler") -> str:
    """A new account's link."""
    with store.write() as connection:
        return new_link(connection, create_user(connection, name, role))


def test_a_link_sets_a_password_once(store: Store) -> None:
    token = somebody(store)
    with pytest.raises(Refused):
        log_in(store, "ada", "", "here", "")  # without a password nobody gets in
    assert use_link(store, token, PASSWORD) == "ada"
    with pytest.raises(Missing, match="was used"):
        use_link(store, token, PASSWORD)
    person = who(store, log_in(store, "Ada ", PASSWORD, "here", "a browser"))
    assert person is not None and (person.name, person.role) == ("ada", "labeler")
    assert who(store, "nothing") is None


def test_a_link_ends(store: Store) -> None:
    token = somebody(store)
    with store.write() as connection:
        connection.execute(update(links).values(expires=time.time() - 1))
    with pytest.raises(Missing):
        use_link(store, token, PASSWORD)
    with store.write() as connection:
        first, second = new_link(connection, 1), new_link(connection, 1)
    with pytest.raises(Missing):
        use_link(store, first, PASSWORD)
    use_link(store, second, PASSWORD)


def test_what_the_database_holds_opens_nothing(lite: Store) -> None:
    token = somebody(lite)
    use_link(lite, token, PASSWORD)
    session = log_in(lite, "ada", PASSWORD, "here", "")
    with lite.read() as connection:
        coded = connection.execute(select(users.c.password)).scalar_one()
        kept = str(connection.execute(select(links)).all()) + str(connection.execute(select(sessions.c.hash)).all())
    assert coded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")  # OWASP's floor
    assert token not in kept and session not in kept and PASSWORD not in kept


@pytest.mark.parametrize("password", ["short", "x" * 201, "aaaaaaaaaaaaaaa", "ada12345ada", "with a \x00 in it"])
def test_passwords_that_are_refused(password: str) -> None:
    with pytest.raises(Invalid):
        hash_password(password, "ada")


def test_five_wrong_ones_lock_the_account_for_longer_and_longer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    use_link(store, somebody(store), PASSWORD)
    now = [1000.0]
    monkeypatch.setattr(accounts.time, "time", lambda: now[0])
    for i in range(5):
        with pytest.raises(Refused, match="name or password is wrong"):
            log_in(store, "ada", "wrong password", f"address {i}", "")
    waits = []
    for _ in range(6):
        with store.read() as connection:
            until = connection.execute(
                select(attempts.c.locked_until).where(attempts.c.key.startswith("user:"))
            ).scalar_one()
        waits.append(until - now[0])
        with pytest.raises(Refused, match="too many"):
            log_in(store, "ada", PASSWORD, "another address", "")  # the right one does not help
        now[0] = until + 1
        with pytest.raises(Refused, match="is wrong"):
            log_in(store, "ada", "wrong password", f"address {now[0]}", "")
    assert waits == [60, 120, 240, 480, 900, 900]
    now[0] += 901
    assert log_in(store, "ada", PASSWORD, "home", "")


def test_a_thousand_guesses_a_minute_get_ten_looked_at(lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    use_link(lite, somebody(lite), PASSWORD)
    looked = []
    monkeypatch.setattr(accounts, "verified", lambda coded, password: looked.append(password) or False)
    for i in range(1000):
        with pytest.raises(Refused):
            log_in(lite, f"name-{i % 100}", f"guess {i}", "one address", "")
    assert len(looked) <= 10


def test_unknown_names_are_hashed_too(lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work for a name that exists and one that does not, so that times tell nothing."""
    use_link(lite, somebody(lite), PASSWORD)
    hashed: list[str] = []
    real = HASHER.verify
    monkeypatch.setattr(
        accounts,
        "HASHER",
        type("H", (), {"verify": lambda self, coded, given: hashed.append(coded) or real(coded, given)})(),
    )
    for name in ("ada", "nobody"):
        with pytest.raises(Refused):
            log_in(lite, name, "wrong password", "here", "")
    assert len(hashed) == 2 and hashed[0].split("$")[3] == hashed[1].split("$")[3]


def test_sessions_end(lite_place: Place) -> None:
    place = lite_place.begin()
    one = logged_in(place, "ada")
    other = logged_in(place, "ada")
    assert one.post("/account/sessions").status_code == 303
    assert one.get("/").status_code == 200 and other.get("/").headers["location"] == "/login"
    assert one.post("/logout").status_code == 303 and one.get("/").status_code == 303
    boss, third = logged_in(place, "boss", "admin"), logged_in(place, "ada")
    boss.post(f"/users/{place.person('ada')}/sessions")
    assert third.get("/").status_code == 303
    fourth = logged_in(place, "ada")
    boss.post(f"/users/{place.person('ada')}", {"active": "no"})
    assert fourth.get("/").status_code == 303 and fourth.log_in("ada").status_code == 401
    fifth = logged_in(place, "bob")
    with place.store.write() as connection:
        connection.execute(update(sessions).values(seen=time.time() - 13 * 3600))
    assert fifth.get("/").status_code == 303


def test_a_new_password_ends_the_other_sessions(lite_place: Place) -> None:
    one, other = logged_in(lite_place.begin(), "ada"), logged_in(lite_place, "ada")
    new = "another good sentence"
    assert one.post("/account/password", {"old": "no", "password": new, "again": new}).status_code == 422
    assert one.post("/account/password", {"old": PASSWORD, "password": new, "again": new}).status_code == 303
    assert one.get("/").status_code == 200 and other.get("/").status_code == 303
    assert other.log_in("ada", new).status_code == 303


def test_cookies(lite_place: Place) -> None:
    browser = logged_in(lite_place.begin(), "ada")
    browser.get("/logout")
    answer = Browser(lite_place.store).log_in("ada")
    assert re.search(r"^trimtab=[\w-]{40,}; HttpOnly; Max-Age=\d+; Path=/; SameSite=lax$", answer.headers["set-cookie"])
    safe = Browser(lite_place.store, "https://label.example.org")
    answer = safe.log_in("ada")
    assert re.search(
        r"^__Host-trimtab=[\w-]{40,}; HttpOnly; Max-Age=\d+; Path=/; SameSite=lax; Secure$",
        answer.headers["set-cookie"],
    )
    assert safe.get("/").headers["strict-transport-security"]


def test_the_only_admin_stays(lite_place: Place) -> None:
    boss = logged_in(lite_place.begin(), "boss", "admin")
    for change in ({"role": "labeler"}, {"active": "no"}):
        assert boss.post(f"/users/{lite_place.person('boss')}", change).status_code == 422
    assert boss.page("/users")


def test_an_admin_invites_somebody(lite_place: Place) -> None:
    boss = logged_in(lite_place.begin(), "boss", "admin")
    html = boss.post("/users", {"name": "new", "role": "reviewer", "shown": "New <b>one</b>"}).text
    link = re.search(r'id="link">([^<]+)<', html)
    assert link and "New &lt;b&gt;one&lt;/b&gt;" in html
    assert boss.post("/users", {"name": "new", "role": "reviewer"}).status_code == 422
    visitor = Browser(lite_place.store)
    path = link[1].removeprefix("http://127.0.0.1:8765")
    page = visitor.page(path)
    from label_web import token_of

    visitor.csrf = token_of(page)
    assert visitor.post(path, {"password": PASSWORD, "again": "other"}).status_code == 422
    assert visitor.post(path, {"password": PASSWORD, "again": PASSWORD}).status_code == 303
    assert visitor.get(path).status_code == 404 and visitor.log_in("new").status_code == 303
    assert visitor.get("/users").status_code == 403


def test_no_name_breaks_the_door(store: Store) -> None:
    """PostgreSQL takes no NUL in a text."""
    for name in ("a\x00b", "\ud800", "x" * 5000, "", "\u0130"):
        with pytest.raises(Refused, match="is wrong"):
            log_in(store, name, PASSWORD, f"address of {len(name)}", "")


def test_somebody_with_a_short_name_finds_a_password() -> None:
    assert hash_password("a sentence about bread", "a") and hash_password("a sentence about bread", "br")
    assert hash_password("anna writes well", "anna")  # a sentence with the name in it
    with pytest.raises(Invalid, match="little more than your name"):
        hash_password("bread-bread-1999", "bread")
