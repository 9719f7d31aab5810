"""A running server and a real browser on it; why there is none, where there is none."""

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from trimtab.label.app import build
from trimtab.label.served import Served
from trimtab.label.store import Store

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), "")
AXE_VERSION = "4.14.1"


@contextmanager
def running(store: Store, models: dict[str, Any] | None = None) -> Iterator[str]:
    """The app behind a real socket; yields its address."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(build(Served(store, url, models or {})), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright."""
    if not CHROMIUM:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with sync_api.sync_playwright() as p:
        started = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


class Watched:
    """A page of one person, whose every request, error and attempt at running something is noted."""

    def __init__(self, started: Any, url: str, **options: Any) -> None:
        self.url = url
        self.context = started.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("pageerror", lambda e: self.trouble.append(f"error: {e}"))
        self.page.on("dialog", lambda d: (self.trouble.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", self._request)
        self.page.on("console", self._console)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.trouble.append(f"elsewhere: {request.url}")

    def _console(self, message: Any) -> None:
        # a blocked script is a script that got into the page
        if message.type == "error" and ("Refused" in message.text or "Content Security Policy" in message.text):
            self.trouble.append(f"blocked: {message.text}")

    def log_in(self, name: str, password: str) -> None:
        self.page.goto(f"{self.url}/login")
        self.page.fill("input[name=name]", name)
        self.page.fill("input[name=password]", password)
        self.page.click("main button")
        self.page.wait_for_url(f"{self.url}/")

    def keys(self, *keys: str) -> int:
        self.page.wait_for_load_state("load")  # the page's script listens from then on
        for key in keys:
            self.page.keyboard.press(key)
        return len(keys)


def rank_page(watched: Watched, size: int) -> None:
    """Waits for the page of a ranking."""
    watched.page.wait_for_selector(f"text=Rank {size} answers")


def axe() -> str:
    """The source of axe-core, from npm, kept for the next time; a skip where it cannot be had."""
    kept = Path(tempfile.gettempdir()) / f"trimtab-axe-core-{AXE_VERSION}" / "axe.min.js"
    if not kept.exists():
        if not shutil.which("npm"):
            pytest.skip("no npm on this machine: axe-core cannot be had")
        with tempfile.TemporaryDirectory() as folder:
            got = subprocess.run(
                ["npm", "pack", "--silent", f"axe-core@{AXE_VERSION}"],
                cwd=folder,
                capture_output=True,
                timeout=120,
                check=False,
            )
            if got.returncode:
                pytest.skip("axe-core cannot be had from npm")
            subprocess.run(["tar", "xzf", f"axe-core-{AXE_VERSION}.tgz"], cwd=folder, check=True)
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(Path(folder) / "package" / "axe.min.js", kept)
    return kept.read_text(encoding="utf-8")


def serious(page: Any, source: str) -> list[str]:
    """What axe-core calls serious or critical on the page as it stands."""
    # evaluated by the debugger, which no content policy of the page concerns
    page.evaluate(source)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{v['id']} ({v['impact']}): {v['nodes'][0]['html'][:200]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
