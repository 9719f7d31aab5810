"""Labels -> native records that ``trimtab sft``, ``reward`` and ``dpo`` take as they are, one for each labeler; and a table as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, func, select

from trimtab.label import arena
from trimtab.label.errors import Invalid
from trimtab.label.projects import Project
from trimtab.label.tables import adjudications, assignments, battles, labels, reviews, tasks, users
from trimtab.label.tasks import prompt_of
from trimtab.label.values import RANKED
from trimtab.records import JSON, Comparison, Demonstration, Message, Prompt, Record, parse_comparison

FILES = {"demonstrations": ("write",), "comparisons": RANKED, "prompts": ("prompt",)}
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four in full width, as East Asian keyboards write them
OWN = "label_"  # what the app says of a label begins so: a prompt may have a `task` or a `kind` of its own
COLUMNS = (
    "id", "kind", "use_case", "prompt", "labeler", "ranks", "ratings", "flags", "shown_order", "seconds", "text", "note", "instructions",
    "created",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which labels, and who they say they are from."""

    names: bool = False  # log-in names instead of labeler-NUMBER
    gold: bool = False  # the items with known answers too
    rejected: bool = False  # labels that a reviewer rejected, and votes on answers that told who they are, too
    adjudicated: bool = False  # where a reviewer settled a task, that answer in the place of the labelers'
    without: tuple[str, ...] = ()  # labelers to leave out, as they are called here


def exported(connection: Connection, project: Project, what: str, wanted: Wanted = Wanted()) -> Iterator[Record]:
    """Records of a kind (a name in ``FILES``), in the order in which they were given."""
    settled = _settled(connection, project, FILES[what], wanted)
    for row in _rows(connection, project, FILES[what], wanted):
        if row.task_id not in settled:
            yield record_of(row, labeler(row, wanted.names))
    yield from settled.values()
    if what == "comparisons":
        yield from _votes(connection, project, wanted)


def check_without(connection: Connection, wanted: Wanted) -> None:
    """Whether ``wanted.without`` names people there are.

    Raises:
        Invalid: it names somebody else; the message says who there is.
    """
    rows = connection.execute(select(users.c.id.label("user_id"), users.c.name.label("user_name")).order_by(users.c.id)).all()
    known = [labeler(row, wanted.names) for row in rows]
    if strangers := [name for name in wanted.without if name not in known]:
        raise Invalid(f"without={strangers[0]}: nobody is called so in this export; there are {', '.join(known) or 'none'}")


def _votes(connection: Connection, project: Project, wanted: Wanted) -> Iterator[Comparison]:
    """The arena's votes; where an answer told who it is, only if asked for (``rejected``)."""
    query = (
        select(battles, users.c.name.label("user_name"))
        .join(users, users.c.id == battles.c.user_id)
        .where(battles.c.project_id == project.id, battles.c.choice.is_not(None))
        .order_by(battles.c.id)
    )
    for row in connection.execute(query):
        who = labeler(row, wanted.names)
        if who not in wanted.without and (wanted.rejected or not row.leaked):
            yield arena.comparison(row, who)


def left_out(connection: Connection, project: Project) -> int:
    """How many votes of the arena are exported only if asked for, because an answer says which model it is."""
    told = (battles.c.project_id == project.id, battles.c.choice.is_not(None), battles.c.leaked)
    return int(connection.execute(select(func.count()).select_from(battles).where(*told)).scalar_one())


def record_of(row: Any, who: str) -> Record:
    """A label with its task as a native record; what the format has no field for stays beside it, as ``label_task`` and so on."""
    prompt, value = prompt_of(row.prompt), row.value
    extra = {"task": row.task_id, "kind": row.kind, "instructions": row.instructions, "created": round(row.created, 3)}
    extra = {OWN + name: given for name, given in extra.items()}
    if value.get("note"):
        extra[OWN + "note"] = value["note"]
    if row.kind == "prompt":
        return written_prompt(row.task_id, value, who, {**extra, OWN + "seconds": row.seconds})
    if row.kind == "write":
        extra |= {"labeler": who, OWN + "seconds": row.seconds}
        return Demonstration(_with(prompt, extra), value["text"])
    answers = {"id": prompt.id, "messages": [], "completions": row.completions, "ranks": value["ranks"]}
    completions = parse_comparison({**answers, "messages": row.prompt["messages"]}, f"task {row.task_id}").completions
    ratings = value["ratings"]
    return Comparison(
        prompt, completions, tuple(value["ranks"]), labeler=who, ratings=tuple(ratings) if None not in ratings else None,
        flags=tuple(tuple(f) for f in value["flags"]), shown_order=tuple(row.shown), seconds=row.seconds, extra=extra,
    )  # fmt: skip


def written_prompt(task_id: int, value: JSON, who: str, extra: JSON) -> Prompt:
    """What a labeler wrote as a prompt; of a few-shot one the examples stand before an open query, as GPT-3 reads them."""
    text = value["text"]
    for example in value["examples"]:
        text += f"\n\n{example['query']}\n{example['response']}"
    fields = {"style": value["style"], **({"examples": value["examples"]} if value["examples"] else {}), **extra}
    messages = (Message("user", text),)
    return Prompt(
        f"written-{task_id}-{who}", messages, user=who, use_case=value["use_case"], source="labeler", extra=fields
    )


def labeler(row: Any, names: bool) -> str:
    """How a labeler is called in an export."""
    return str(row.user_name) if names else f"labeler-{row.user_id}"


def as_csv(records: Iterable[Record]) -> Iterator[str]:
    """The records as lines of CSV with ``COLUMNS``. A cell that a spreadsheet would take for a formula begins with a quote instead."""
    yield _line(COLUMNS)
    for record in records:
        yield _line([neutral(cell) for cell in _cells(record)])


def neutral(cell: Any) -> Any:
    """A text cell that no spreadsheet calculates (OWASP: CSV injection)."""
    if isinstance(cell, str) and (cell.startswith(("\t", "\r")) or cell.lstrip().startswith(FORMULA)):
        return f"'{cell}"
    return cell


def _cells(record: Record) -> list[Any]:
    row = record.to_json()
    turns = "\n\n".join(m["content"] for m in row["messages"])
    if isinstance(record, Demonstration):
        text = record.completion
    else:
        text = "\n\n".join(c.text for c in record.completions) if isinstance(record, Comparison) else ""
    lists = {
        "ranks": " ".join("-" if r is None else str(r) for r in row.get("ranks", ())),
        "ratings": " ".join(map(str, row.get("ratings", ()))),
        "flags": " | ".join(", ".join(f) for f in row.get("flags", ())), "shown_order": " ".join(map(str, row.get("shown_order", ()))),
    }  # fmt: skip
    own = {name: row.get(OWN + name) for name in ("kind", "note", "instructions", "created")}
    own["seconds"] = row.get("seconds" if isinstance(record, Comparison) else OWN + "seconds")
    known = {**row, **lists, **own, "prompt": turns, "text": text, "labeler": row.get("labeler", row.get("user"))}
    return [known.get(name) for name in COLUMNS]


def _line(cells: Sequence[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _with(prompt: Prompt, extra: JSON) -> Prompt:
    return Prompt(prompt.id, prompt.messages, prompt.user, prompt.use_case, prompt.source, {**prompt.extra, **extra})


def _rows(connection: Connection, project: Project, kinds: Sequence[str], wanted: Wanted) -> Iterator[Any]:
    query = (
        select(labels, tasks.c.kind, tasks.c.prompt, tasks.c.completions, assignments.c.shown)
        .add_columns(users.c.name.label("user_name"), reviews.c.accepted)
        .join(tasks, tasks.c.id == labels.c.task_id)
        .join(assignments, assignments.c.id == labels.c.assignment_id)
        .join(users, users.c.id == labels.c.user_id)
        .outerjoin(reviews, reviews.c.label_id == labels.c.id)
        .where(labels.c.project_id == project.id, labels.c.withdrawn.is_(None), tasks.c.kind.in_(kinds))
        .where(tasks.c.purpose.in_(_purposes(wanted)))
        .order_by(labels.c.id)
    )
    for row in connection.execution_options(yield_per=1000).execute(query):
        if (row.accepted is not False or wanted.rejected) and labeler(row, wanted.names) not in wanted.without:
            yield row


def _purposes(wanted: Wanted) -> tuple[str, ...]:
    return ("label", "gold") if wanted.gold else ("label",)


def _settled(connection: Connection, project: Project, kinds: Sequence[str], wanted: Wanted) -> dict[int, Record]:
    """The reviewers' own answers by task, if they are wanted."""
    if not wanted.adjudicated:
        return {}
    query = (
        select(adjudications, tasks.c.kind, tasks.c.prompt, tasks.c.completions, users.c.name.label("user_name"))
        .join(tasks, tasks.c.id == adjudications.c.task_id)
        .join(users, users.c.id == adjudications.c.user_id)
        .where(tasks.c.project_id == project.id, tasks.c.kind.in_(kinds), tasks.c.purpose.in_(_purposes(wanted)))
        .order_by(adjudications.c.task_id)
    )
    out: dict[int, Record] = {}
    for row in connection.execute(query):
        whole = SimpleNamespace(**row._mapping, instructions=0, seconds=0.0, shown=range(len(row.completions)))
        out[row.task_id] = record_of(whole, f"adjudicated by {labeler(row, wanted.names)}")
    return out
