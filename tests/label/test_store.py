"""Migrations go up and down without a changed row, backups restore, what cannot be opened says why."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from label_people import Place, ranked
from sqlalchemy import text

from trimtab.common.errors import UserError
from trimtab.label import store as module
from trimtab.label.store import HEAD, MIGRATIONS, Store, back_up, migrate, open_store
from trimtab.label.tables import labels, metadata

LATER = {"reviews", "adjudications", "battles", "reads", "facts"}  # tables that do not exist at the first revision


def fingerprint(store: Store) -> dict[str, str]:
    """A hash of every row of every table that the first revision has."""
    out = {}
    with store.read() as connection:
        for table in metadata.sorted_tables:
            if table.name not in LATER:
                rows = sorted(json.dumps([str(v) for v in row]) for row in connection.execute(table.select()))
                out[table.name] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return out


def test_the_newest_revision_is_the_newest_file() -> None:
    numbers = sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("0*.py"))
    assert numbers[-1] == HEAD and numbers == [f"{i:04d}" for i in range(1, len(numbers) + 1)]


def test_migrations_and_tables_agree(store: Store) -> None:
    with store.engine.connect() as connection:
        differences = [
            d
            for d in compare_metadata(MigrationContext.configure(connection), metadata)
            if "ix_tasks_queue" not in str(d)
        ]
    assert differences == []  # ix_tasks_queue has an expression (priority DESC), which alembic cannot compare


def test_up_and_down_changes_no_row(place: Place) -> None:
    place.begin(overlap=2).add(*(ranked(f"item {i}", 3) for i in range(20)))
    place.label("ada", 20)
    place.label("bob", 15)
    before = fingerprint(place.store)
    migrate(place.store, "0001")
    assert fingerprint(place.store) == before
    with place.store.read() as connection, pytest.raises(Exception, match="reviews"):
        connection.execute(text("SELECT 1 FROM reviews"))
    migrate(place.store, HEAD)
    assert fingerprint(place.store) == before
    place.label("cyd")
    migrate(place.store, "base")
    migrate(place.store, HEAD)
    assert fingerprint(place.store) != before


def test_an_old_database_is_brought_up_when_it_is_opened(lite_place: Place, tmp_path: Path) -> None:
    migrate(lite_place.begin().store, "0001")
    again = open_store(tmp_path / "labels.db")
    with again.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM battles")).scalar() == 0
    again.close()


def test_a_backup_while_people_work_restores(lite_place: Place, tmp_path: Path) -> None:
    lite_place.begin().add(*(ranked(f"item {i}", 3) for i in range(5)))
    lite_place.label("ada", 3)
    copy = back_up(lite_place.store, tmp_path / "copy.db")
    before = fingerprint(lite_place.store)
    lite_place.label("ada", 2)
    with pytest.raises(UserError, match="exists"):
        back_up(lite_place.store, copy)
    restored = Place(open_store(copy))
    assert fingerprint(restored.store) == before
    restored.people = lite_place.people
    assert restored.label("ada", 2) == 5 and len(restored.rows(labels)) == 5
    restored.store.close()


def test_sqlite_is_durable_and_strict(lite: Store) -> None:
    with lite.engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_write_that_fails_leaves_nothing(place: Place) -> None:
    place.begin().add(ranked("bees", 3))
    before = fingerprint(place.store)
    with pytest.raises(ZeroDivisionError), place.store.write() as connection:
        connection.execute(text("UPDATE tasks SET priority = 7"))
        1 / 0  # noqa: B018
    assert fingerprint(place.store) == before
    place.person("ada")


def test_what_cannot_be_opened(tmp_path: Path, lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.db").write_text("this is no database, though it is long enough to look like one " * 20)
    wrong: list[tuple[Any, str]] = [
        (tmp_path / "none.db", "no such database"), (tmp_path, "is a folder"), (tmp_path / "text.db", "cannot be opened"),
        ("mysql://a@b/c", "unknown database"), ("postgresql://nobody@localhost:1/none", "cannot be opened"), ("://", "not a database URL"),
    ]  # fmt: skip
    for where, said in wrong:
        with pytest.raises(UserError, match=said):
            open_store(where)
    with lite.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="written by a newer trimtab"):
        open_store(tmp_path / "labels.db")
    assert module.BUSY_SECONDS >= 10


def test_a_read_sees_one_state(place: Place) -> None:
    place.begin().add(ranked("bees", 3))
    place.label("ada")
    with place.store.read() as connection:
        count = text("SELECT count(*) FROM labels")
        assert connection.execute(count).scalar() == 1
        place.label("bob")
        assert connection.execute(count).scalar() == 1
    with place.store.read() as connection:
        assert connection.execute(count).scalar() == 2


def test_no_message_holds_the_databases_password() -> None:
    assert module.shown("postgresql://ada:s3c:r@t@host:5432/d") == "postgresql://ada:***@host:5432/d"
    for plain in ("postgresql://ada@host/d", "postgresql:///d?host=/x&user=y", "labels.db", "a/b:c@d.db"):
        assert module.shown(plain) == plain
    with pytest.raises(UserError) as said:
        open_store("postgresql://ada:secret@localhost:1/none")
    assert "secret" not in str(said.value) and "ada:***@localhost" in str(said.value)


def test_a_backup_makes_its_folder_and_says_what_is_wrong(lite: Store, tmp_path: Path) -> None:
    assert back_up(lite, tmp_path / "new" / "copy.db").stat().st_size > 10_000
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["copy.db"]
    with pytest.raises(UserError, match="cannot write"):
        back_up(lite, tmp_path / "labels.db" / "copy.db")
