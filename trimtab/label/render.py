"""Text from people and models -> HTML that runs nothing: Jinja2 with autoescape, markdown without HTML, then nh3."""

import functools
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nh3
from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import HTMLResponse

from trimtab.label import threads
from trimtab.label.access import allowed
from trimtab.label.guard import csrf_token, keep_form_token
from trimtab.label.values import to_screen, written_out

if TYPE_CHECKING:
    from trimtab.common.stats import Estimate

TEMPLATES = Path(__file__).parent / "templates"
TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "h3", "h4", "h5", "h6", "a", "table", "thead",
    "tbody", "tr", "th", "td",
}  # fmt: skip
LONGEST_MARKDOWN = 200_000
LONGEST_REMEMBERED = 16_000  # characters; a thousand of them are some 40 MB


def _markdown() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True}).enable(["table", "strikethrough"])
    md.disable("image")  # an image would be fetched from somewhere else
    return md


MARKDOWN = _markdown()


def markdown(text: str) -> Markup:
    """Markdown as safe HTML; each line of the text is a line on the page.

    Headings begin at the third level, links open elsewhere and tell the other site nothing.
    """
    return _remembered(text) if len(text) <= LONGEST_REMEMBERED else rendered(text)


@functools.lru_cache(maxsize=1024)
def _remembered(text: str) -> Markup:
    return rendered(text)


def rendered(text: str) -> Markup:
    """As ``markdown``, of a text that is not shown again."""
    if len(text) > LONGEST_MARKDOWN:
        return Markup("<pre>{}</pre>").format(text)
    html = MARKDOWN.render(text)
    for level, lower in (("2", "4"), ("1", "3")):
        html = html.replace(f"<h{level}>", f"<h{lower}>").replace(f"</h{level}>", f"</h{lower}>")
    clean = nh3.clean(
        html, tags=TAGS, attributes={"a": {"href"}, "ol": {"start"}}, url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow", set_tag_attribute_values={"a": {"target": "_blank"}},
    )  # fmt: skip
    return Markup(clean)


def ago(then: float | None) -> str:
    """``3 minutes ago``."""
    if then is None:
        return "never"
    seconds = max(0.0, time.time() - then)
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"


def share(value: float) -> str:
    """0.734 -> ``73 %``; a dash for what cannot be known."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "-"


def two(value: float) -> str:
    """Two decimals, or a dash."""
    return f"{value:.2f}" if math.isfinite(value) else "-"


def whole(value: float) -> str:
    """A whole number, or a dash."""
    return f"{value:.0f}" if math.isfinite(value) else "-"


def interval(estimate: "Estimate", percent: bool) -> str:
    """``69 % to 78 %`` or ``0.43 to 0.60``; nothing where there are too few values for one."""
    if not math.isfinite(estimate.low):
        return ""
    return " to ".join(map(share if percent else two, (estimate.low, estimate.high)))


def percent_of(estimate: "Estimate") -> str:
    """``73 % (70-76)``."""
    interval = f" ({100 * estimate.low:.0f}-{100 * estimate.high:.0f})" if math.isfinite(estimate.low) else ""
    return share(estimate.value) + interval


ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
ENVIRONMENT.filters |= {
    "markdown": markdown, "ago": ago, "written_out": written_out, "share": share, "two": two, "whole": whole, "percent_of": percent_of,
    "interval": interval, "seen_as": to_screen, "percent": lambda e: share(e.value),
}  # fmt: skip
ENVIRONMENT.globals |= {"LETTERS": "ABCDEFGHI"}

# What a page says after something was done; the address names it, so that no stranger's words can stand there.
SAID = {
    "saved": "Saved.",
    "password": "Your password is changed; other sessions have ended.",
    "sessions": "All other sessions have ended.",
    "sent": "Sent.",
    "reviewed": "Noted.",
    "adjudicated": "The task is settled.",
    "undone": "Your last label is back, as a draft.",
    "passed": "You passed the onboarding; from here on it is the real work.",
    "ready": "Your password is set. Log in with it.",
    "published": "Published; everybody reads it before the next task.",
}


def _fresh(request: Request, project: Any) -> int:
    """How many messages this reviewer or researcher has not read: the number in the navigation."""
    with request.app.state.served.store.read() as connection:
        return sum(threads.fresh(connection, project, request.state.person.id, everything=True).values())


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A rendered page."""
    guarded = hasattr(request.state, "person")
    person = request.state.person if guarded else None
    role = person.role if person else None
    fresh = _fresh(request, context["project"]) if context.get("project") and allowed("review", role) else 0
    context = {
        "person": person, "csrf": csrf_token(request) if guarded else "", "path": request.url.path,
        "status": status,
        "said": SAID.get(request.query_params.get("done", "")), "may": lambda route: allowed(route, role), "project": None,
        "fresh_messages": fresh,
        "models": request.app.state.served.models, **context,
    }  # fmt: skip
    response = HTMLResponse(ENVIRONMENT.get_template(template).render(context), status)
    if guarded:
        keep_form_token(request, response)
    return response
