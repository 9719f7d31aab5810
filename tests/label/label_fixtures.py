"""A labelling database for each test, in SQLite and, where it is installed, in PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgres
import pytest
from label_browser import browser
from label_people import Place
from sqlalchemy import create_engine, text

from trimtab.label.store import Store, open_store


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running server, or a skip that says why there is none."""
    if reason := postgres.why_not():
        pytest.skip(reason)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    if request.param == "sqlite":
        where = str(tmp_path / "labels.db")
    else:
        where = request.getfixturevalue("postgres_url")
        server = create_engine(where.replace("postgresql://", "postgresql+psycopg://"))
        with server.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        server.dispose()
    opened = open_store(where, create=True)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def started() -> Iterator[Any]:
    """A browser, or a skip that says why there is none."""
    with browser() as found:
        yield found


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Store]:
    """An empty SQLite database."""
    opened = open_store(tmp_path / "labels.db", create=True)
    yield opened
    opened.close()


@pytest.fixture
def place(store: Store) -> Place:
    """A project with people in it, in either database."""
    return Place(store)


@pytest.fixture
def lite_place(lite: Store) -> Place:
    """A project with people in it, in SQLite."""
    return Place(lite)
