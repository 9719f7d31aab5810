"""Many at once, and kill -9 in the middle; the full sizes are in bench/label_proof.py."""

import threading
import time
from pathlib import Path

from label_load import Server, database, free_port, prepare, run, wrong
from sqlalchemy import func, select

from trimtab.label.store import open_store
from trimtab.label.tables import labels

RIGHT = {"lost": 0, "changed": 0, "double": 0, "half-written": 0, "slots wrong": 0}


def test_twenty_labelers_at_once(tmp_path: Path) -> None:
    """No task has other than three labels, nobody sees an error."""
    where, port = database(tmp_path), free_port()
    people = prepare(where, 40, 20, 3, port)
    server = Server(where, port).start()
    try:
        for thread in run(people, threading.Event()):
            thread.join(120)
    finally:
        server.stop()
    assert [p.errors for p in people if p.errors] == []
    assert wrong(where, people) == RIGHT
    store = open_store(where)
    with store.read() as connection:
        counts = connection.execute(select(func.count()).select_from(labels).group_by(labels.c.task_id)).scalars().all()
    store.close()
    assert counts == [3] * 40 and sum(len(p.acknowledged) for p in people) == 120


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Twice in the middle of work; people's pages send again, with the same key."""
    where, port = database(tmp_path), free_port()
    people = prepare(where, 150, 8, 2, port)
    server = Server(where, port).start()
    stop = threading.Event()
    threads = run(people, stop)
    try:
        for aim in (60, 140):
            while sum(len(p.acknowledged) for p in people) < aim and any(t.is_alive() for t in threads):
                time.sleep(0.01)
            server.kill()
            server.start()
        for thread in threads:
            thread.join(120)
    finally:
        stop.set()
        server.stop()
    assert [p.errors for p in people if p.errors] == []
    assert wrong(where, people) == RIGHT
    assert (
        sum(len(p.acknowledged) for p in people) >= 290
    )  # of 300; an answer that was lost with the server is not counted by its labeler
