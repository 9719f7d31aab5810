"""Who gets which task: leases, submissions, skips, undo. Every function here runs inside one write transaction of the store.

A task has ``slots`` = overlap less its live assignments (leased or done). Taking a task takes a slot, and only a lease that runs out,
a skip or a release gives it back; so no task is labelled by more people than its overlap, and (task, person) is unique, so by nobody twice.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    exists,
    func,
    insert,
    not_,
    select,
    text,
    update,
)

from trimtab.common.rng import generator
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.projects import Project, project_by_id, screening_result, unread, version_read
from trimtab.label.screening import gold_due, settle
from trimtab.label.tables import assignments, labels, reviews, tasks, users
from trimtab.label.tasks import LIVE, batched, free_slots
from trimtab.label.values import LONGEST_NOTE, checked, clean, on_screen
from trimtab.records import JSON

KEY_LENGTH = 64
UNDO_SECONDS = 24 * 3600


# Statements of every request, built once: building one takes as long as running it.
_THEIRS = (assignments.c.task_id == tasks.c.id, assignments.c.user_id == bindparam("person"))
_HAD = exists().where(*_THEIRS, assignments.c.state != "expired")
_BEGUN = exists().where(*_THEIRS, assignments.c.state.in_(LIVE))
_ORDER = (tasks.c.priority.desc(), tasks.c.position, tasks.c.id)
_OPEN = select(tasks.c.id).where(tasks.c.project_id == bindparam("project"), text("slots > 0"), not_(_HAD))
_HEAD = (
    select(tasks)
    .where(
        tasks.c.project_id == bindparam("project"), text("slots > 0"), not_(_HAD)
    )  # as the index of open tasks says it
    .order_by(*_ORDER)
    .limit(1)
)
_QUEUE = _HEAD.with_for_update(skip_locked=True, of=tasks)  # PostgreSQL: what another one is just taking is passed over
_WAITED = _HEAD.with_for_update(of=tasks)  # and waited for where there is nothing else


def _known(purpose: str, had: ColumnElement[bool]) -> Select[Any]:
    """The first task of a purpose that this person has not had."""
    where = (tasks.c.project_id == bindparam("project"), tasks.c.purpose == purpose, tasks.c.closed.is_(False))
    return select(tasks).where(*where, not_(had)).order_by(*_ORDER).limit(1)


_GOLD = _known("gold", _HAD)
_SCREENING = _known("screening", _BEGUN)  # one that was skipped while it was an ordinary task is done now
_HELD = (
    select(assignments.c.id)
    .where(
        assignments.c.user_id == bindparam("person"),
        assignments.c.project_id == bindparam("project"),
        assignments.c.state == "leased",
    )
    .order_by(assignments.c.started)
    .limit(1)
)
_OWN = (
    select(assignments, tasks.c.kind, tasks.c.purpose, tasks.c.prompt, tasks.c.completions, tasks.c.use_case)
    .join(tasks, tasks.c.id == assignments.c.task_id)
    .where(assignments.c.id == bindparam("number"), assignments.c.user_id == bindparam("person"))
)
_OWN_TO_CHANGE = _OWN.with_for_update(of=assignments)
_LATE = (
    select(assignments.c.id, assignments.c.task_id)
    .where(text("state = 'leased'"), assignments.c.lease < bindparam("now"))  # as the index of leases says it
    .order_by(assignments.c.id)
    .with_for_update(skip_locked=True)  # PostgreSQL: one that is just being worked on is not late
)


@dataclass(frozen=True, slots=True)
class Next:
    """What this person does next: an assignment, or why there is none."""

    assignment: int | None
    why: Literal["", "instructions", "failed", "nothing", "closed"] = ""


def claim(connection: Connection, project: Project, user_id: int, now: float | None = None) -> Next:
    """The task this person holds already, or a new one: screening first, now and then a gold item, else the head of the queue."""
    now = time.time() if now is None else now
    _lock_person(connection, user_id)
    expire(connection, now)
    held = _held(connection, project.id, user_id)
    if held is not None:
        return Next(held)
    if not project.open:
        return Next(None, "closed")
    if unread(connection, project.id, user_id) is not None:
        return Next(None, "instructions")
    task, passed = _standing(connection, project, user_id)
    if task is None:
        if not passed:
            return Next(None, "failed")
        if gold_due(connection, project, user_id):
            task = _first(connection, _GOLD, project.id, user_id)
        task = task or _from_queue(connection, project.id, user_id)
    return Next(_lease(connection, project, task, user_id, now)) if task is not None else Next(None, "nothing")


def admit(connection: Connection, project: Project, user_id: int) -> None:
    """Nothing, where this person may work in the project beside the queue: in the arena.

    Raises:
        Refused: the project is closed, its instructions are unread, or the screening is not passed.
    """
    if not project.open:
        raise Refused("this project is closed at the moment")
    if unread(connection, project.id, user_id) is not None:
        raise Refused("read the project's instructions first")
    task, passed = _standing(connection, project, user_id)
    if task is not None or not passed:
        raise Refused("the arena opens once you have passed the project's onboarding")


def submit(
    connection: Connection,
    user_id: int,
    assignment_id: int,
    key: str,
    raw: Any,
    seconds: float,
    now: float | None = None,
) -> int:
    """Keeps a label; returns its id. Sent twice with one ``key``, it is kept once and the same id comes back.

    Raises:
        Missing: there is no such assignment of this person.
        Invalid: the value is not what the task asks for.
        Refused: it was labelled already, or went to somebody else meanwhile.
    """
    now = time.time() if now is None else now
    if not isinstance(key, str) or not 8 <= len(key) <= KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise Invalid(f"the submission's key has 8 to {KEY_LENGTH} ASCII characters")
    _lock_person(connection, user_id)
    before = connection.execute(select(labels).where(labels.c.user_id == user_id, labels.c.key == key)).first()
    if before is not None:
        if before.assignment_id != assignment_id:
            raise Refused("this submission's key was used for another task; reload the page")
        return int(before.id)
    row = own(connection, user_id, assignment_id, to_change=True)
    if row.state == "done":
        raise Refused("you have labelled this task already")
    project = project_by_id(connection, row.project_id)
    value = checked(row.kind, raw, row.shown, project.settings)
    if row.state != "leased":
        _take_again(connection, row)
    label = {
        "assignment_id": row.id, "task_id": row.task_id, "user_id": user_id, "project_id": row.project_id, "key": key, "value": value,
        "seconds": round(min(max(0.0, seconds), max(0.0, now - row.started)), 1),
        "instructions": version_read(connection, row.project_id, user_id), "created": now,
    }  # fmt: skip
    label_id = int(connection.execute(insert(labels).values(label).returning(labels.c.id)).scalar_one())
    connection.execute(update(assignments).where(assignments.c.id == row.id).values(state="done", draft=None))
    if row.purpose == "screening":
        settle(connection, project, user_id)
    return label_id


def save_draft(
    connection: Connection, user_id: int, assignment_id: int, draft: JSON, now: float | None = None
) -> float:
    """Keeps what is written so far and prolongs the lease; returns until when.

    Raises:
        Missing, Refused: as ``submit``.
    """
    now = time.time() if now is None else now
    row = own(connection, user_id, assignment_id, to_change=True)
    if row.state in ("done", "skipped"):
        raise Refused(f"you have {'labelled' if row.state == 'done' else row.state} this task already")
    if row.state != "leased":
        _take_again(connection, row)
    until = now + 60 * project_by_id(connection, row.project_id).settings.lease_minutes
    connection.execute(
        update(assignments).where(assignments.c.id == row.id).values(draft=draft, lease=until, state="leased")
    )
    return until


def skip(connection: Connection, user_id: int, assignment_id: int, reason: str) -> None:
    """Gives the task back for good: somebody else gets it, this person never again.

    Raises:
        Missing, Refused: as ``submit``; a screening item cannot be skipped.
    """
    row = own(connection, user_id, assignment_id, to_change=True)
    if row.state == "done":
        raise Refused("you have labelled this task already; undo it first")
    if row.purpose == "screening":
        raise Refused("the items of the screening cannot be skipped: everybody does all of them")
    reason = clean(reason, "the reason", LONGEST_NOTE)
    if not reason.strip():
        raise Invalid("say why you skip it")
    connection.execute(update(assignments).where(assignments.c.id == row.id).values(state="skipped", reason=reason))
    free_slots(connection, [row.task_id])


def undo(connection: Connection, project: Project, user_id: int, now: float | None = None) -> int:
    """Takes this person's last label back, puts it before them again as a draft, and returns the assignment.

    Raises:
        Refused: there is none, it is a day old, reviewed, or of a finished screening.
    """
    now = time.time() if now is None else now
    _lock_person(connection, user_id)
    query = (
        select(labels, tasks.c.purpose, tasks.c.kind, assignments.c.shown)
        .join(tasks, tasks.c.id == labels.c.task_id)
        .join(assignments, assignments.c.id == labels.c.assignment_id)
        .where(labels.c.user_id == user_id, labels.c.project_id == project.id, labels.c.withdrawn.is_(None))
        .order_by(labels.c.created.desc(), labels.c.id.desc())
        .limit(1)
    )
    last = connection.execute(query).first()
    if last is None:
        raise Refused("there is nothing to undo")
    if now - last.created > UNDO_SECONDS:
        raise Refused("your last label is more than a day old; ask a researcher")
    if connection.execute(select(reviews.c.label_id).where(reviews.c.label_id == last.id)).first():
        raise Refused("your last label has been reviewed; ask a researcher")
    if last.purpose == "screening" and screening_result(connection, project.id, user_id) is not None:
        raise Refused("the screening is finished; its answers stay")
    connection.execute(update(labels).where(labels.c.id == last.id).values(withdrawn=now))
    values = {
        "state": "leased", "lease": now + 60 * project.settings.lease_minutes,
        "draft": {"value": on_screen(last.kind, last.value, last.shown), "seconds": last.seconds},
    }  # fmt: skip
    connection.execute(update(assignments).where(assignments.c.id == last.assignment_id).values(values))
    return int(last.assignment_id)


def expire(connection: Connection, now: float) -> int:
    """Ends the leases that ran out and gives their slots back; returns how many."""
    late = connection.execute(_LATE, {"now": now}).all()
    if late:
        for some in batched([row.id for row in late], 500):
            connection.execute(update(assignments).where(assignments.c.id.in_(some)).values(state="expired"))
        free_slots(connection, [row.task_id for row in late])
    return len(late)


def own(connection: Connection, user_id: int, assignment_id: int, *, to_change: bool = False) -> Row[Any]:
    """This person's assignment with its task; ``to_change`` keeps others (a lease that runs out) from changing it meanwhile.

    Raises:
        Missing: there is none, or it is somebody else's.
    """
    row = connection.execute(
        _OWN_TO_CHANGE if to_change else _OWN, {"number": assignment_id, "person": user_id}
    ).first()
    if row is None:
        raise Missing("no such task of yours")
    return row


def waiting(connection: Connection, project_id: int, user_id: int, most: int) -> int:
    """How many tasks wait for this person in the queue, counted up to ``most``; the one they hold is one of them."""
    free = _OPEN.limit(most).subquery()
    query = select(func.count()).select_from(free)
    number = int(connection.execute(query, {"project": project_id, "person": user_id}).scalar_one())
    return number + (_held(connection, project_id, user_id) is not None)


def _held(connection: Connection, project_id: int, user_id: int) -> int | None:
    return connection.execute(_HELD, {"person": user_id, "project": project_id}).scalar()


def _standing(connection: Connection, project: Project, user_id: int) -> tuple[Row[Any] | None, bool]:
    """The item of the screening that comes next; where none is left, whether this person may label: true where there is no screening."""
    result = screening_result(connection, project.id, user_id)
    if result is not None:
        return None, bool(result.passed)
    task = _first(connection, _SCREENING, project.id, user_id)
    # Nothing is left and nothing is written down: the last item was closed meanwhile, or all were done while they were ordinary tasks.
    return task, task is None and settle(connection, project, user_id) is not False


def _first(connection: Connection, query: Select[Any], project_id: int, user_id: int) -> Row[Any] | None:
    return connection.execute(query, {"project": project_id, "person": user_id}).first()


def _from_queue(connection: Connection, project_id: int, user_id: int) -> Row[Any] | None:
    """The first task with a free slot, its slot taken."""
    row = _first(connection, _QUEUE, project_id, user_id)
    while row is None and _first(connection, _HEAD, project_id, user_id) is not None:
        row = _first(connection, _WAITED, project_id, user_id)
    if row is not None:
        connection.execute(update(tasks).where(tasks.c.id == row.id).values(slots=tasks.c.slots - 1))
    return row


def _lease(connection: Connection, project: Project, task: Row[Any], user_id: int, now: float) -> int:
    lease = now + 60 * project.settings.lease_minutes
    where = (assignments.c.task_id == task.id, assignments.c.user_id == user_id)
    again = (
        update(assignments).where(*where).values(state="leased", lease=lease, started=now).returning(assignments.c.id)
    )
    found = connection.execute(
        again
    ).scalar()  # its own, run out before: the draft and the order on the screen are kept
    if found is not None:
        return int(found)
    order = generator(project.settings.seed, "shown", task.id, user_id).permutation(len(task.completions))
    row = {
        "task_id": task.id, "user_id": user_id, "project_id": project.id, "state": "leased", "lease": lease,
        "shown": [int(i) for i in order], "started": now,
    }  # fmt: skip
    return int(connection.execute(insert(assignments).values(row).returning(assignments.c.id)).scalar_one())


def _take_again(connection: Connection, row: Row[Any]) -> None:
    """A lease that ran out, or a task that was skipped, is taken up again if it still has a slot for this person."""
    if row.purpose == "label":
        taken = update(tasks).where(tasks.c.id == row.task_id, tasks.c.slots > 0).values(slots=tasks.c.slots - 1)
        if not connection.execute(taken).rowcount:
            raise Refused(
                "this task went to somebody else while you were away; copy what you want to keep and take the next one"
            )
    connection.execute(update(assignments).where(assignments.c.id == row.id).values(state="leased"))


def _lock_person(connection: Connection, user_id: int) -> None:
    """One thing at a time for each person, so that two tabs cannot take two tasks (SQLite has one writer anyway)."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
