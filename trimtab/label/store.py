"""The database behind the app: SQLite (WAL, BEGIN IMMEDIATE, every commit on the disk) or PostgreSQL, and its migrations."""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, inspect, make_url, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write, check_writable
from trimtab.label.tables import events, facts

HEAD = "0004"  # the newest file in migrations/versions; a test compares
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30
CONNECTIONS = 48  # more than the 40 threads of the server: nobody waits for one


class Store:
    """One database. ``read()`` and ``write()`` are transactions; a write holds the database's writer lock from its first moment."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sqlite = engine.dialect.name == "sqlite"
        self._writer = threading.Lock()
        self._writing = 0  # the thread that holds it

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        level = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}  # PostgreSQL's own level sees others' commits
        with self.engine.connect().execution_options(**level) as connection:
            yield connection
            connection.rollback()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed, on the disk, when the block ends, and undone when it raises."""
        if not self.sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        assert self._writing != threading.get_ident(), "a write inside a write waits for itself"
        # Writers of this process queue here rather than in SQLite's busy loop, which sleeps and is not fair.
        with self._writer, self._named(), self.engine.connect() as plain:
            connection = plain.execution_options(begin="BEGIN IMMEDIATE")
            with connection.begin():
                yield connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        self._writing = threading.get_ident()
        try:
            yield
        finally:
            self._writing = 0

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def open_store(where: Path | str, *, create: bool = False) -> Store:
    """The database at a path (SQLite) or a ``postgresql://`` URL, brought up to this version's tables.

    Raises:
        UserError: there is no such database and ``create`` is false, it cannot be reached, or a newer trimtab wrote it.
    """
    store = Store(_engine(where, create))
    try:
        with store.engine.connect() as connection:
            version = current(connection)
        if version == "" and not create:
            raise UserError(f"{shown(where)}: no labelling database here; trimtab label serve {shown(where)} begins one")
        if version != HEAD:
            known = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("*.py")}
            if version and version not in known:
                raise UserError(
                    f"{shown(where)}: written by a newer trimtab (tables {version}, this one knows {HEAD}); update trimtab"
                )
            migrate(store, HEAD)
    except DBAPIError as error:
        store.close()
        raise UserError(f"{shown(where)}: cannot be opened ({_reason(error)})") from None
    return store


def shown(where: Path | str) -> str:
    """A database as messages name it: without the password of its URL."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", str(where))


def current(connection: Connection) -> str:
    """The revision that the tables are at, "" for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def migrate(store: Store, revision: str) -> None:
    """Brings the tables up or down to ``revision`` ("base": no tables) in one transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with store.write() as connection:
        config.attributes["connection"] = connection
        now = current(connection)
        known = sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("*.py"))
        down = revision == "base" or (now in known and revision in known and known.index(revision) < known.index(now))
        (command.downgrade if down else command.upgrade)(config, revision)


def insert_if_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Adds a row unless its key is there already, also when two do so at once."""
    dialect = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(dialect(table).values(**row).on_conflict_do_nothing())


def log(connection: Connection, user_id: int | None, what: str, **details: Any) -> None:
    """A line in the journal."""
    connection.execute(insert(events).values(user_id=user_id, what=what, details=details, created=time.time()))


def remember(connection: Connection, name: str, value: str) -> None:
    """Keeps a fact about the database itself, such as the address at which it was served last."""
    insert_if_new(connection, facts, {"name": name, "value": value})
    connection.execute(update(facts).where(facts.c.name == name).values(value=value))


def recalled(connection: Connection, name: str) -> str:
    """What was kept by ``remember``; "" for nothing."""
    return str(connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar() or "")


def back_up(store: Store, path: Path | str) -> Path:
    """A complete copy of an SQLite database, taken while it is in use; on the disk when this returns.

    Raises:
        UserError: the database is PostgreSQL, whose own ``pg_dump`` does it, the file exists, or it cannot be written.
    """
    path = Path(path)
    if not store.sqlite:
        raise UserError("a PostgreSQL database is backed up by pg_dump, and restored by pg_restore")
    if path.exists():
        raise UserError(f"{path}: exists; choose another name for the backup")
    check_writable(path, overwrite=False)
    try:
        with atomic_write(path) as temporary, store.engine.connect().execution_options(begin="") as connection:
            connection.execute(text("VACUUM INTO :path"), {"path": str(temporary)})
    except DBAPIError as error:
        raise UserError(f"{path}: cannot be written ({_reason(error)})") from None
    return path


def _engine(where: Path | str, create: bool) -> Engine:
    url = _url(where)
    if url.get_backend_name() == "postgresql":
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        try:
            return create_engine(url, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True)
        except (NoSuchModuleError, ModuleNotFoundError):
            raise UserError("PostgreSQL needs its driver: pip install 'trimtab[postgres]'") from None
    path = Path(url.database or "")
    if not create and not path.exists():
        raise UserError(f"{path}: no such database; trimtab label serve {path} begins one")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it, such as {path / 'labels.db'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url, pool_size=CONNECTIONS, max_overflow=0, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _url(where: Path | str) -> URL:
    text_of = str(where)
    if "://" not in text_of:
        return URL.create("sqlite", database=text_of)
    try:
        url = make_url(text_of)
    except ArgumentError:
        raise UserError(f"{shown(text_of)}: not a database URL; write a file name, or postgresql://user@host/name") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UserError(
            f"{url.get_backend_name()}: unknown database; write a file name (SQLite), or postgresql://user@host/name"
        )
    return url


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if begin := connection.get_execution_options().get("begin", "BEGIN"):
        connection.exec_driver_sql(begin)


def _reason(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())[:160]
