"""A project with people and tasks, and how a test makes them label."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from trimtab.label import assignment
from trimtab.label.accounts import create_user
from trimtab.label.projects import Project, create_project, find_project
from trimtab.label.settings import ProjectSettings
from trimtab.label.store import Store
from trimtab.label.tables import assignments, tasks
from trimtab.label.tasks import Imported, import_records
from trimtab.records import Comparison, Completion, Message, Prompt

KEYS = itertools.count()


def prompt(name: str, use_case: str | None = None) -> Prompt:
    """A prompt called ``name``."""
    return Prompt(name, (Message("user", f"Tell me of {name}."),), use_case=use_case)


def ranked(name: str, k: int, ranks: Sequence[int | None] | None = None, use_case: str | None = None) -> Comparison:
    """K answers to a prompt, in no order unless ``ranks`` says one."""
    answers = tuple(Completion(f"answer {i} about {name}", f"model-{i}") for i in range(k))
    return Comparison(prompt(name, use_case), answers, tuple(ranks) if ranks else (None,) * k)


@dataclass
class Place:
    """A store with a project ``p`` and a labeler for each name that is asked for."""

    store: Store
    people: dict[str, int] = field(default_factory=dict)

    def begin(self, **settings: Any) -> "Place":
        """Makes the project, without gold items unless asked for."""
        with self.store.write() as connection:
            create_project(connection, "p", "A project", ProjectSettings(**{"gold_rate": 0.0, "seed": 1, **settings}))
        return self

    @property
    def project(self) -> Project:
        with self.store.read() as connection:
            return find_project(connection, "p")

    def add(self, *records: Any, **options: Any) -> Imported:
        project = self.project
        with self.store.write() as connection:
            return import_records(connection, project, [(f"row {i}", r) for i, r in enumerate(records)], **options)

    def person(self, name: str, role: str = "labeler") -> int:
        if name not in self.people:
            with self.store.write() as connection:
                self.people[name] = create_user(connection, name, role)
        return self.people[name]

    def next(self, name: str, now: float | None = None) -> assignment.Next:
        person, project = self.person(name), self.project
        with self.store.write() as connection:
            return assignment.claim(connection, project, person, now)

    def submit(
        self, name: str, of: int, value: Any = None, key: str = "", seconds: float = 1.0, now: float | None = None
    ) -> int:
        row = self.row(of)
        value = value if value is not None else self.value(row)
        person = self.person(name)
        with self.store.write() as connection:
            return assignment.submit(connection, person, of, key or f"key-{next(KEYS):08d}", value, seconds, now)

    def label(self, name: str, times: int = 1, value: Any = None) -> int:
        """Takes and labels so many tasks; returns the last label."""
        label = 0
        for _ in range(times):
            given = self.next(name)
            assert given.assignment is not None, given.why
            label = self.submit(name, given.assignment, value)
        return label

    def row(self, of: int) -> Any:
        """An assignment with its task."""
        query = select(assignments, tasks.c.kind, tasks.c.prompt, tasks.c.completions, tasks.c.purpose)
        with self.store.read() as connection:
            return connection.execute(
                query.join(tasks, tasks.c.id == assignments.c.task_id).where(assignments.c.id == of)
            ).one()

    def value(self, row: Any) -> dict[str, Any]:
        """Something valid to say: the answers' own order, as this person sees them."""
        if row.kind == "write":
            return {"text": "an answer"}
        if row.kind == "prompt":
            return {"style": "plain", "text": "a prompt"}
        return {"ranks": [i + 1 for i in row.shown], "ratings": [4] * len(row.shown)}

    def rows(self, table: Any) -> list[Any]:
        with self.store.read() as connection:
            return list(connection.execute(select(table)))
