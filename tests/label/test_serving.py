"""The verb ``trimtab label``: ports, first links, addresses, models and names that are wrong."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from label_people import Place, prompt, ranked
from label_web import PASSWORD, Browser, logged_in
from tiny_models import save_tiny_policy

from trimtab.cli import main
from trimtab.common.errors import UserError
from trimtab.data.files import write_records
from trimtab.label.accounts import new_link, use_link
from trimtab.label.errors import Missing
from trimtab.label.served import Served
from trimtab.label.store import Store, open_store, recalled
from trimtab.label.tables import events, projects
from trimtab.models.load import position_limit
from trimtab.records import Completion, Message, Prompt
from trimtab.verbs.label import Model, Serve, first_link, prepare


def link_of(said: str) -> str:
    found = re.search(r"/setup/([\w-]+)", said)
    assert found, said
    return found[1]


def test_a_port_that_is_taken_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a banner, nor a link that opens nothing, nor a database."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["label", "serve", "other.db", f"port={taken.getsockname()[1]}"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "cannot be had" in said.err and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_second_server_before_the_first_log_in_revokes_nothing(lite: Store, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(lite, "http://127.0.0.1:8765")
    links = []
    for _ in range(2):
        first_link(served)
        links.append(link_of(capsys.readouterr().out))
    browser = Browser(lite)
    assert all("You log in as <b>admin</b>" in browser.page(f"/setup/{link}") for link in links)
    assert "start trimtab label serve again" in browser.get("/setup/none").text
    assert use_link(lite, links[0], PASSWORD) == "admin"
    with pytest.raises(Missing, match="ask an admin"):  # one password, one link
        use_link(lite, links[1], PASSWORD)
    with lite.write() as connection:
        old = new_link(connection, 1)
        new_link(connection, 1)
    with pytest.raises(Missing):  # an admin's new link ends the one before
        use_link(lite, old, PASSWORD)


def test_a_model_that_is_not_there_is_said_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["label", "serve", "l.db", f"port={port}", "models={x: ./nosuch}"]) == 2
    said = capsys.readouterr()
    assert "nosuch: no such model folder" in said.err and said.out == "" and list(tmp_path.iterdir()) == []


def test_a_database_or_a_labeler_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records("a.jsonl", [ranked("bees", 3)])
    for words in (["add", "labls.db", "a.jsonl", "project=p"], ["user", "labls.db", "ada"]):
        assert main(["label", *words]) == 2 and "labls.db: no such database" in capsys.readouterr().err
        assert not Path("labls.db").exists()
    assert main(["label", "add", "l.db", "a.jsonl", "project=p", "create=true"]) == 0
    assert "p (a new project): 1 tasks added" in capsys.readouterr().out
    assert main(["label", "add", "l.db", "a.jsonl", "project=p"]) == 0 and "new project" not in capsys.readouterr().out
    place = Place(open_store("l.db"))
    place.label("ada")
    assert main(["label", "export", "l.db", "without=[labeler-1,foo]"]) == 2
    assert "without=foo: nobody is called so in this export; there are labeler-1" in capsys.readouterr().err
    assert main(["label", "export", "l.db", "without=[labeler-1]"]) == 0 and "no labels yet" in capsys.readouterr().out
    assert [row.what for row in place.rows(events)] == ["import", "import", "export"] and len(place.rows(projects)) == 1
    place.store.close()


def test_links_begin_with_the_address_that_was_served_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path / "l.db")
    prepare(Serve(database=where, port=9001)).store.close()
    store = open_store(where)
    with store.read() as connection:
        assert recalled(connection, "url") == "http://127.0.0.1:9001"
    store.close()
    assert main(["label", "user", where, "ada"]) == 0 and "at http://127.0.0.1:9001/setup/" in capsys.readouterr().out
    assert main(["label", "user", where, "ada", "url=https://l.example.org/"]) == 0
    assert "at https://l.example.org/setup/" in capsys.readouterr().out


def test_answers_take_what_the_context_leaves(tmp_path: Path) -> None:
    """max_tokens of any size; each prompt has its own room, and one that fills the context is named."""
    save_tiny_policy(tmp_path / "tiny")
    limit = position_limit(tmp_path / "tiny")
    model = Model(str(tmp_path / "tiny"), max_tokens=10 * limit, temperature=1.0)
    prompts = [prompt("bees"), Prompt("longer", (Message("user", "bees " * 5),))]
    rows = model.answers(prompts, 2, 0)
    assert [len(row) for row in rows] == [2, 2] and all(len(c.token_ids or ()) < limit for row in rows for c in row)
    with pytest.raises(UserError, match=r"prompt full has \d+ tokens.*max_tokens="):
        model.answers([prompt("bees"), Prompt("full", (Message("user", "bees " * limit),))], 2, 0)


class Broken:
    """A model that cannot answer, and says where it lies."""

    def answers(self, prompts: Any, k: int, seed: int) -> list[list[Completion]]:
        raise UserError("a prompt is 12 tokens too long for /models/secret")


def test_a_hidden_model_that_fails_stays_hidden(lite_place: Place) -> None:
    ada = logged_in(lite_place.begin(), "ada")
    served = ada.client.app.small.app.state.served  # type: ignore[attr-defined]
    served.models.update(crimson=Broken(), azure=Broken())
    answer = ada.api("/api/projects/p/arena/ask", {"text": "Hi"})
    assert answer.status_code == 409 and "could not answer" in answer.json()["error"]
    assert not any(word in answer.text for word in ("secret", "crimson", "azure", "tokens"))
    row = lite_place.rows(events)[-1]
    assert row.what == "arena failed" and "secret" in row.details["why"] and row.details["model"] in ("crimson", "azure")


def test_next_has_nothing_to_say_when_all_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place(open_store("l.db", create=True)).begin(overlap=1)
    place.add(ranked("bees", 3))
    place.label("ada")
    place.store.close()
    assert main(["label", "next", "l.db", "by=reward:nowhere"]) == 0
    assert "there is nothing to order" in capsys.readouterr().out
