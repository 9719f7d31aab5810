"""A PostgreSQL server of its own, on a socket in a temporary folder, for tests and measurements; nothing where it is not installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    if not BINARIES and not shutil.which("initdb"):
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.geteuid() == 0 and not shutil.which("runuser"):
        return "PostgreSQL does not run as root, and runuser is missing"
    return ""


@contextmanager
def server(*, durable: bool = False) -> Iterator[str]:
    """Starts one; yields the URL of its database."""
    folder = Path(tempfile.mkdtemp(prefix="trimtab-pg-"))
    binaries = BINARIES[-1] if BINARIES else Path(shutil.which("initdb") or "").parent
    user = "postgres" if os.geteuid() == 0 else ""
    if user:
        shutil.chown(folder, user)

    def call(*words: str) -> None:
        prefix = ["runuser", "-u", user, "--"] if user else []
        subprocess.run([*prefix, *words], cwd=folder, check=True, capture_output=True)

    data = str(folder / "data")
    try:
        call(str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-instructions")
        options = f"-k {folder} -c listen_addresses='' -c max_connections=200 -c fsync={'on' if durable else 'off'}"
        call(str(binaries / "pg_ctl"), "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql:///postgres?host={folder}&user=postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            call(str(binaries / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
