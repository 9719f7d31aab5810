"""What the labelling app must show, measured: ``python bench/label_proof.py [load think killed rows careless browser fuzz agreement
security saving]``.

`make proof` writes the same into docs/proof.json (``python bench/proof.py label-load ...``). Each part returns what is asked, what was
measured and whether it is reached. The simulated labelers, the fuzzing and the browser are those of tests/label, with the full numbers.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "label"), str(ROOT / "tests")]

from label_league import league, shown_orders  # noqa: E402
from label_load import Server, database, free_port, percentile, prepare, run, wrong  # noqa: E402
from sqlalchemy import func, insert, select  # noqa: E402

from trimtab.common.rng import generator  # noqa: E402
from trimtab.label.careless import position_bias, suspicions  # noqa: E402
from trimtab.label.store import HEAD, Store, back_up, migrate, open_store  # noqa: E402
from trimtab.label.tables import assignments, labels, tasks, users  # noqa: E402

Part = dict[str, Any]


def figure(what: str, measured: str, reached: bool) -> dict[str, Any]:
    """One thing that is asked."""
    return {"what": what, "measured": measured, "reached": bool(reached)}


def shared() -> str:
    """What else the machine did: times are of it, too."""
    return f"{os.cpu_count()} cores, which labelers and server share; load average {os.getloadavg()[2]:.1f} in the last quarter of an hour."


def load(people: int = 100, number: int = 1000) -> Part:
    """100 labelers without think time, three for each task."""
    with tempfile.TemporaryDirectory() as folder:
        where, port = database(Path(folder)), free_port()
        workers = prepare(where, number, people, 3, port)
        server = Server(where, port).start()
        began = time.monotonic()
        for thread in run(workers, threading.Event()):
            thread.join()
        seconds = time.monotonic() - began
        server.stop()
        bad, errors = wrong(where, workers), sum(len(w.errors) for w in workers)
        store = open_store(where)
        with store.read() as connection:
            each = connection.execute(select(func.count()).select_from(labels).group_by(labels.c.task_id)).scalars().all()
        store.close()
    times = [t for w in workers for t in w.times]
    off = number - sum(n == 3 for n in each)
    p50, p95, p99 = (percentile(times, q) for q in (0.5, 0.95, 0.99))
    return {
        "asked": [
            figure("tasks labelled by other than 3 people: 0", str(off), off == 0),
            figure("labels given twice by one person: 0", str(bad["double"]), bad["double"] == 0),
            figure("errors that reach a labeler: 0", str(errors), errors == 0),
            figure("p95 of an answer at most 1.5 s", f"{p95:.2f} s", p95 <= 1.5),
        ],
        "lines": [
            f"{people} labelers without think time on {number} tasks, overlap 3: {len(each) * 3} labels in {seconds:.0f} s "
            f"({3 * number / seconds:.0f} a second, each a page and a submission), p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s. "
            f"{shared()}"
        ],
    }  # fmt: skip


def think(people: int = 50, seconds: float = 600, pause: float = 20.0) -> Part:
    """50 labelers who think for 20 seconds."""
    with tempfile.TemporaryDirectory() as folder:
        where, port = database(Path(folder)), free_port()
        workers = prepare(where, int(people * seconds / pause), people, 3, port)
        for worker in workers:
            worker.think = pause
        server, stop = Server(where, port).start(), threading.Event()
        threads = run(workers, stop)
        memory = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(seconds / 20, 15))
            memory.append(server.memory())
        stop.set()
        for thread in threads:
            thread.join()
        server.stop()
        errors = sum(len(w.errors) for w in workers)
    times = [t for w in workers for t in w.times]
    half = len(memory) // 2
    growth = np.mean(memory[-3:]) / np.mean(memory[half : half + 3]) - 1
    p95, p99 = percentile(times, 0.95), percentile(times, 0.99)
    return {
        "asked": [
            figure("p95 of a page at most 200 ms with 50 labelers who think for 20 s", f"{1000 * p95:.0f} ms", p95 <= 0.2),
            figure("memory flat: at most 10 % more in the second half", f"{100 * growth:.1f} %", growth <= 0.1),
            figure("errors that reach a thinking labeler: 0", str(errors), errors == 0),
        ],
        "lines": [
            f"{people} labelers, {pause:.0f} s of thought each time, {seconds / 60:.0f} minutes: {len(times)} answers, "
            f"p95 {1000 * p95:.0f} ms, p99 {1000 * p99:.0f} ms, resident memory {memory[0] / 1e6:.0f} MB at first, "
            f"{memory[half] / 1e6:.0f} MB half-way, {memory[-1] / 1e6:.0f} MB at the end. {shared()}"
        ],
    }  # fmt: skip


def killed(times: int = 20, wanted: int = 10_000, people: int = 20) -> Part:
    """kill -9 at random moments under load; then every acknowledged label is looked up."""
    rng = generator(0, "kill")
    with tempfile.TemporaryDirectory() as folder:
        where, port = database(Path(folder)), free_port()
        workers = prepare(where, wanted * 6 // 10, people, 2, port)
        server, stop = Server(where, port).start(), threading.Event()
        threads = run(workers, stop)
        aims = sorted(int(x) for x in rng.uniform(0.02, 0.98, times) * wanted)

        def given() -> int:
            return sum(len(w.acknowledged) for w in workers)

        for aim in aims:
            while given() < aim and any(t.is_alive() for t in threads):
                time.sleep(0.005)
            time.sleep(float(rng.uniform(0, 0.05)))
            server.kill()
            server.start()
        while given() < wanted and any(t.is_alive() for t in threads):
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        server.kill()
        bad, acknowledged, errors = wrong(where, workers), given(), sum(len(w.errors) for w in workers)
    torn, kept = bad["changed"] + bad["half-written"], bad["lost"] == 0 and acknowledged >= wanted
    return {
        "asked": [
            figure(f"of {wanted} acknowledged labels lost in {times} x kill -9: 0", f"{bad['lost']} of {acknowledged}", kept),
            figure("labels changed or half-written: 0", str(torn), torn == 0),
            figure("labels double: 0", str(bad["double"]), bad["double"] == 0),
        ],
        "lines": [
            f"{people} labelers, {times} x kill -9: {acknowledged} labels acknowledged, "
            f"{bad['slots wrong']} tasks whose free slots are wrong, {errors} errors."
        ],
    }


def rows(number: int = 100_000) -> Part:
    """Migrations, backup and restore on many labels."""
    import test_store

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "labels.db", create=True)
        _fill(store, number)
        before = test_store.fingerprint(store)
        began = time.monotonic()
        migrate(store, "0001")
        down = time.monotonic() - began
        same_down = test_store.fingerprint(store) == before
        migrate(store, HEAD)
        up = time.monotonic() - began - down
        same = same_down and test_store.fingerprint(store) == before
        began = time.monotonic()
        copy = back_up(store, Path(folder) / "copy.db")
        backup = time.monotonic() - began
        size = copy.stat().st_size
        store.close()
        began = time.monotonic()
        restored = open_store(copy)
        whole = test_store.fingerprint(restored) == before
        restore = time.monotonic() - began
        restored.close()
    took = f"{restore:.1f} s" if whole else "other rows"
    return {
        "asked": [
            figure(f"rows changed by migrations down and up on {number} labels: 0", "0" if same else "some", same),
            figure("a backup restores to the same rows in at most 60 s", took, whole and restore <= 60),
        ],
        "lines": [
            f"{number} labels, {size / 1e6:.0f} MB: down {down:.1f} s, up {up:.1f} s, backup {backup:.1f} s, "
            f"opened again and every row compared {restore:.1f} s."
        ],
    }


def _fill(store: Store, number: int) -> None:
    """Tasks, assignments and labels, without the app: many at once."""
    from label_people import Place, ranked

    place = Place(store).begin(overlap=4)
    people = [place.person(f"worker-{i}") for i in range(4)]
    place.add(*(ranked(f"item {i}", 4) for i in range(number // 4)))
    now = time.time()
    given, said = [], []
    for i in range(number):
        task, user = i // 4 + 1, people[i % 4]
        who = {"task_id": task, "user_id": user, "project_id": 1}
        given.append({**who, "id": i + 1, "state": "done", "lease": now, "shown": [2, 0, 3, 1], "started": now})
        value = {"ranks": [1 + i % 4, 2, 3, 4], "ratings": [7, 5, 3, 1], "flags": [[], [], [], []], "note": "ü" * (i % 7)}
        said.append({
            **who, "assignment_id": i + 1, "key": f"key-{i:08d}", "value": value, "seconds": i % 97, "instructions": 0, "created": now + i,
        })  # fmt: skip
    with store.write() as connection:
        connection.execute(insert(assignments), given)
        connection.execute(insert(labels), said)
        connection.execute(tasks.update().values(slots=0))
        assert connection.execute(select(func.count()).select_from(users)).scalar_one() == 4


def careless(leagues: int = 100) -> Part:
    """A spammer among 20 people, in many simulated projects; and position bias of somebody who has none."""
    found: dict[bool, list[int | None]] = {False: [], True: []}
    false = people = 0
    for consistent in (False, True):
        for seed in range(leagues):
            for who, said in suspicions(league(seed, spam=0.3, consistent=consistent)).items():
                if who == 0:
                    found[consistent].append(said.flagged_at)
                else:
                    people += 1
                    false += said.flagged_at is not None
    clicks, guesses = ([x for x in found[c] if x is not None] for c in (False, True))
    rng = generator(0, "indifferent")
    items = [((1, 2) if rng.random() < 0.5 else (2, 1), shown) for shown in shown_orders(10_000, 2)]
    content = [((1, 2), shown) for shown in shown_orders(10_000, 2)]
    indifferent, by_content = position_bias(items), position_bias(content)
    shares = [p.share.value for p in (indifferent, by_content)]
    caught = f"{len(clicks)} of {leagues}, at item {np.median(clicks):.0f} (median)"
    return {
        "asked": [
            figure("a 30 % random spammer flagged within 40 items", caught, len(clicks) >= 0.95 * leagues),
            figure("false flags at most 2 %", f"{100 * false / people:.1f} % of {people}", false / people <= 0.02),
            figure("an indifferent labeler picks the first-shown answer 50 +- 2 %", f"{100 * shares[0]:.1f} %", near(shares[0])),
            figure("so does somebody who always prefers one model", f"{100 * shares[1]:.1f} %", near(shares[1])),
        ],
        "lines": [
            "20 people, rankings of 4 to 9 answers, three people a task, agreement 73 % as InstructGPT's. A spammer who clicks ratings "
            f"and order at random in 30 % of the items: {len(clicks)} of {leagues} flagged. One who in 30 % guesses a fitting order, "
            f"so that only the others tell: {len(guesses)} of {leagues}."
        ],
    }  # fmt: skip


def near(share: float) -> bool:
    """Within two points of a half."""
    return abs(share - 0.5) <= 0.02


def browser() -> Part:
    """The browser's tests, and the keys they counted."""
    command = [sys.executable, "-m", "pytest", "tests/label/test_browser.py", "-q", "-rs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped)", done.stdout)}
    fine = counts.get("passed", 0) >= 8 and not counts.get("failed") and not counts.get("skipped")
    seen = tally(counts)
    source = (ROOT / "tests/label/test_browser.py").read_text()
    pressed = re.search(r"beyond = ada\.keys\((.*?)\)", source)
    keys = len(pressed[1].split(",")) if pressed else 99
    return {
        "asked": [
            figure("in a real browser: both days; axe-core: nothing serious; none of 200 XSS strings runs", seen, fine),
            figure("rank K = 7 with ties and submit in at most 15 keys beyond the ratings", str(keys), fine and keys <= 15),
        ],
        "lines": ["Debian's chromium through Playwright; axe-core 4.14.1; `tests/label/test_browser.py`."],
    }  # fmt: skip


def tally(counts: Mapping[str, int]) -> str:
    """``9 passed, 1 skipped``."""
    return ", ".join(f"{n} {word}" for word, n in counts.items())


def fuzz(examples: int = 300) -> Part:
    """schemathesis on the JSON API."""
    from label_fuzz import fuzz as draw
    from label_people import Place, ranked
    from label_web import logged_in

    with tempfile.TemporaryDirectory() as folder:
        place = Place(open_store(Path(folder) / "labels.db", create=True)).begin()
        place.add(*(ranked(f"item {i}", 3) for i in range(500)))
        made = sum(draw(logged_in(place, "ada", "admin"), examples).values())
        place.store.close()
    said = figure("schemathesis on the JSON API: no 5xx", f"0 of {made} calls", made > 1000)
    return {"asked": [said], "lines": [f"{made} drawn calls, such as the schema allows and such as it does not."]}


def agreement() -> Part:
    """The published worked examples (sources in tests/label/test_agreement.py)."""
    from test_agreement import UNITS

    from trimtab.label.agreement import ac1, alpha, raw_agreement

    levels = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849, "ratio": 0.797}
    found = {level: round(alpha(UNITS, level).value, 3) for level in levels}  # type: ignore[arg-type]
    said = ", ".join(f"{level} {value:.3f}" for level, value in found.items())
    gwet = round(ac1(UNITS, 5).value, 5), round(raw_agreement(UNITS).value, 5)
    return {
        "asked": [
            figure("Krippendorff's 4 coders, 12 units: nominal 0.743, ordinal 0.815, interval 0.849, ratio 0.797", said, found == levels),
            figure("Gwet's AC1 on the same 0.77544, raw agreement 0.81818", f"{gwet[0]:.5f}, {gwet[1]:.5f}", gwet == (0.77544, 0.81818)),
        ],
        "lines": [],
    }


SECURITY = ("test_routes", "test_accounts", "test_pages", "test_values", "test_export", "test_serving")


def security() -> Part:
    """Who may do what, on every route of the routers; log-in, cookies, content policy, bodies, formulas, connections."""
    from test_routes import ROLES, ROUTES, STATES

    command = [sys.executable, "-m", "pytest", "-q", *(f"tests/label/{name}.py" for name in SECURITY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    fine = done.returncode == 0 and counts.get("passed", 0) > 0
    routes = f"{len(ROUTES)} routes x {len(ROLES) + 1} (nobody, {', '.join(ROLES)})"
    return {
        "asked": [
            figure("who may not is refused, on every route of the router and in every role", routes, fine),
            figure("a change without the session's token or from another Origin is refused", f"{len(STATES)} routes", fine),
            figure("tests of log-in, sessions, cookies, ids, policy, bodies, formulas, connections that fail: 0", tally(counts), fine),
        ],
        "lines": [f"`{' '.join(command[1:])}`. XSS strings and the content policy in a browser: *labelling: browser*."],
    }  # fmt: skip


def saving() -> Part:
    """What active choice saves (bench/label_saving.py)."""
    import label_saving

    return label_saving.saving()


MEASURED: dict[str, Callable[[], Part]] = {
    "load": load, "think": think, "killed": killed, "rows": rows, "careless": careless, "browser": browser, "fuzz": fuzz,
    "agreement": agreement, "security": security, "saving": saving,
}  # fmt: skip


def measure(name: str) -> Part:
    """One part, with its command and time."""
    began = time.monotonic()
    made = MEASURED[name]()
    return {"area": "label_proof", "command": f"python bench/label_proof.py {name}", "wall_seconds": time.monotonic() - began, **made}


def entry_of(name: str) -> dict[str, Part]:
    """A part as bench/proof.py keeps it."""
    return {f"labelling: {name}": measure(name)}


PARTS = {f"label-{name}": functools.partial(entry_of, name) for name in MEASURED}


def asked(entry: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what is asked, what was measured, whether it is reached)."""
    return [(one["what"], one["measured"], one["reached"]) for one in entry["asked"]]


def render(entry: Mapping[str, Any]) -> list[str]:
    """What was measured, a paragraph each."""
    return [line for said in entry["lines"] for line in (said, "")]


if __name__ == "__main__":
    for part in sys.argv[1:] or MEASURED:
        print(json.dumps({part: measure(part)}, indent=1), flush=True)
