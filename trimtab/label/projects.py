"""Projects, their instructions in versions, and who has read which."""

import re
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from trimtab.label.errors import Invalid, Missing
from trimtab.label.settings import ProjectSettings, new_settings, read_settings, write_settings
from trimtab.label.store import insert_if_new
from trimtab.label.tables import acknowledgements, instructions, onboarding, projects
from trimtab.label.values import LONGEST_TEXT, clean

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Project:
    """A project as it stands in the database."""

    id: int
    name: str
    title: str
    settings: ProjectSettings
    open: bool


def create_project(connection: Connection, name: str, title: str = "", settings: ProjectSettings | None = None) -> int:
    """A new project; returns its id.

    Raises:
        Invalid: the name is not one, or is taken.
    """
    if not NAME.match(name):
        raise Invalid(
            f"project name {name!r}: write small letters, digits, - and _, at most 64, the first a letter or digit"
        )
    if connection.execute(select(projects.c.id).where(projects.c.name == name)).first():
        raise Invalid(f"a project {name!r} exists already")
    row = {
        "name": name, "title": clean(title or name, "title", 200), "settings": write_settings(settings or new_settings()),
        "open": True, "created": time.time(),
    }  # fmt: skip
    return int(connection.execute(insert(projects).values(row).returning(projects.c.id)).scalar_one())


def find_project(connection: Connection, name: str) -> Project:
    """The project called ``name``.

    Raises:
        Missing: there is none.
    """
    row = connection.execute(select(projects).where(projects.c.name == name)).first()
    if row is None:
        raise Missing(f"no project {name!r}")
    return _project(row)


def project_by_id(connection: Connection, project_id: int) -> Project:
    """The project with this id, which must exist."""
    return _project(connection.execute(select(projects).where(projects.c.id == project_id)).one())


def all_projects(connection: Connection) -> list[Project]:
    """Every project, oldest first."""
    return [_project(row) for row in connection.execute(select(projects).order_by(projects.c.id))]


def change_project(connection: Connection, project: Project, **values: Any) -> None:
    """Sets title, open or settings."""
    if "settings" in values:
        values["settings"] = write_settings(values["settings"])
    connection.execute(update(projects).where(projects.c.id == project.id).values(**values))


def publish_instructions(connection: Connection, project_id: int, text: str, author_id: int | None) -> int:
    """A new version, which everybody must acknowledge before the next task; returns its number.

    Raises:
        Invalid: the text is empty, too long, or that of the newest version.
    """
    text = clean(text, "instructions", 4 * LONGEST_TEXT)
    if not text.strip():
        raise Invalid("the instructions are empty")
    before = versions(connection, project_id)
    if before and before[0].text.replace("\r\n", "\n") == text:
        raise Invalid(f"this is version {before[0].version} word for word; nobody has to read it again")
    version = before[0].version + 1 if before else 1
    row = {"project_id": project_id, "version": version, "text": text, "author_id": author_id, "created": time.time()}
    connection.execute(insert(instructions).values(row))
    return version


def versions(connection: Connection, project_id: int) -> list[Row[Any]]:
    """All versions of the instructions, newest first."""
    query = select(instructions).where(instructions.c.project_id == project_id).order_by(instructions.c.version.desc())
    return list(connection.execute(query))


def unread(connection: Connection, project_id: int, user_id: int) -> Row[Any] | None:
    """The newest instructions if this person has not acknowledged them."""
    query = (
        select(instructions)
        .where(instructions.c.project_id == project_id)
        .order_by(instructions.c.version.desc())
        .limit(1)
    )
    newest = connection.execute(query).first()
    if newest is None or _acknowledged(connection, newest.id, user_id):
        return None
    return newest


def version_read(connection: Connection, project_id: int, user_id: int) -> int:
    """The newest version that this person has acknowledged, 0 for none."""
    query = (
        select(func.max(instructions.c.version))
        .join(acknowledgements, acknowledgements.c.instructions_id == instructions.c.id)
        .where(instructions.c.project_id == project_id, acknowledgements.c.user_id == user_id)
    )
    return int(connection.execute(query).scalar() or 0)


def acknowledge(connection: Connection, project_id: int, version: int, user_id: int) -> None:
    """Notes that this person has read a version.

    Raises:
        Missing: there is no such version.
    """
    query = select(instructions.c.id).where(instructions.c.project_id == project_id, instructions.c.version == version)
    found = connection.execute(query).scalar()
    if found is None:
        raise Missing(f"no version {version} of the instructions")
    insert_if_new(connection, acknowledgements, {"instructions_id": found, "user_id": user_id, "at": time.time()})


def screening_result(connection: Connection, project_id: int, user_id: int) -> Row[Any] | None:
    """The row of ``onboarding``: passed or not; None while the screening is not finished."""
    where = (onboarding.c.project_id == project_id, onboarding.c.user_id == user_id)
    return connection.execute(select(onboarding).where(*where)).first()


def _acknowledged(connection: Connection, instructions_id: int, user_id: int) -> bool:
    where = (acknowledgements.c.instructions_id == instructions_id, acknowledgements.c.user_id == user_id)
    return connection.execute(select(acknowledgements.c.at).where(*where)).first() is not None


def _project(row: Row[Any]) -> Project:
    return Project(row.id, row.name, row.title, read_settings(row.settings, row.name), row.open)
