"""The database as SQLAlchemy Core tables. Migrations build it; a test holds the two together. Times are seconds since 1970."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s", "fk": "fk_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s",
}  # fmt: skip
metadata = MetaData(naming_convention=NAMING)

users = Table(
    "users", metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),  # what one logs in with, lower case
    Column("shown", String(128), nullable=False),  # what others read in threads
    Column("role", String(16), nullable=False),
    Column("password", String(256)),  # argon2id; none before the set-up link was used
    Column("active", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip

links = Table(  # one-time links by which people set their password
    "links", metadata,
    Column("hash", String(64), primary_key=True),  # sha256 of the token: the database alone opens nothing
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("expires", Float, nullable=False),
    Column("used", Float),
)  # fmt: skip

sessions = Table(
    "sessions", metadata,
    Column("hash", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("agent", String(200), nullable=False),
    Column("revoked", Float),
)  # fmt: skip

attempts = Table(  # failed log-ins, by account and by address
    "attempts", metadata,
    Column("key", String(128), primary_key=True),  # user:NAME or address:IP
    Column("failures", Integer, nullable=False),
    Column("since", Float, nullable=False),
    Column("locked_until", Float, nullable=False),
)  # fmt: skip

projects = Table(
    "projects", metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("title", String(200), nullable=False),
    Column("settings", JSON, nullable=False),  # trimtab/label/settings.py
    Column("open", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip

instructions = Table(
    "instructions", metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("author_id", ForeignKey("users.id")),
    Column("created", Float, nullable=False),
    UniqueConstraint("project_id", "version"),
)  # fmt: skip

acknowledgements = Table(
    "acknowledgements", metadata,
    Column("instructions_id", ForeignKey("instructions.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("at", Float, nullable=False),
)  # fmt: skip

onboarding = Table(  # who has passed a project's screening
    "onboarding", metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("passed", Boolean, nullable=False),
    Column("score", Float),  # none where a researcher decided
    Column("at", Float, nullable=False),
)  # fmt: skip

tasks = Table(
    "tasks", metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("key", String(64), nullable=False),  # sha256 of kind, prompt and answers: an import twice adds nothing
    Column("kind", String(16), nullable=False),  # write, rank, compare, prompt
    Column("purpose", String(16), nullable=False),  # label, gold, screening
    Column("prompt", JSON, nullable=False),  # a native prompt record
    Column("completions", JSON, nullable=False),  # native completions; empty for write and prompt
    Column("known", JSON),  # the known answer of gold and screening items
    Column("use_case", String(64)),
    Column("overlap", Integer, nullable=False),  # how many labelers; of no meaning for gold and screening
    Column("slots", Integer, nullable=False),  # overlap less live assignments and labels
    Column("priority", Float, nullable=False),  # higher is handed out first (trimtab label next)
    Column("position", Float, nullable=False),  # then lower: every prefix of the queue has the use-case mix
    Column("closed", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("project_id", "key"),
    CheckConstraint("slots >= 0", name="slots"),
)  # fmt: skip
Index(
    "ix_tasks_queue", tasks.c.project_id, tasks.c.priority.desc(), tasks.c.position, tasks.c.id,
    sqlite_where=text("slots > 0"), postgresql_where=text("slots > 0"),
)  # fmt: skip
Index("ix_tasks_purpose", tasks.c.project_id, tasks.c.purpose)

assignments = Table(
    "assignments", metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("state", String(16), nullable=False),  # leased, expired, skipped, done
    Column("lease", Float, nullable=False),  # until when a leased one is kept
    Column("shown", JSON, nullable=False),  # position on the screen -> index of the completion
    Column("draft", JSON),
    Column("reason", Text),  # why it was skipped
    Column("started", Float, nullable=False),
    UniqueConstraint("task_id", "user_id"),  # nobody twice
)  # fmt: skip
Index("ix_assignments_user", assignments.c.user_id, assignments.c.project_id, assignments.c.state)
Index(
    "ix_assignments_lease", assignments.c.lease,
    sqlite_where=text("state = 'leased'"), postgresql_where=text("state = 'leased'"),
)  # fmt: skip

labels = Table(
    "labels", metadata,
    Column("id", Integer, primary_key=True),
    Column("assignment_id", ForeignKey("assignments.id"), nullable=False, index=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("key", String(64), nullable=False),  # idempotency: the same submission sent twice is one label
    Column("value", JSON, nullable=False),  # trimtab/label/values.py, in the order of the task's completions
    Column("seconds", Float, nullable=False),  # of active time
    Column("instructions", Integer, nullable=False),  # the version that was acknowledged; 0 where there were none
    Column("created", Float, nullable=False),
    Column("withdrawn", Float),  # when it was undone; kept for the record, exported never
    UniqueConstraint("user_id", "key"),
)  # fmt: skip
Index(
    "uq_labels_live", labels.c.task_id, labels.c.user_id, unique=True,
    sqlite_where=text("withdrawn IS NULL"), postgresql_where=text("withdrawn IS NULL"),
)  # fmt: skip
Index("ix_labels_project", labels.c.project_id, labels.c.created)
Index("ix_labels_user", labels.c.user_id, labels.c.project_id, labels.c.created)

messages = Table(  # the shared questions: a thread for each task and one for the project
    "messages", metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("task_id", ForeignKey("tasks.id"), index=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip
Index("ix_messages_project", messages.c.project_id, messages.c.created)

reviews = Table(  # a reviewer's word on one label
    "reviews", metadata,
    Column("label_id", ForeignKey("labels.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("note", Text, nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip

adjudications = Table(  # the answer that a reviewer put in the place of the labelers'
    "adjudications", metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("value", JSON, nullable=False),
    Column("note", Text, nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip

battles = Table(  # the arena: two hidden models' answers to one conversation, and the vote
    "battles", metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("completions", JSON, nullable=False),  # in the order of the models' names
    Column("shown", JSON, nullable=False),  # place on the screen -> index of the completion
    Column("choice", String(8)),  # a, b, tie, bad; none before the vote
    Column("leaked", Boolean, nullable=False),  # an answer names a model: exported only when asked for
    Column("created", Float, nullable=False),
    Column("voted", Float),
)  # fmt: skip
Index("ix_battles_project", battles.c.project_id, battles.c.voted)

reads = Table(  # up to which message somebody has read a thread: a task's, or (task 0) the project's
    "reads", metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("upto", Integer, nullable=False),
)  # fmt: skip

facts = Table(  # about the database itself, such as the address at which it was served last
    "facts", metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

events = Table(  # the journal: who did what when, for things that are not labels
    "events", metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", ForeignKey("users.id")),
    Column("what", String(64), nullable=False),
    Column("details", JSON, nullable=False),
    Column("created", Float, nullable=False, index=True),
)  # fmt: skip
