"""The page: one line for each check, by group; what it means and what to do where something was found."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from trimtab.doctor.check import Finding
from trimtab.doctor.examine import Examination

WORDS = {"ok": "ok", "warning": "warning", "fail": "FAIL", "n/a": "n/a"}
STYLES = {"ok": "green", "warning": "yellow", "fail": "bold red", "n/a": "dim"}
# Columns: the status, the name, what was found; explanations stand below the name.
STATUS, NAME, LABEL = 10, 21, 7
WIDEST = 120


def print_page(found: Examination, console: Console | None = None) -> None:
    """Prints it, at most ``WIDEST`` columns wide; without colours where NO_COLOR is set or the output is no terminal."""
    console = console or Console(highlight=False)
    for line in page(found, console):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def page(found: Examination, console: Console) -> Iterator[Text]:
    """What was examined, the groups, and the verdict, line by line."""
    for label, words in found.about.items():
        yield from _columns(console, [(7, Text(label, "bold"))], Text(words))
    for title, findings in groupby(found.findings, lambda f: f.check.group):
        yield Text()
        yield from _group(console, title, list(findings), found.config.explain)
    yield Text()
    yield from _columns(console, [], verdict(found))


def _group(console: Console, title: str, findings: list[Finding], explain: bool) -> Iterator[Text]:
    reasons = {f.result.found for f in findings if f.result.status == "n/a"}
    if len(reasons) == 1 and all(f.result.status == "n/a" for f in findings) and not explain:
        yield Text(title, "bold") + Text(f": not applicable, {reasons.pop()}", "dim")
        return
    yield Text(title, "bold")
    for f in findings:
        status = f.result.status
        style = STYLES[status] if status == "n/a" else ""
        before = [(STATUS, Text(f"  {WORDS[status]}", STYLES[status])), (NAME, Text(f.check.name, style))]
        yield from _columns(console, before, Text(f.result.found, style))
        if explain or status in ("warning", "fail"):
            for label, words in (("means", f.check.means), ("do", f.do)):
                yield from _columns(console, [(STATUS, Text()), (LABEL, Text(label, "bold"))], Text(words))


def _columns(console: Console, before: list[tuple[int, Text]], last: Text) -> Iterator[Text]:
    """A row whose last column is wrapped; the others are as wide as they say."""
    indent = sum(width for width, _ in before)
    lines = last.wrap(console, max(20, min(console.width, WIDEST) - indent))
    for number, line in enumerate(lines):
        line.rstrip()
        start = Text()
        for width, text in before if number == 0 else []:
            start += text + Text(" " * (width - len(text)))
        yield (start if number == 0 else Text(" " * indent)) + line


def verdict(found: Examination) -> Text:
    """``2 FAIL (pad token, round trip), 1 warning (length bias), 40 ok, 6 not applicable; exit status 1``."""
    counts = found.counts
    parts = []
    for status, words in (("fail", "FAIL"), ("warning", "warning")):
        if n := counts[status]:
            names = ", ".join(f.check.name for f in found.findings if f.result.status == status)
            parts.append(Text(f"{n} {words}{'s' if status == 'warning' and n > 1 else ''} ({names})", STYLES[status]))
    parts += [Text(f"{counts['ok']} ok", STYLES["ok"]), Text(f"{counts['n/a']} not applicable", STYLES["n/a"])]
    return Text(", ").join(parts) + Text(f"; exit status {found.exit_status}")

