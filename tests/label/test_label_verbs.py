"""``trimtab label``: files in, a link printed, files out that a reward model trains on, active choice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from label_load import free_port
from label_people import Place, ranked
from tiny_models import TEXT

from trimtab.cli import main
from trimtab.data.files import write_records
from trimtab.label.served import Served
from trimtab.label.store import Store, open_store
from trimtab.label.tables import tasks
from trimtab.models.load import load_scorer, load_tokenizer, save_model
from trimtab.verbs.label_next import WORTH_OF_ONE, WORTH_OF_SEVERAL, saved, task_uncertainty


def test_from_a_file_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records("answers.jsonl", [ranked(f"item {i}", 4) for i in range(6)])
    assert main(["label", "add", "l.db", "answers.jsonl", "create=true", "project=p", "overlap=2"]) == 0
    assert "p (a new project): 6 tasks added (rank 6)" in capsys.readouterr().out
    assert main(["label", "export", "l.db"]) == 0 and "no labels yet" in capsys.readouterr().out
    place = Place(open_store("l.db"))
    place.label("ada", 6)
    place.label("bob", 6)
    assert main(["label", "export", "l.db", "-o", "out", "csv=true"]) == 0
    assert "comparisons.jsonl: 12 comparisons" in capsys.readouterr().out
    assert len(Path("out/comparisons.csv").read_text().splitlines()) > 12
    assert main(["label", "export", "l.db", "-o", "out"]) == 2
    assert "comparisons.jsonl: is there already" in capsys.readouterr().err
    Path("out/prompts.jsonl").write_text("of an earlier export")
    assert main(["label", "export", "l.db", "-o", "out", "--overwrite"]) == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["comparisons.jsonl"]
    capsys.readouterr()
    assert main(["label", "agreement", "l.db"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"two labelers order a pair alike\s+100\.0 %", out) and re.search(r"ada\s+6\s", out)
    assert main(["label", "backup", "l.db", "-o", "copy.db"]) == 0 and Path("copy.db").stat().st_size > 10_000
    place.store.close()


def test_it_listens_to_nobody_else_unless_told() -> None:
    from trimtab.verbs.label import Serve

    assert Serve().host == "127.0.0.1"


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"messages": 7}\n')
    assert main(["label", "user", "l.db", "ada", "create=true"]) == 0
    capsys.readouterr()
    for words, said in (
        (["add", "l.db"], "needs a file and a project"),
        (["add", "l.db", "bad.jsonl", "create=true", "project=p"], "nothing was added: bad.jsonl:1"),
        (["add", "l.db", "bad.jsonl", "create=true", "project=No Name"], "write small letters"),
        (["export", "none.db"], "no labelling database|no such database"),
        (["export", "l.db", "project=q"], "no project 'q'"),
        (["next", "l.db"], "needs a judge"),
        (["serve", "l.db", "host=0.0.0.0"], "say url="),
        (["serve", "l.db", "url=label.example.org"], "write the address people use"),
        (["serve", "l.db", "certificate=c.pem"], "go together"),
        (["serve", "l.db", "certificate=c.pem", "key=k.pem"], "cannot be used"),
        (["serve", "l.db", "url=https://label.example.org:port"], "write the address people use"),
        (["user", "l.db"], "needs a name"),
        (["user", "l.db", "Bad Name"], "write small letters"),
        (["user", "l.db", "ada", "role=admin"], "is there already, as labeler"),
    ):
        assert main(["label", *words]) == 2, words
        err = capsys.readouterr().err
        assert re.search(said, err) and err.count("\n") == 1 and err.startswith("trimtab: "), err
    assert main(["label", "serve", "--help"]) == 0 and "certificate=" in capsys.readouterr().out


def test_the_server_starts_prints_a_link_once_and_stops(tmp_path: Path) -> None:
    """The real command: no torch is loaded, the link opens, Ctrl-C ends it."""
    port = free_port()
    code = "import sys; from trimtab.cli import main; s = main(sys.argv[1:]); print('torch' in sys.modules, flush=True); sys.exit(s)"
    words = ["label", "serve", str(tmp_path / "l.db"), f"port={port}"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == f"trimtab label: http://127.0.0.1:{port} on {tmp_path / 'l.db'}\n"
        link = process.stdout.readline().rsplit(" ", 1)[1].strip()
        for _ in range(200):
            try:
                with urllib.request.urlopen(link) as answer:
                    assert "You log in as <b>admin</b>" in answer.read().decode()
                break
            except (ConnectionError, urllib.error.URLError):
                time.sleep(0.1)
        else:
            pytest.fail("the server did not answer")
        taken = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
        assert taken.returncode == 2 and f"port {port} on 127.0.0.1 cannot be had" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.strip() == "False" and "Traceback" not in err


def test_a_user_gets_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path / "l.db")
    for _ in range(2):  # a second call is a new link for the same person
        assert main(["label", "user", where, "ada", "create=true", "role=reviewer", "url=https://label.example.org"]) == 0
        assert re.search(
            r"ada sets a password, once, at https://label.example.org/setup/[\w-]{40,}\n", capsys.readouterr().out
        )


def test_uncertainty_by_hand() -> None:
    """One model: 4 p (1 - p), so 1 where two answers score alike. Two models: the variance of what they say, times 4."""
    assert task_uncertainty(np.array([[0.0, 0.0]])) == pytest.approx(1)
    assert task_uncertainty(np.array([[0.0, 50.0]])) == pytest.approx(0, abs=1e-9)
    assert task_uncertainty(np.array([[0.0, np.log(3)]])) == pytest.approx(4 * 0.25 * 0.75)
    assert task_uncertainty(np.array([[50.0, 0.0], [0.0, 50.0]])) == pytest.approx(1)
    assert task_uncertainty(np.array([[2.0, 0.0], [2.0, 0.0]])) == pytest.approx(0)
    assert task_uncertainty(np.array([[0.0, 0.0, 50.0]])) == pytest.approx(1 / 3)


def test_next_says_what_such_a_choice_saved() -> None:
    """The figures are those that were measured: what random choice needs for the same accuracy, on the line between its points."""
    means = json.loads((Path(__file__).resolve().parents[2] / "docs" / "proof.json").read_text())["labelling: saving"]["means"]
    labels = [100, 200, 300, 400]
    curve = [means[f"random {n}"] for n in labels]
    assert curve == sorted(curve)
    for way, worth in (("margin", WORTH_OF_ONE), ("spread", WORTH_OF_SEVERAL)):
        k = max(i for i in range(3) if curve[i] <= means[f"{way} 200"])
        assert worth == round(labels[k] + 100 * (means[f"{way} 200"] - curve[k]) / (curve[k + 1] - curve[k]))
    assert saved(WORTH_OF_ONE).startswith("On simulated labelers 200 labels, half of them chosen so, were worth 268 chosen at random")
    assert "saved nothing" in saved(WORTH_OF_SEVERAL)


def test_next_puts_first_what_a_judge_wavers_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "def one(prompt, text):\n    return float(text.split()[1]) * (9.0 if 'sure' in prompt.text else 0.1)\n"
    )
    Path("other.py").write_text(
        "def two(prompt, text):\n    return float(text.split()[1]) * (9.0 if 'sure' in prompt.text else -9.0)\n"
    )
    write_records("a.jsonl", [ranked("a sure thing", 3), ranked("a doubtful thing", 3)])
    main(["label", "add", "l.db", "a.jsonl", "create=true", "project=p"])
    for judge in ("mine.py:one", "mean:mine.py:one,other.py:two"):
        assert main(["label", "next", "l.db", "--by", judge]) == 0
        assert capsys.readouterr().out.splitlines()[-3].split()[1] == "2"
    place = Place(open_store("l.db"))
    assert place.rows(tasks)[1].priority > place.rows(tasks)[0].priority
    given = place.next("ada").assignment
    assert given and place.row(given).task_id == 2
    place.store.close()


def test_next_puts_last_what_a_reward_model_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first task's prompt is longer than all that the model reads, and nothing is known of it."""
    from tiny_models import save_tiny_policy

    monkeypatch.chdir(tmp_path)
    save_tiny_policy(Path("tiny"))
    save_model(load_scorer("tiny"), load_tokenizer("tiny"), "reward")
    write_records("a.jsonl", [ranked("a long thing " * 200, 3), ranked("a thing", 3)])
    main(["label", "add", "l.db", "a.jsonl", "create=true", "project=p"])
    assert main(["label", "next", "l.db", "--by", "reward:reward"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 longer than the" in said and "tokens that the reward model reads" in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("  task ")] == ["2", "1"]
    place = Place(open_store("l.db"))
    assert place.rows(tasks)[0].priority == 0 < place.rows(tasks)[1].priority
    place.store.close()


def test_a_reward_model_trains_on_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From labels in the database to a reward-model folder, by the verbs alone."""
    from tiny_models import save_tiny_policy

    monkeypatch.chdir(tmp_path)
    save_tiny_policy(Path("tiny"))
    words = " ".join(TEXT).split()
    write_records("answers.jsonl", [ranked(words[i % len(words)] + f" {i}", 3) for i in range(8)])
    main(["label", "add", "l.db", "answers.jsonl", "create=true", "project=p", "overlap=1"])
    place = Place(open_store("l.db"))
    place.label("ada", 8)
    place.store.close()
    assert main(["label", "export", "l.db", "-o", "out"]) == 0
    options = ["model=tiny", "data=out/comparisons.jsonl", "out=reward", "batch_size=4", "epochs=1", "max_length=128"]
    assert main(["reward", *options]) == 0
    assert json.loads(Path("reward/run.json").read_text())["verb"] == "reward"


@pytest.mark.parametrize(
    ("url", "hosts", "secure"),
    [
        ("https://label.example.org/", {"label.example.org"}, True),
        ("HTTPS://Label.example.org:443", {"label.example.org"}, True),
        ("http://label.example.org:8000", {"label.example.org:8000"}, False),
        ("http://127.0.0.1:80", {"127.0.0.1", "localhost", "[::1]"}, False),
        ("http://[::1]:8765", {"127.0.0.1:8765", "localhost:8765", "[::1]:8765"}, False),
    ],
)
def test_how_browsers_call_the_server(lite: Store, url: str, hosts: set[str], secure: bool) -> None:
    """A port that the scheme has anyway is not sent; the link that is printed is a page."""
    served = Served(lite, url)
    assert served.hosts == hosts and served.secure is secure
    assert not served.url.endswith("/") and served.origins == {f"http{'s' * secure}://{h}" for h in hosts}
