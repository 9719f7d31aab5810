"""``trimtab label``: serve the app, add tasks, export labels, measure agreement, choose what is labelled next, people, backup."""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from trimtab.label.export import FILES, Wanted, as_csv, check_without, exported, left_out
from trimtab.label.jobs import Answerer
from trimtab.label.projects import Project, all_projects, create_project, find_project
from trimtab.label.served import LOOPBACK, Served, check_url
from trimtab.label.store import Store, back_up, log, open_store, recalled, remember, shown
from trimtab.label.tables import users
from trimtab.label.tasks import import_records
from trimtab.records import Record

DATABASE = Field("labels.db", description="the database: a file (SQLite), or postgresql://user@host/name")
CREATE = Field(False, description="begin the database if there is none (label serve does so by itself)")
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
    temperature: float = Field(1.0, ge=1e-3, description="sampling temperature of connected models")  # protocol.LEAST_TEMPERATURE


class Add(Settings):
    """Settings of ``trimtab label add``."""

    database: str = DATABASE
    create: bool = CREATE
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
    create: bool = CREATE
    name: str = Field("", description="what they log in with")
    role: Literal["admin", "researcher", "reviewer", "labeler"] = Field("labeler", description=f"one of {', '.join(ROLES)}")
    shown: str = Field("", description="the name that others read; empty = the log-in name")
    url: str = Field("", description="where people reach the app, with which the link begins; empty = where it was served last")


class Backup(Settings):
    """Settings of ``trimtab label backup``."""

    database: str = DATABASE
    out: str = Field("labels-backup.db", description="file to write; it must not exist")


class Model:
    """A model folder as the app's ``Answerer``: loaded when it is first asked, one call at a time."""

    def __init__(self, folder: str, max_tokens: int, temperature: float) -> None:
        import threading

        from trimtab.models.load import model_folder, position_limit

        self.limit = position_limit(folder)  # no such model: said at the start, not to the first who asks
        self.folder, self.max_tokens, self.temperature = model_folder(folder), max_tokens, temperature
        self._turn = threading.Lock()
        self._parts: Any = None

    def answers(self, prompts: Sequence[Any], k: int, seed: int) -> list[list[Any]]:
        """See ``Answerer``."""
        from trimtab.sampling.protocol import SamplingOptions
        from trimtab.verbs.sample import completion

        with self._turn:
            engine, renderer = self._parts = self._parts or self._load()
            tokens = [renderer.prompt(prompt) for prompt in prompts]
            rows: dict[int, Any] = {}
            rooms = [min(self.max_tokens, self.limit - len(ids)) for ids in tokens]  # what the model's context leaves for an answer
            for room in sorted(set(rooms)):
                some = [i for i, own in enumerate(rooms) if own == room]
                if room < 1:
                    raise UserError(
                        f"prompt {prompts[some[0]].id} has {len(tokens[some[0]])} tokens; {self.folder} reads {self.limit} together with "
                        f"the answer, and max_tokens={self.max_tokens} is cut to what is left: shorten the prompt"
                    )
                options = SamplingOptions(max_tokens=room, temperature=self.temperature, seed=seed)
                found = engine.sample([tokens[i] for i in some], k, options, [prompts[i].id for i in some])
                rows |= dict(zip(some, found, strict=True))
        return [[completion(sample, renderer, self.folder.parent.name, ()) for sample in rows[i]] for i in range(len(prompts))]

    def _load(self) -> Any:
        from trimtab.data.template import Renderer
        from trimtab.models.load import load_policy, load_tokenizer
        from trimtab.sampling.engine import NativeEngine

        policy, tokenizer = load_policy(self.folder), load_tokenizer(self.folder)
        renderer = Renderer(tokenizer, template="chat" if tokenizer.chat_template else "plain")
        return NativeEngine(policy, renderer.end_id), renderer


def serve(config: Serve) -> None:
    """Runs the app until Ctrl-C; the first start makes an admin and prints the one-time link.

    Raises:
        UserError: an option is wrong, or the port is taken.
    """
    import uvicorn

    from trimtab.label.app import build

    check(config)
    with listening(config.host, config.port) as door:  # first: a port that is taken leaves no database and no link behind
        served = prepare(config)
        print(f"trimtab label: {served.url} on {shown(config.database)}", flush=True)
        first_link(served)
        server = uvicorn.Server(
            uvicorn.Config(
                build(served), log_level="warning", server_header=False, access_log=False, ssl_certfile=config.certificate or None,
                ssl_keyfile=config.key or None, timeout_graceful_shutdown=5,
            )
        )  # fmt: skip
        try:
            server.run(sockets=[door])
        finally:
            served.store.close()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on the port.

    Raises:
        UserError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"host={host}: no address of this machine ({error.strerror or error})") from None
    with door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just closed can be had again
        try:
            door.bind(address)
            door.listen(2048)
        except OSError as error:
            raise UserError(
                f"port {port} on {host} cannot be had ({error.strerror or error}); choose another with port=NUMBER"
            ) from None
        yield door


def check(config: Serve) -> None:
    """Whether the options fit together.

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
    check_url(address_of(config))


def address_of(config: Serve) -> str:
    """Where people reach the app: ``url=``, or this machine's own address."""
    scheme = "https" if config.certificate else "http"
    return config.url or f"{scheme}://{LOOPBACK[0]}:{config.port}"


def prepare(config: Serve) -> Served:
    """The database and models behind the app; the database remembers where people reach it, for later links.

    Raises:
        UserError: there is no such model, or the database cannot be opened.
    """
    models: dict[str, Answerer] = {n: Model(folder, config.max_tokens, config.temperature) for n, folder in config.models.items()}
    served = Served(open_store(config.database, create=True), address_of(config), models)
    with served.store.write() as connection:
        remember(connection, "url", served.url)
    return served


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
        admin = found if found is not None else create_user(connection, "admin", "admin", "Admin")
        token = new_link(connection, admin, keep=True)  # a server that runs already printed one, which still opens
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
    store = open_store(config.database, create=config.create)
    begun = ""
    with store.write() as connection:
        try:
            project = find_project(connection, config.project)
        except Missing:
            begun = " (a new project)"
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
    return f"{config.project}{begun}: {done.added} tasks added ({kinds}){also}{same}{alike}"


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
        check_without(connection, wanted)
        found = {what: list(exported(connection, project, what, wanted)) for what in FILES}
        told = left_out(connection, project) if not wanted.rejected else 0
    with store.write() as connection:
        log(connection, None, "export", project=project.name, **{what: len(records) for what, records in found.items()})
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
    store = open_store(config.database, create=config.create)
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
        url = config.url or recalled(connection, "url") or f"http://{LOOPBACK[0]}:{Serve().port}"
    store.close()
    return f"{config.name} sets a password, once, at {url.rstrip('/')}/setup/{token}"


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
