"""What every answer carries and every request must fit: a strict content policy, no caching, known host names, limits on bodies."""

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT = 1 << 20
UPLOAD_LIMIT = 64 << 20
UPLOADS = ("/import", "/sample")  # the routes by which files come

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Fence:
    """ASGI middleware around everything, pages of errors too.

    Args:
        hosts: names by which this server is called, with their ports; others are refused (DNS rebinding).
        secure: whether people reach it by https; then browsers are told to do nothing else.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], secure: bool) -> None:
        self.small = RequestBodyLimitMiddleware(app, BODY_LIMIT)
        self.large = RequestBodyLimitMiddleware(app, UPLOAD_LIMIT)
        self.hosts, self.secure = hosts, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.small(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(scope, message)
            await send(message)

        if Headers(scope=scope).get("host", "").lower() not in self.hosts:
            await PlainTextResponse("unknown host name; start the server with url=ADDRESS", 400)(
                scope, receive, with_headers
            )
            return
        inner = self.large if scope["path"].endswith(UPLOADS) else self.small
        await inner(scope, receive, with_headers)

    def _add(self, scope: Scope, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "max-age=3600" if scope["path"].startswith("/static/") else "no-store")
        if self.secure:
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")
