"""What the running app knows: its database, the address people reach it by, and the models that were connected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from trimtab.common.errors import UserError
from trimtab.label.jobs import Answerer, Jobs
from trimtab.label.store import Store

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Served:
    """One running app. ``url`` is where people reach it, such as ``https://label.example.org``."""

    store: Store
    url: str
    models: Mapping[str, Answerer] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=Jobs)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise UserError(f"url={self.url}: write the address people use, such as https://label.example.org")

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
        """Host names, with ports, by which the server answers."""
        host = urlsplit(self.url).netloc.lower()
        name, _, port = host.rpartition(":")
        if name in LOOPBACK:
            return frozenset(f"{local}:{port}" for local in LOOPBACK)
        return frozenset({host})

    @property
    def origins(self) -> frozenset[str]:
        """Where its own pages come from."""
        scheme = urlsplit(self.url).scheme
        return frozenset(f"{scheme}://{host}" for host in self.hosts)
