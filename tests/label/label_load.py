"""A server in a process of its own, and simulated labelers that talk to it as browsers do; shared by tests and bench/label_proof.py."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from label_people import ranked
from sqlalchemy import func, insert, select

from trimtab.common.rng import generator
from trimtab.label.accounts import create_user, hashed
from trimtab.label.projects import create_project, find_project
from trimtab.label.settings import ProjectSettings
from trimtab.label.store import open_store
from trimtab.label.tables import assignments, labels, sessions, tasks
from trimtab.label.tasks import LIVE, import_records

START_SECONDS = 60


class Server:
    """``trimtab label serve`` on a database; may be killed and started again on the same port."""

    def __init__(self, database: str, port: int) -> None:
        self.database, self.port = database, port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        command = [sys.executable, "-m", "trimtab", "label", "serve", self.database, f"port={self.port}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("the server did not start")

    def kill(self) -> None:
        """kill -9: nothing is flushed, nothing is closed."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def memory(self) -> int:
        """Resident bytes."""
        assert self.process
        return int(psutil.Process(self.process.pid).memory_info().rss)


@dataclass
class Labeler:
    """One simulated labeler: a session, and what was acknowledged to it."""

    name: str
    token: str
    csrf: str
    port: int
    think: float = 0.0
    acknowledged: dict[str, tuple[int, int, list[int]]] = field(
        default_factory=dict
    )  # key -> label, assignment, ranks on the screen
    times: list[float] = field(default_factory=list)  # of every answered request
    errors: list[str] = field(default_factory=list)  # what a person would have seen
    connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: Any = None, *, patient: bool = False) -> tuple[int, bytes]:
        """One request; ``patient``: sent again until it is answered, as the page does."""
        headers = {
            "Cookie": f"trimtab={self.token}",
            "Origin": f"http://127.0.0.1:{self.port}",
            "X-CSRF-Token": self.csrf,
        }
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body), "application/json"
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                began = time.monotonic()
                self.connection.request(method, path, data, headers)
                answer = self.connection.getresponse()
                content = answer.read()
                self.times.append(time.monotonic() - began)
                if answer.status != 503 or not patient:
                    return answer.status, content
            except (OSError, http.client.HTTPException):
                self.connection = None
                if not patient:
                    raise
            time.sleep(0.05)

    def work(self, stop: threading.Event, most: int, rng_seed: int = 0) -> None:
        """Labels tasks until there are none, ``most`` are done, or ``stop`` is set."""
        rng = generator(rng_seed, "labeler", self.name)
        url = self._onward("POST", "/api/projects/p/next", {})
        while url and "/a/" in url and not stop.is_set() and len(self.acknowledged) < most:
            number = int(url.rsplit("/", 1)[1])
            status, page = self.ask("GET", f"/a/{number}", patient=True)
            if status == 303 or b"<h1>Your label" in page:  # it was labelled before the kill, only the answer was lost
                url = self._onward("POST", "/api/projects/p/next", {})
                continue
            if status != 200:
                self.errors.append(f"page {status}")
                return
            if self.think:
                stop.wait(float(rng.exponential(self.think)))
            k = len(re.findall(rb'class="answer ', page))
            ranks = [int(r) for r in rng.integers(1, 4, k)]
            key = secrets.token_urlsafe(18)
            value = {"ranks": ranks, "ratings": [4] * k, "flags": [[] for _ in range(k)], "note": ""}
            body = {"key": key, "seconds": 1.0, "value": value}
            status, content = self.ask("POST", f"/api/assignments/{number}/submit", body, patient=True)
            if status != 200:
                self.errors.append(f"submit {status} {content[:200]!r}")
                return
            answer = json.loads(content)
            self.acknowledged[key] = (answer["label"], number, ranks)
            url = answer["url"]

    def _onward(self, method: str, path: str, body: Any) -> str:
        status, content = self.ask(method, path, body, patient=True)
        if status != 200:
            self.errors.append(f"{path} {status} {content[:200]!r}")
            return ""
        return str(json.loads(content)["url"])


def prepare(database: str, number: int, people: int, overlap: int, port: int, k: int = 4) -> list[Labeler]:
    """A project ``p`` with ``number`` tasks, and ``people`` with a session each."""
    store = open_store(database, create=True)
    out = []
    with store.write() as connection:
        create_project(connection, "p", "p", ProjectSettings(overlap=overlap, gold_rate=0.0, seed=1))
        project = find_project(connection, "p")
        import_records(connection, project, [(f"row {i}", ranked(f"item {i}", k)) for i in range(number)])
        for i in range(people):
            user = create_user(connection, f"worker-{i}", "labeler")
            token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
            row = {
                "hash": hashed(token),
                "user_id": user,
                "csrf": csrf,
                "created": time.time(),
                "seen": time.time(),
                "agent": "",
            }
            connection.execute(insert(sessions).values(row))
            out.append(Labeler(f"worker-{i}", token, csrf, port))
    store.close()
    return out


def run(people: Sequence[Labeler], stop: threading.Event, most: int = 10**9) -> list[threading.Thread]:
    """Starts everybody; the caller joins."""
    threads = [threading.Thread(target=p.work, args=(stop, most), daemon=True) for p in people]
    for thread in threads:
        thread.start()
    return threads


def wrong(database: str, people: Sequence[Labeler]) -> dict[str, int]:
    """Counts what must not be: labels lost, changed, double, and slots that do not add up."""
    store = open_store(database)
    with store.read() as connection:
        kept = {row.key: row for row in connection.execute(select(labels))}
        shown = {row.id: row.shown for row in connection.execute(select(assignments.c.id, assignments.c.shown))}
        number = connection.execute(select(func.count()).select_from(labels)).scalar_one()
        couples = connection.execute(
            select(func.count()).select_from(select(labels.c.task_id, labels.c.user_id).distinct().subquery())
        ).scalar_one()
        live = (
            select(func.count())
            .where(assignments.c.task_id == tasks.c.id, assignments.c.state.in_(LIVE))
            .scalar_subquery()
        )
        slots = connection.execute(
            select(func.count()).select_from(tasks).where(tasks.c.slots != tasks.c.overlap - live)
        ).scalar_one()
        undone = select(func.count()).select_from(labels).join(assignments, assignments.c.id == labels.c.assignment_id)
        half = connection.execute(undone.where(assignments.c.state != "done")).scalar_one()
    store.close()
    lost = changed = 0
    for person in people:
        for key, (label, assignment, ranks) in person.acknowledged.items():
            row = kept.get(key)
            if row is None:
                lost += 1
            elif (
                row.id != label
                or row.assignment_id != assignment
                or dense([row.value["ranks"][i] for i in shown[assignment]]) != dense(ranks)
            ):
                changed += 1
    return {"lost": lost, "changed": changed, "double": number - couples, "half-written": half, "slots wrong": slots}


def dense(ranks: Sequence[int]) -> list[int]:
    """Ranks without gaps."""
    place = {r: i for i, r in enumerate(sorted(set(ranks)))}
    return [place[r] for r in ranks]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so many lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def free_port() -> int:
    """A port that nobody has now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def database(folder: Path) -> str:
    """An SQLite file in a folder."""
    return str(folder / "labels.db")
