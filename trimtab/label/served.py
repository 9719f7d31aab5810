"""What the running app knows: its database, the address people reach it by, and the models that were connected."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from trimtab.common.errors import UserError
from trimtab.label.errors import Refused
from trimtab.label.jobs import Answerer, Jobs
from trimtab.label.store import Store

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
PORTS = {"http": 80, "https": 443}  # which browsers leave out
FIGHTS = 8  # people in the arena whom a model answers, or who wait for it, at once


def check_url(url: str) -> str:
    """An address of the app as browsers write it: scheme and host in small letters, nothing behind them.

    Raises:
        UserError: it is not one.
    """
    try:
        parts = urlsplit(url.rstrip("/"))
        right = parts.scheme in PORTS and parts.hostname and not (parts.path or parts.username) and parts.port != 0
    except ValueError:  # a port that is none
        right = False
    if not right:
        raise UserError(f"url={url}: write the address people use, such as https://label.example.org")
    return f"{parts.scheme}://{parts.netloc.lower()}"


@dataclass(frozen=True)
class Served:
    """One running app. ``url`` is where people reach it, such as ``https://label.example.org``."""

    store: Store
    url: str
    models: Mapping[str, Answerer] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=Jobs)
    _fights: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(FIGHTS), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", check_url(self.url))

    @contextmanager
    def fighting(self) -> Iterator[None]:
        """One place in the arena: who waits for a model holds one of the threads that everybody's pages need.

        Raises:
            Refused: all places are taken.
        """
        if not self._fights.acquire(blocking=False):
            raise Refused("many people ask the models at the moment; send it again in a minute")
        try:
            yield
        finally:
            self._fights.release()

    @property
    def secure(self) -> bool:
        """Whether people reach it by https; cookies are sent by nothing else then."""
        return self.url.startswith("https://")

    @property
    def cookie(self) -> str:
        """The session cookie's name; by https one that no other host can set."""
        return "__Host-trimtab" if self.secure else "trimtab"

    @property
    def hosts(self) -> frozenset[str]:
        """Host names by which the server answers, with ports other than the scheme's own."""
        parts = urlsplit(self.url)
        port = "" if parts.port in (None, PORTS[parts.scheme]) else f":{parts.port}"
        name = parts.netloc.removesuffix(f":{parts.port}")
        return frozenset(f"{local}{port}" for local in (LOOPBACK if name in LOOPBACK else (name,)))

    @property
    def origins(self) -> frozenset[str]:
        """Where its own pages come from."""
        scheme = urlsplit(self.url).scheme
        return frozenset(f"{scheme}://{host}" for host in self.hosts)
