"""Researchers' pages about the work: dashboard, tasks, import, export."""

import gzip
import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from sqlalchemy import String, cast, func, select
from starlette.datastructures import UploadFile
from starlette.responses import RedirectResponse, Response, StreamingResponse

from trimtab.common.errors import UserError
from trimtab.data.formats import scan
from trimtab.label import export
from trimtab.label.api import Name, person_of, place_of, store_of
from trimtab.label.arena import standings
from trimtab.label.counts import Counted, counted
from trimtab.label.errors import Invalid
from trimtab.label.headers import UPLOAD_LIMIT
from trimtab.label.pages.door import field, whole_number
from trimtab.label.projects import Project
from trimtab.label.render import page
from trimtab.label.settings import MOST_OVERLAP
from trimtab.label.store import Store, log
from trimtab.label.tables import labels, tasks
from trimtab.label.tasks import PURPOSES, Imported, add_prompt_tasks, import_records
from trimtab.label.values import MOST_ANSWERS, STYLES, clean
from trimtab.records import Prompt, Record, dump

if TYPE_CHECKING:
    from trimtab.label import progress

router = APIRouter(include_in_schema=False)
PAGE = 50
MOST_PROMPTS = 10_000
UNPACKED = 4 * UPLOAD_LIMIT  # bytes of a compressed file once it is not
KEPT_SECONDS = 20  # how long the dashboard's figures are good for
_figures: dict[tuple[int, int], tuple[float, Any]] = {}


@router.get("/p/{name}/dashboard")
def dashboard(request: Request, name: Name) -> Response:
    """Progress, speed, agreement, position bias, alarms."""
    project = place_of(request, name)
    count, people, agreed = figures(store_of(request), project)
    with store_of(request).read() as connection:
        matches = standings(connection, project)
    return page(
        request, "dashboard.html", project=project, count=count, people=people, agreed=agreed, names={p.id: p.shown for p in people},
        matches=matches, votes=sum(m.won + m.tied + m.lost for m in matches), taller=max((n for _, n in count.days), default=0) or 1,
    )  # fmt: skip


def figures(store: Store, project: Project) -> "tuple[Counted, list[progress.Worker], progress.Agreed]":
    """The dashboard's figures, made anew every ``KEPT_SECONDS``."""
    from trimtab.label import progress  # its statistics take seconds to load: who asks for them pays

    key = (id(store), project.id)
    kept = _figures.get(key)
    if kept is None or time.monotonic() - kept[0] > KEPT_SECONDS:
        with store.read() as connection:
            made = (counted(connection, project), *progress.workers(connection, project))
        kept = _figures[key] = (time.monotonic(), made)
    found: tuple[Counted, list[progress.Worker], progress.Agreed] = kept[1]
    return found


@router.get("/p/{name}/tasks")
def tasks_list(request: Request, name: Name, find: str = "", purpose: str = "", start: int = 0) -> Response:
    """The project's tasks, searched by words of their prompts."""
    project, start = place_of(request, name), min(max(0, start), 10**9)
    given = select(func.count()).where(labels.c.task_id == tasks.c.id, labels.c.withdrawn.is_(None)).scalar_subquery()
    query = select(tasks, given.label("given")).where(tasks.c.project_id == project.id)
    if purpose in PURPOSES:
        query = query.where(tasks.c.purpose == purpose)
    if find and "\x00" not in find:
        words = json.dumps(find)[1:-1].replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = query.where(cast(tasks.c.prompt, String).ilike(f"%{words}%", escape="\\"))
    order = (tasks.c.priority.desc(), tasks.c.position, tasks.c.id)
    with store_of(request).read() as connection:
        rows = connection.execute(query.order_by(*order).offset(start).limit(PAGE + 1)).all()
    more = len(rows) > PAGE
    return page(
        request,
        "tasks.html",
        project=project,
        rows=rows[:PAGE],
        find=find,
        purpose=purpose,
        start=start,
        more=more,
        size=PAGE,
        purposes=PURPOSES,
    )


@router.get("/p/{name}/import")
def import_page(
    request: Request, name: Name, added: int = -1, repeated: int = 0, same: int = 0, alike: int = 0
) -> Response:
    """The form, and what the last import did."""
    counts = (added, repeated, same, alike) if 0 <= added < 10**9 else None
    return _import(request, place_of(request, name), counts=counts)


@router.post("/p/{name}/import")
def import_do(request: Request, name: Name) -> Response:
    """A file of records -> tasks; all of them, or none."""
    project = place_of(request, name)
    purpose, overlap = field(request, "purpose") or "label", whole_number(request, "overlap", 1, MOST_OVERLAP)
    if purpose not in PURPOSES or (field(request, "overlap").strip() and overlap is None):
        return _import(request, project, problems=[f"Overlap is a number from 1 to {MOST_OVERLAP}."])
    try:
        shown, records = _uploaded(request)
    except UserError as error:
        return _import(request, project, problems=[str(error)])
    with store_of(request).write() as connection:
        done = import_records(connection, project, records, purpose=purpose, overlap=overlap)
        if not done.problems:
            person = person_of(request).id
            log(connection, person, "import", project=project.name, file=shown, added=done.added, purpose=purpose)
    return _import(request, project, problems=list(done.problems)) if done.problems else _imported(name, done)


@router.post("/p/{name}/sample")
def sample_do(request: Request, name: Name) -> Response:
    """A connected model answers a file's prompts, in the background."""
    project, served, k = place_of(request, name), request.app.state.served, whole_number(request, "k", 2, MOST_ANSWERS)
    model = served.models.get(field(request, "model"))
    if model is None:
        return _import(request, project, problems=["No such model is connected."])
    if k is None:
        return _import(request, project, problems=[f"Write a number of answers from 2 to {MOST_ANSWERS}."])
    try:
        shown, records = _uploaded(request)
        prompts = [_prompt_of(record) for _, record in records]
    except UserError as error:
        return _import(request, project, problems=[str(error)])
    served.jobs.begin(served.store, project, field(request, "model"), model, prompts, k)
    with store_of(request).write() as connection:
        about = {"project": project.name, "file": shown, "model": field(request, "model"), "prompts": len(prompts), "answers": k}
        log(connection, person_of(request).id, "sample", **about)
    return RedirectResponse(f"/p/{name}/import", 303)


def _uploaded(request: Request) -> tuple[str, list[tuple[str, Record | UserError]]]:
    """The file's name, and its records with where they stand, or why they cannot be read.

    Raises:
        UserError: there is no file, or it cannot be read as a whole.
    """
    file = request.state.form.get("file")
    if not isinstance(file, UploadFile) or not file.filename:
        raise Invalid("Choose a file first.")
    known = (".jsonl", ".json", ".csv", ".gz")
    suffix = "".join(s.lower() for s in Path(file.filename).suffixes[-2:] if s.lower() in known)
    packed, suffix = suffix.endswith(".gz"), suffix.removesuffix(".gz") or ".unknown"
    shown = clean(Path(file.filename).name[:80], "the file's name", 80)
    with NamedTemporaryFile(suffix=suffix) as kept:
        if packed:
            _unpack(file.file, kept, shown)
        else:
            shutil.copyfileobj(file.file, kept)
        kept.flush()

        def named(text: str) -> str:
            return text.replace(kept.name, shown).replace(Path(kept.name).name, shown)

        try:
            records: list[tuple[str, Record | UserError]] = []
            for found in scan(kept.name):
                read = (
                    [UserError(named(str(found.error)))] if found.error else [_renamed(r, named) for r in found.records]
                )
                records += [(named(found.where), record) for record in read]
        except UserError as error:
            raise Invalid(named(str(error))) from None
    if not records:
        raise Invalid(f"{shown}: holds no rows")
    return shown, records


def _unpack(packed: IO[bytes], plain: IO[bytes], shown: str) -> None:
    """A gzip file's bytes, as long as they are not made to fill the memory.

    Raises:
        Invalid: they are, or it is no complete gzip file.
    """
    try:
        with gzip.open(packed) as source:
            while part := source.read(1 << 20):
                plain.write(part)
                if plain.tell() > UNPACKED:
                    raise Invalid(f"{shown}: unpacks to more than {UNPACKED >> 20} MB; import it in parts, or with trimtab label add")
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid(f"{shown}: not a complete gzip file ({error})") from None


def _renamed(record: Record, named: Callable[[str], str]) -> Record:
    """A record whose id was made from the temporary file's name gets the uploaded one's."""
    prompt = record if isinstance(record, Prompt) else record.prompt
    fresh = replace(prompt, id=named(prompt.id))
    return fresh if isinstance(record, Prompt) else replace(record, prompt=fresh)


def _prompt_of(record: Record | UserError) -> Prompt:
    if isinstance(record, UserError):
        raise record
    return record if isinstance(record, Prompt) else record.prompt


@router.post("/p/{name}/prompts")
def prompts_do(request: Request, name: Name) -> Response:
    """Requests to write prompts: how many, of which styles, with the project's mix of use cases."""
    project, number = place_of(request, name), whole_number(request, "number", 1, MOST_PROMPTS)
    if number is None:
        return _import(request, project, problems=[f"Write a number of prompts from 1 to {MOST_PROMPTS:,}."])
    styles = {style: 1.0 for style in STYLES if field(request, style)}
    try:
        with store_of(request).write() as connection:
            added = add_prompt_tasks(connection, project, number, styles, project.settings.mix)
            log(connection, person_of(request).id, "ask for prompts", project=project.name, number=added, styles=", ".join(styles))
    except Invalid:
        return _import(request, project, problems=["Choose at least one style."])
    return _imported(name, Imported(added))


@router.get("/p/{name}/export")
def export_page(request: Request, name: Name) -> Response:
    """What can be downloaded."""
    project = place_of(request, name)
    with store_of(request).read() as connection:
        told = export.left_out(connection, project)
    return page(request, "export.html", project=project, files=export.FILES, told=told)


@router.get("/p/{name}/export/{what}.{form}")
def export_file(
    request: Request, name: Name, what: Literal["demonstrations", "comparisons", "prompts"], form: Literal["jsonl", "csv"],
    names: bool = False, gold: bool = False, rejected: bool = False, adjudicated: bool = False,
) -> Response:  # fmt: skip
    """The records, line by line as they are read."""
    project, store = place_of(request, name), store_of(request)
    wanted = export.Wanted(names, gold, rejected, adjudicated)

    def lines() -> Iterator[str]:
        with store.read() as connection:
            records = export.exported(connection, project, what, wanted)
            yield from export.as_csv(records) if form == "csv" else (dump(record) + "\n" for record in records)

    with store.write() as connection:
        log(connection, person_of(request).id, "export", project=project.name, records=what, form=form)
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
    named = {"Content-Disposition": f'attachment; filename="{project.name}-{what}.{form}"'}
    return StreamingResponse(lines(), media_type=kind, headers=named)


def _imported(name: str, done: Imported) -> Response:
    counts = {"added": done.added, "repeated": done.repeated, "same": done.same_answers, "alike": done.alike}
    return RedirectResponse(f"/p/{name}/import?{urlencode(counts)}", 303)


def _import(
    request: Request,
    project: Project,
    *,
    problems: list[str] | None = None,
    counts: tuple[int, int, int, int] | None = None,
) -> Response:
    status = 422 if problems else 200
    jobs = request.app.state.served.jobs.of(project.name)
    return page(request, "import.html", status, project=project, problems=problems or [], counts=counts, jobs=jobs)
