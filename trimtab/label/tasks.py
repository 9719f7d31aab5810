"""Records -> tasks: what is written, ranked and compared, what is known already, and in which order it is handed out."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, and_, bindparam, case, func, insert, select, update

from trimtab.common.errors import UserError
from trimtab.label.errors import Invalid
from trimtab.label.projects import Project
from trimtab.label.tables import assignments, tasks
from trimtab.label.values import MOST_ANSWERS, STYLES, check_json, clean, dense
from trimtab.records import JSON, Comparison, Completion, Demonstration, Prompt, Record, parse_prompt

PURPOSES = ("label", "gold", "screening")
LIVE = ("leased", "done")
MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the records: nothing is added where there is a problem."""

    added: int = 0
    repeated: int = 0  # in the project already, or twice in the file
    problems: tuple[str, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    same_answers: int = 0  # answers left out because another one of the task reads the same
    alike: int = 0  # prompts left out because all their answers read the same: there is nothing to order


def import_records(
    connection: Connection, project: Project, records: Iterable[tuple[str, Record | UserError]], *, purpose: str = "label",
    overlap: int | None = None,
) -> Imported:  # fmt: skip
    """Adds a task for each record: prompts are written for, comparisons ranked (two answers: compared). All of them, or none.

    ``records`` are (where it stands, the record or why it cannot be read), as a file gives them.
    """
    assert purpose in PURPOSES, purpose
    rows: list[JSON] = []
    problems: list[str] = []
    same = alike = 0
    for where, record in records:
        try:
            if isinstance(record, UserError):
                raise record
            if isinstance(record, Comparison) and len({c.text.strip() for c in record.completions}) < 2:
                alike += 1
                continue
            row, left_out = task_of(record, purpose)
        except UserError as error:
            problems.append(str(error) if str(error).startswith(where) else f"{where}: {error}")
            continue
        same += left_out
        rows.append(row)
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        return Imported(problems=(*problems[:MOST_PROBLEMS], *more))
    return replace(_add(connection, project, rows, purpose, overlap), same_answers=same, alike=alike)


def task_of(record: Record, purpose: str) -> tuple[JSON, int]:
    """A record as a task's row, and how many equal answers were left out.

    Raises:
        Invalid: it cannot be a task of this purpose.
    """
    if isinstance(record, Prompt | Demonstration):
        if purpose != "label":
            raise Invalid(f"a {purpose} item has a known answer: completions with ranks")
        prompt = record if isinstance(record, Prompt) else record.prompt
        return {**_prompt_fields(prompt), "kind": "write", "completions": [], "known": None}, 0
    kept, left_out = _distinct(record)
    if not 2 <= len(kept.completions) <= MOST_ANSWERS:
        raise Invalid(f"{len(kept.completions)} different answers; a task has 2 to {MOST_ANSWERS}")
    known = None
    if purpose != "label":
        if not kept.pairs():
            raise Invalid(f"a {purpose} item has ranks by which at least one answer is better than another")
        known = {"ranks": dense(kept.ranks), "flags": [list(f) for f in kept.flags] if kept.flags else None}
    for completion in kept.completions:
        clean(completion.text, "an answer", 10**6)
    answers = [c.to_json() for c in kept.completions]
    check_json(answers, "an answer", 16 * 10**6)
    kind = "compare" if len(answers) == 2 else "rank"
    return {**_prompt_fields(kept.prompt), "kind": kind, "completions": answers, "known": known}, left_out


def add_prompt_tasks(
    connection: Connection,
    project: Project,
    number: int,
    styles: Mapping[str, float],
    mix: Mapping[str, float],
    overlap: int = 1,
) -> int:
    """``number`` requests to write a prompt, styles and use cases dealt in their shares.

    Raises:
        Invalid: an unknown style, or shares that are all 0.
    """
    if unknown := set(styles) - set(STYLES):
        raise Invalid(f"style {sorted(unknown)[0]}: write {', '.join(STYLES)}")
    already = select(func.count()).select_from(tasks).where(tasks.c.project_id == project.id, tasks.c.kind == "prompt")
    begun = int(connection.execute(already).scalar_one())
    rows: list[JSON] = []
    cases = dealt(mix or {"other": 1.0}, number)
    for i, (style, use_case) in enumerate(zip(dealt(styles, number), cases, strict=True), begun + 1):
        messages = [{"role": "user", "content": ""}]
        row = {"id": f"prompt-{i}", "messages": messages, "style": style, "use_case": use_case}
        rows.append({"prompt": row, "use_case": use_case, "kind": "prompt", "completions": [], "known": None})
    return _add(connection, project, rows, "label", overlap).added


def dealt(shares: Mapping[str, float], number: int) -> list[str]:
    """``number`` names such that every beginning of the list has the shares as nearly as it can (the largest debt comes next).

    Raises:
        Invalid: no share is above 0.
    """
    total = sum(shares.values())
    if not total > 0 or min(shares.values()) < 0:
        raise Invalid("shares are numbers from 0, and at least one is above it")
    given = dict.fromkeys(shares, 0)
    out = []
    for i in range(number):
        name = max(shares, key=lambda n: (i + 1) * shares[n] / total - given[n])
        given[name] += 1
        out.append(name)
    return out


def order_queue(connection: Connection, project: Project) -> None:
    """Positions by which every beginning of the queue has the project's mix of use cases (in the order of import without one).

    The j-th task of a use case with share s stands at (j + 1/2) / s; use cases that the mix does not name share what it leaves.
    """
    query = (
        select(tasks.c.id, tasks.c.use_case)
        .where(tasks.c.project_id == project.id, tasks.c.purpose == "label")
        .order_by(tasks.c.id)
    )
    rows = list(connection.execute(query))
    mix = project.settings.mix
    seen: Counter[str | None] = Counter()
    rest = max(0.01, 1 - sum(mix.values()))
    places = []
    for i, row in enumerate(rows):
        share = mix.get(row.use_case, rest) if mix else 1.0
        name = row.use_case if row.use_case in mix else None
        places.append({"task": row.id, "place": (seen[name] + 0.5) / max(share, 1e-6) if mix else float(i)})
        seen[name] += 1
    if places:
        connection.execute(
            update(tasks).where(tasks.c.id == bindparam("task")).values(position=bindparam("place")), places
        )


def set_overlap(connection: Connection, task_ids: Sequence[int], overlap: int) -> None:
    """Another number of labelers for tasks; who has labelled one or holds it keeps it, even where they are more than that."""
    for some in batched(task_ids, 500):
        connection.execute(update(tasks).where(tasks.c.id.in_(some)).values(overlap=overlap))
    free_slots(connection, task_ids)


def follow_overlap(connection: Connection, project: Project, overlap: int) -> None:
    """The project's new number for the tasks that had its old one; requests to write a prompt keep theirs."""
    mine = (tasks.c.project_id == project.id, tasks.c.overlap == project.settings.overlap, tasks.c.kind != "prompt")
    set_overlap(connection, connection.execute(select(tasks.c.id).where(*mine)).scalars().all(), overlap)


def close_task(connection: Connection, task_id: int, closed: bool) -> None:
    """Takes a task out of the queue, or puts it back."""
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(closed=closed))
    free_slots(connection, [task_id])


def free_slots(connection: Connection, task_ids: Sequence[int]) -> None:
    """Counts again: slots = overlap less live assignments; none where a task is closed or not handed out by slots."""
    live = (
        select(func.count()).where(assignments.c.task_id == tasks.c.id, assignments.c.state.in_(LIVE)).scalar_subquery()
    )
    open_ = and_(tasks.c.purpose == "label", tasks.c.closed.is_(False), tasks.c.overlap > live)
    for some in batched(sorted(set(task_ids)), 500):
        # PostgreSQL counts in the next statement, which sees what those committed who held the rows till now
        connection.execute(select(tasks.c.id).where(tasks.c.id.in_(some)).order_by(tasks.c.id).with_for_update())
        connection.execute(
            update(tasks).where(tasks.c.id.in_(some)).values(slots=case((open_, tasks.c.overlap - live), else_=0))
        )


def batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """``items`` in parts: no database takes any number of bound values."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def prompt_of(kept: JSON) -> Prompt:
    """A task's prompt as a record."""
    return parse_prompt(kept, f"prompt {kept.get('id')}")


def _add(connection: Connection, project: Project, rows: list[JSON], purpose: str, overlap: int | None) -> Imported:
    number = overlap or project.settings.overlap
    keys = [_key(row) for row in rows]
    present = {k for (k,) in connection.execute(select(tasks.c.key).where(tasks.c.project_id == project.id))}
    last = select(func.coalesce(func.max(tasks.c.position), 0.0)).where(tasks.c.project_id == project.id)
    position = float(connection.execute(last).scalar_one())
    fresh: list[JSON] = []
    for row, key in zip(rows, keys, strict=True):
        if key in present:
            continue
        present.add(key)
        fresh.append({
            **row, "project_id": project.id, "key": key, "purpose": purpose, "overlap": number,
            "slots": number if purpose == "label" else 0, "priority": 0.0, "position": position + len(fresh) + 1, "closed": False,
            "created": time.time(),
        })  # fmt: skip
    if fresh:
        connection.execute(insert(tasks), fresh)
        if project.settings.mix:
            order_queue(connection, project)
    return Imported(len(fresh), len(rows) - len(fresh), (), dict(Counter(row["kind"] for row in fresh)))


def _prompt_fields(prompt: Prompt) -> JSON:
    for message in prompt.messages:
        clean(message.content, "a message", 10**6)
    check_json(prompt.to_json(), "a field of the prompt", 4 * 10**6)
    return {"prompt": prompt.to_json(), "use_case": clean(prompt.use_case, "use_case", 64) if prompt.use_case else None}


def _distinct(record: Comparison) -> tuple[Comparison, int]:
    """The comparison with each text once: nobody can order two answers that read the same."""
    first: dict[str, int] = {}
    for i, completion in enumerate(record.completions):
        first.setdefault(completion.text.strip(), i)
    kept = sorted(first.values())
    completions: tuple[Completion, ...] = tuple(record.completions[i] for i in kept)
    flags = tuple(record.flags[i] for i in kept) if record.flags else None
    smaller = Comparison(record.prompt, completions, tuple(record.ranks[i] for i in kept), flags=flags)
    return smaller, len(record.completions) - len(kept)


def _key(row: JSON) -> str:
    prompt = row["prompt"]
    same = [
        row["kind"],
        prompt["messages"],
        sorted(c["text"] for c in row["completions"]),
        prompt["id"] if row["kind"] == "prompt" else "",
    ]
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
