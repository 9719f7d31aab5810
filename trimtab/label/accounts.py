"""People: argon2id passwords set through one-time links, sessions that can be revoked, and a lock after failed log-ins."""

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.projects import NAME
from trimtab.label.store import Store, insert_if_new, log
from trimtab.label.tables import attempts, links, sessions, users
from trimtab.label.values import clean

ROLES = ("admin", "researcher", "reviewer", "labeler")
LINK_SECONDS = 3 * 24 * 3600
IDLE_SECONDS = 12 * 3600
SESSION_SECONDS = 14 * 24 * 3600
SEEN_EVERY = 45  # how often a session's last use is written down
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200
LEAST_BESIDE_NAME = 8  # characters of a password that holds the name
# Five wrong passwords lock an account for a minute, each further one for twice as long, up to a quarter of an hour; one address has
# ten wrong ones a minute.
ACCOUNT_FAILURES, ACCOUNT_LOCK, LONGEST_LOCK = 5, 60, 900
ADDRESS_FAILURES, ADDRESS_WINDOW = 10, 60
FORGET_FAILURES = 24 * 3600

# OWASP's floor for argon2id: 19 MiB, two passes, one lane; 30 ms.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY = HASHER.hash("a password that nobody has")  # verified for unknown names, so that they take as long
_AT_ONCE = threading.Semaphore(2)  # hashing may not take all of the machine
_DOOR = threading.Lock()  # one log-in at a time: 30 a second
TOO_MANY = "too many wrong passwords; wait a few minutes, or ask an admin for a new link"


@dataclass(frozen=True, slots=True)
class Person:
    """Who is logged in, and in which session."""

    id: int
    name: str
    shown: str
    role: str
    session: str  # the hash
    csrf: str


def create_user(connection: Connection, name: str, role: str, shown: str = "") -> int:
    """A new account without a password; returns its id. ``new_link`` lets its owner set one.

    Raises:
        Invalid: the name or role is not one, or the name is taken.
    """
    if not NAME.match(name):
        raise Invalid(f"name {name!r}: write small letters, digits, - and _, at most 64, the first a letter or digit")
    if role not in ROLES:
        raise Invalid(f"role {role!r}: write one of {', '.join(ROLES)}")
    if connection.execute(select(users.c.id).where(users.c.name == name)).first():
        raise Invalid(f"the name {name!r} is taken")
    shown = clean(shown, "the shown name", 128).strip() or name
    row = {"name": name, "shown": shown, "role": role, "active": True, "created": time.time()}
    return int(connection.execute(insert(users).values(row).returning(users.c.id)).scalar_one())


def find_user(connection: Connection, name: str) -> Row[Any]:
    """The account called ``name``.

    Raises:
        Missing: there is none.
    """
    row = connection.execute(select(users).where(users.c.name == name)).first()
    if row is None:
        raise Missing(f"nobody is called {name!r}")
    return row


def new_link(connection: Connection, user_id: int, *, keep: bool = False) -> str:
    """The token of a link by which this person, once, sets a password; earlier links end now, or (``keep``) when one of them is used."""
    if not keep:
        connection.execute(delete(links).where(links.c.user_id == user_id))
    token = secrets.token_urlsafe(32)
    connection.execute(insert(links).values(hash=hashed(token), user_id=user_id, expires=time.time() + LINK_SECONDS))
    return token


def link_owner(connection: Connection, token: str) -> Row[Any]:
    """Whom a link is for.

    Raises:
        Missing: it is unknown, used or expired, or its owner is switched off.
    """
    query = (
        select(users)
        .join(links, links.c.user_id == users.c.id)
        .where(links.c.hash == hashed(token), links.c.used.is_(None), links.c.expires > time.time(), users.c.active)
    )
    row = connection.execute(query).first()
    if row is None:
        if not connection.execute(select(users.c.id).where(users.c.password.is_not(None))).first():
            raise Missing("this link is too old; nobody has logged in yet, so start trimtab label serve again: it prints a new one")
        raise Missing("this link was used, or is too old; ask an admin for a new one")
    return row


def use_link(store: Store, token: str, password: str) -> str:
    """Sets the password of a link's owner, ends their sessions and the link; returns their name.

    Raises:
        Missing: as ``link_owner``.
        Invalid: the password is too short or too long.
    """
    with store.read() as connection:
        owner = link_owner(connection, token)
    coded = hash_password(password, owner.name)
    with store.write() as connection:
        used = update(links).where(links.c.hash == hashed(token), links.c.used.is_(None)).values(used=time.time())
        if not connection.execute(used).rowcount:
            raise Missing("this link was used a moment ago")
        connection.execute(delete(links).where(links.c.user_id == owner.id, links.c.used.is_(None)))
        _set_password(connection, owner.id, coded)
        log(connection, owner.id, "password set by link")
    return str(owner.name)


def change_password(store: Store, person: Person, old: str, new: str) -> None:
    """Another password; every other session of this person ends.

    Raises:
        Refused: the old one is wrong.
        Invalid: the new one is too short or too long.
    """
    with store.read() as connection:
        coded = connection.execute(select(users.c.password).where(users.c.id == person.id)).scalar_one()
    if not verified(coded, old):
        raise Refused("the old password is not right")
    fresh = hash_password(new, person.name)
    with store.write() as connection:
        _set_password(connection, person.id, fresh, keep=person.session)
        log(connection, person.id, "password changed")


def hash_password(password: str, name: str) -> str:
    """argon2id of a password.

    Raises:
        Invalid: it is too short or too long, or little more than the name.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise Invalid(
            f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; a short sentence is a good one"
        )
    clean(password, "the password", LONGEST_PASSWORD)
    if len(set(password)) < 4:
        raise Invalid("this password is too easy to guess; a short sentence is a good one")
    if len(name) > 2 and len(password.lower().replace(name, "")) < LEAST_BESIDE_NAME:  # `a` stands in any password
        raise Invalid("this password is little more than your name; add some words")
    with _AT_ONCE:
        return HASHER.hash(password)


def verified(coded: str | None, password: str) -> bool:
    """Whether the password is the one; takes as long where there is none."""
    try:
        with _AT_ONCE:
            right = HASHER.verify(coded or _NOBODY, password.encode("utf-8", "surrogatepass"))
        return right and coded is not None
    except (VerificationError, InvalidHashError):
        return False


def log_in(store: Store, name: str, password: str, address: str, agent: str) -> str:
    """A new session's token.

    Raises:
        Refused: name or password is wrong (which of them is not said), or there were too many wrong ones.
    """
    name = name.strip().lower()[:64]
    keys = (f"user:{hashed(name)[:32]}", f"address:{address[:64]}")
    with _DOOR:  # so that guesses sent all at once are counted before the next is looked at
        now = time.time()
        with store.read() as connection:
            if connection.execute(
                select(attempts.c.key).where(attempts.c.key.in_(keys), attempts.c.locked_until > now)
            ).first():
                raise Refused(TOO_MANY)
            known = select(users).where(users.c.name == name, users.c.active)
            user = connection.execute(known).first() if NAME.match(name) else None  # PostgreSQL takes no NUL
        right = verified(user.password if user else None, password[: LONGEST_PASSWORD + 1])
        with store.write() as connection:
            if user is not None and right:
                connection.execute(delete(attempts).where(attempts.c.key == keys[0]))
                return _new_session(connection, user.id, now, address, agent)
            locked = [_count_failure(connection, key, now) for key in keys]
            whom = {"of": user.name} if user is not None else {}  # not what was typed: it may be a password
            log(connection, None, "wrong password", address=address[:64], **whom, **({"locked": True} if any(locked) else {}))
    raise Refused("name or password is wrong")


# Built once: each request runs it, and building a statement takes as long as running it.
_WHO = (
    select(sessions, users.c.name, users.c.shown, users.c.role)
    .join(users, users.c.id == sessions.c.user_id)
    .where(sessions.c.hash == bindparam("token"), sessions.c.revoked.is_(None), users.c.active)
    .where(sessions.c.seen > bindparam("idle"), sessions.c.created > bindparam("oldest"))
)


def who(store: Store, token: str) -> Person | None:
    """Whose session a token is; None where it is nobody's, revoked or too old."""
    now = time.time()
    with store.read() as connection:
        row = connection.execute(
            _WHO, {"token": hashed(token), "idle": now - IDLE_SECONDS, "oldest": now - SESSION_SECONDS}
        ).first()
    if row is None:
        return None
    if row.seen < now - SEEN_EVERY:
        with store.write() as connection:
            connection.execute(update(sessions).where(sessions.c.hash == row.hash).values(seen=now))
    return Person(row.user_id, row.name, row.shown, row.role, row.hash, row.csrf)


def revoke(connection: Connection, user_id: int, session: str | None = None, *, keep: str = "") -> None:
    """Ends one session of a person, or all but ``keep``."""
    query = update(sessions).where(sessions.c.user_id == user_id, sessions.c.revoked.is_(None), sessions.c.hash != keep)
    connection.execute((query.where(sessions.c.hash == session) if session else query).values(revoked=time.time()))


def change_user(connection: Connection, user_id: int, **values: Any) -> None:
    """Another role, shown name or ``active``; who is switched off is logged out.

    Raises:
        Missing: there is no such person.
        Invalid: the role is not one.
        Refused: it would leave nobody who is an admin.
    """
    if values.get("role", "admin") not in ROLES:
        raise Invalid(f"role {values['role']!r}: write one of {', '.join(ROLES)}")
    if not connection.execute(update(users).where(users.c.id == user_id).values(**values)).rowcount:
        raise Missing("no such person")
    admins = select(func.count()).select_from(users).where(users.c.role == "admin", users.c.active)
    if not connection.execute(admins).scalar_one():
        raise Refused("this is the only admin; make somebody else one first")
    if values.get("active") is False:
        revoke(connection, user_id)


def hashed(token: str) -> str:
    """What the database keeps of a secret token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _set_password(connection: Connection, user_id: int, coded: str, keep: str = "") -> None:
    connection.execute(update(users).where(users.c.id == user_id).values(password=coded))
    name = connection.execute(select(users.c.name).where(users.c.id == user_id)).scalar_one()
    connection.execute(delete(attempts).where(attempts.c.key == f"user:{hashed(name)[:32]}"))
    revoke(connection, user_id, keep=keep)


def _new_session(connection: Connection, user_id: int, now: float, address: str, agent: str) -> str:
    token = secrets.token_urlsafe(32)
    row = {
        "hash": hashed(token), "user_id": user_id, "csrf": secrets.token_urlsafe(32), "created": now, "seen": now,
        "agent": agent.encode("ascii", "replace").decode()[:200],
    }  # fmt: skip
    connection.execute(insert(sessions).values(row))
    log(connection, user_id, "log in", address=address[:64])
    return token


def _count_failure(connection: Connection, key: str, now: float) -> bool:
    """One more wrong password; from a certain number on no more are looked at for a while, which is returned."""
    account = key.startswith("user:")
    forget, most = (FORGET_FAILURES, ACCOUNT_FAILURES) if account else (ADDRESS_WINDOW, ADDRESS_FAILURES)
    insert_if_new(connection, attempts, {"key": key, "failures": 0, "since": now, "locked_until": 0.0})
    row = connection.execute(select(attempts).where(attempts.c.key == key).with_for_update()).one()
    begun = row.since < now - forget  # long ago: counted anew
    failures = 1 if begun else row.failures + 1
    lock = 0
    if failures >= most:
        lock = min(ACCOUNT_LOCK * 2 ** min(failures - most, 10), LONGEST_LOCK) if account else ADDRESS_WINDOW
    values = {"failures": failures, "since": now if begun else row.since, "locked_until": now + lock if lock else 0.0}
    connection.execute(update(attempts).where(attempts.c.key == key).values(values))
    return bool(lock)
