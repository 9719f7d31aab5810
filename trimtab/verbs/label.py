"""``trimtab label``: serve the app, add tasks, export labels, measure agreement, choose what is labelled next, people, backup."""

import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import func, select

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.files import check_writable, write_text
from trimtab.data.files import write_records
from trimtab.data.formats import ReadSettings, scan
from trimtab.label.accounts import ROLES, create_user, find_user, new_link
from trimtab.label.errors import Missing
from trimtab.label.export import FILES, Wanted, as_csv, exported, left_out
from trimtab.label.jobs import Answerer
from trimtab.label.projects import Project, all_projects, create_project, find_project
from trimtab.label.served import LOOPBACK, Served
from trimtab.label.store import Store, back_up, log, open_store, shown
from trimtab.label.tables import users
from trimtab.label.tasks import import_records
from trimtab.records import Record

DATABASE = Field("labels.db", description="the database: a file (SQLite), or postgresql://user@host/name")
PROJECT = Field("", description="the project's name; empty = the only one there is")


class Serve(Settings):
    """Settings of ``trimtab label serve``."""

    database: str = DATABASE
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 = every network (then say url=)")
    port: int = Field(8765, ge=1, le=65535, description="port to listen on")
    url: str = Field("", description="where people reach it, such as https://label.example.org; empty = http://127.0.0.1:PORT")
    certificate: str = Field("", description="file with the TLS certificate (PEM), for https without a proxy in front")
    key: str = Field("", description="file with the certificate's private key (PEM)")
    models: dict[str, str] = Field({}, description="models to connect, for sampling and the arena, such as {sft: runs/sft, ppo: runs/ppo}")
    max_tokens: int = Field(256, ge=1, description="longest answer of a connected model, tokens")
    temperature: float = Field(1.0, gt=0, description="sampling temperature of connected models")


class Add(Settings):
    """Settings of ``trimtab label add``."""

    database: str = DATABASE
    data: str = Field("", description="prompts, demonstrations or answers, a file of records")
    project: str = Field("", description="the project's name; begun if there is none of this name")
    purpose: Literal["label", "gold", "screening"] = Field(
        "label", description="label = to be labelled; gold, screening = with known answers, mixed in or for onboarding"
    )
    overlap: int = Field(0, ge=0, le=50, description="labelers who see each task; 0 = the project's own number")


class Export(Settings):
    """Settings of ``trimtab label export``."""

    database: str = DATABASE
    project: str = PROJECT
    out: str = Field("labels", description="folder for demonstrations.jsonl, comparisons.jsonl and prompts.jsonl")
    overwrite: bool = Field(False, description="replace an earlier export in the folder")
    csv: bool = Field(False, description="the same as .csv for spreadsheets, too")
    names: bool = Field(False, description="log-in names in the place of labeler-NUMBER")
    gold: bool = Field(False, description="gold items, too")
    rejected: bool = Field(False, description="labels that a reviewer rejected, too")
    adjudicated: bool = Field(False, description="for settled tasks the reviewers' answer in the place of the labelers'")
    without: list[str] = Field([], description="labelers to leave out, as they are called in the file")


class Agreement(Settings):
    """Settings of ``trimtab label agreement``."""

    database: str = DATABASE
    project: str = PROJECT


class Person(Settings):
    """Settings of ``trimtab label user``."""

    database: str = DATABASE
    name: str = Field("", description="what they log in with")
    role: Literal["admin", "researcher", "reviewer", "labeler"] = Field("labeler", description=f"one of {', '.join(ROLES)}")
    shown: str = Field("", description="the name that others read; empty = the log-in name")
    url: str = Field("http://127.0.0.1:8765", description="where people reach the app: what the link begins with")


class Backup(Settings):
    """Settings of ``trimtab label backup``."""

    database: str = DATABASE
    out: str = Field("labels-backup.db", description="file to write; it must not exist")


class Model:
    """A model folder as the app's ``Answerer``: loaded when it is first asked, one call at a time."""

    def __init__(self, folder: str, max_tokens: int, temperature: float) -> None:
        import threading

        from trimtab.models.load import model_folder

        self.folder, self.max_tokens, self.temperature = model_folder(folder), max_tokens, temperature
        self._turn = threading.Lock()
        self._parts: Any = None

    def answers(self, prompts: Sequence[Any], k: int, seed: int) -> list[list[Any]]:
        """See ``Answerer``."""
        from trimtab.sampling.protocol import SamplingOptions
        from trimtab.verbs.sample import completion

        with self._turn:
            engine, renderer, room = self._parts = self._parts or self._load()
            tokens = [renderer.prompt(prompt) for prompt in prompts]
            if (over := max(map(len, tokens), default=0) - room) > 0:
                raise UserError(f"a prompt is {over} tokens too long for {self.folder}")
            options = SamplingOptions(max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)
            rows = engine.sample(tokens, k, options, [prompt.id for prompt in prompts])
        return [[completion(sample, renderer, self.folder.parent.name, ()) for sample in row] for row in rows]

    def _load(self) -> Any:
        from trimtab.data.template import Renderer
        from trimtab.models.load import load_policy, load_tokenizer, max_positions
        from trimtab.sampling.engine import NativeEngine

        policy, tokenizer = load_policy(self.folder), load_tokenizer(self.folder)
        renderer = Renderer(tokenizer, template="chat" if tokenizer.chat_template else "plain")
        return NativeEngine(policy, renderer.end_id), renderer, max_positions(policy) - self.max_tokens


def serve(config: Serve) -> None:
    """Runs the app until Ctrl-C; the first start makes an admin and prints the one-time link.

    Raises:
        UserError: an option is wrong, or the port is taken.
    """
    import uvicorn

    from trimtab.label.app import build

    served = prepare(config)
    print(f"trimtab label: {served.url} on {shown(config.database)}", flush=True)
    first_link(served)
    server = uvicorn.Server(
        uvicorn.Config(
            build(served), host=config.host, port=config.port, log_level="warning", server_header=False, access_log=False,
            ssl_certfile=config.certificate or None, ssl_keyfile=config.key or None, timeout_graceful_shutdown=5,
        )
    )  # fmt: skip
    try:
        server.run()
    except SystemExit:
        raise UserError(f"port {config.port} on {config.host} cannot be had; choose another with port=NUMBER") from None
    finally:
        served.store.close()
    if not server.started:
        raise UserError(f"port {config.port} on {config.host} cannot be had; choose another with port=NUMBER")


def prepare(config: Serve) -> Served:
    """The database and models behind the app.

    Raises:
        UserError: an option is wrong.
    """
    local = config.host in ("127.0.0.1", "localhost", "::1")
    if not config.url and not local:
        raise UserError(f"host={config.host} is open to others: say url=https://NAME, by which they reach it")
    if bool(config.certificate) != bool(config.key):
        raise UserError("certificate= and key= go together")
    if config.certificate:
        _try_certificate(config.certificate, config.key)
    scheme = "https" if config.certificate else "http"
    url = config.url or f"{scheme}://{LOOPBACK[0]}:{config.port}"
    models: dict[str, Answerer] = {n: Model(folder, config.max_tokens, config.temperature) for n, folder in config.models.items()}
    return Served(open_store(config.database, create=True), url, models)


def _try_certificate(certificate: str, key: str) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:
        raise UserError(f"certificate={certificate} key={key}: cannot be used ({error.strerror or error})") from None


def first_link(served: Served) -> None:
    """Prints the link by which the first admin sets a password, as long as nobody has one."""
    with served.store.write() as connection:
        if connection.execute(select(func.count()).select_from(users).where(users.c.password.is_not(None))).scalar_one():
            return
        found = connection.execute(select(users.c.id).where(users.c.role == "admin")).scalar()
        token = new_link(connection, found if found is not None else create_user(connection, "admin", "admin", "Admin"))
    print(f"first log-in, once, as admin: {served.url}/setup/{token}", flush=True)


def add(config: Add) -> str:
    """Records -> tasks of a project.

    Raises:
        UserError: a row cannot be a task; then nothing is added.
    """
    if not config.data or not config.project:
        raise UserError("label add needs a file and a project: trimtab label add DATABASE FILE project=NAME")
    records: list[tuple[str, Record | UserError]] = []
    for found in scan(config.data, ReadSettings()):
        records += [(found.where, record) for record in ((found.error,) if found.error else found.records)]
    store = open_store(config.database, create=True)
    with store.write() as connection:
        try:
            project = find_project(connection, config.project)
        except Missing:
            create_project(connection, config.project)
            project = find_project(connection, config.project)
        done = import_records(connection, project, records, purpose=config.purpose, overlap=config.overlap or None)
        if done.problems:
            more = f" (and {len(done.problems) - 1} more)" if done.problems[1:] else ""
            raise UserError(f"nothing was added: {done.problems[0]}{more}")
        log(connection, None, "import", project=project.name, file=Path(config.data).name, added=done.added, purpose=config.purpose)
    store.close()
    kinds = ", ".join(f"{kind} {n}" for kind, n in done.kinds.items()) or "none"
    also = f"; {done.repeated} were there already" if done.repeated else ""
    same = f"; {done.same_answers} answers left out that read like another" if done.same_answers else ""
    alike = f"; {done.alike} prompts left out, all their answers read the same" if done.alike else ""
    return f"{config.project}: {done.added} tasks added ({kinds}){also}{same}{alike}"


def export(config: Export) -> str:
    """Labels -> files of native records, complete or absent.

    Raises:
        UserError: an earlier export is in the folder and ``overwrite`` is not set, or the folder cannot be written.
    """
    store = open_store(config.database)
    project = chosen(store, config.project)
    wanted = Wanted(config.names, config.gold, config.rejected, config.adjudicated, tuple(config.without))
    folder = Path(config.out)
    files = [folder / f"{what}.{form}" for what in FILES for form in ("jsonl", "csv")]
    for file in files:
        check_writable(file, overwrite=config.overwrite)
    lines = []
    with store.read() as connection:
        found = {what: list(exported(connection, project, what, wanted)) for what in FILES}
        told = left_out(connection, project) if not wanted.rejected else 0
    store.close()
    for what, records in found.items():
        if records:
            write_records(folder / f"{what}.jsonl", records)
            files.remove(folder / f"{what}.jsonl")
            if config.csv:
                write_text(folder / f"{what}.csv", "".join(as_csv(records)))
                files.remove(folder / f"{what}.csv")
            lines.append(f"{folder / what}.jsonl: {len(records)} {what}")
    for file in files:  # of an earlier export: it had what this one has not
        file.unlink(missing_ok=True)
    if told:
        lines.append(f"left out: {told} votes of the arena in which an answer says which model it is (rejected=true takes them)")
    return "\n".join(lines) or f"{project.name}: no labels yet"


def agreement(config: Agreement) -> str:
    """How alike people label, as a table."""
    from trimtab.label.progress import workers

    store = open_store(config.database)
    project = chosen(store, config.project)
    with store.read() as connection:
        people, agreed = workers(connection, project)
    store.close()
    rows = [
        ("two labelers order a pair alike", agreed.alike.percent()), ("raw agreement on pairs", agreed.raw.percent()),
        ("Gwet's AC1, pairs", agreed.ac1.text()), ("Krippendorff's alpha, ranks", agreed.alpha.text()),
        ("Krippendorff's alpha, ratings", agreed.ratings.text()), ("ties", agreed.ties.percent()),
        ("first-shown answer wins", agreed.position.share.percent() + (" BIAS" if agreed.position.biased else "")),
    ]  # fmt: skip
    lines = [f"{name:<34}{value}" for name, value in rows]
    lines += ["", f"{'labeler':<20}{'labels':>7}{'seconds':>9}   {'with others':<28}{'known answers':<28}"]
    for p in people:
        marks = "  ".join(p.alarms)
        lines.append(f"{p.name:<20}{p.labels:>7}{p.seconds:>9.0f}   {p.agreement.percent():<28}{p.gold.percent():<28}{marks}")
    return "\n".join(lines)


def user(config: Person) -> str:
    """A new account, or a new link for one that exists; returns the link.

    Raises:
        UserError: there is no name, or somebody of this name has another role.
    """
    if not config.name:
        raise UserError("label user needs a name: trimtab label user DATABASE NAME role=labeler")
    store = open_store(config.database, create=True)
    with store.write() as connection:
        try:
            found = find_user(connection, config.name)
            if "role" in config.model_fields_set and config.role != found.role:
                advice = "for a new link leave role= out, for another role open People in the app"
                raise UserError(f"{config.name} is there already, as {found.role}; {advice}")
            person = int(found.id)
        except Missing:
            person = create_user(connection, config.name, config.role, config.shown)
        token = new_link(connection, person)
        log(connection, None, "new link", of=person)
    store.close()
    return f"{config.name} sets a password, once, at {config.url.rstrip('/')}/setup/{token}"


def backup(config: Backup) -> str:
    """A copy of an SQLite database in use."""
    began = time.monotonic()
    store = open_store(config.database)
    path = back_up(store, config.out)
    store.close()
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - began:.1f} s"


def chosen(store: Store, name: str) -> Project:
    """The project called ``name``, or the only one.

    Raises:
        UserError: there is none of that name, or several and no name.
    """
    with store.read() as connection:
        if name:
            return find_project(connection, name)
        every = all_projects(connection)
    if len(every) != 1:
        names = ", ".join(p.name for p in every) or "none; trimtab label add begins one"
        raise UserError(f"say project=NAME (there are: {names})")
    return every[0]
