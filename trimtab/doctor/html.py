"""The page as one HTML file, without scripts: explanations fold out, and are open where something was found."""

from html import escape
from itertools import groupby

from trimtab.doctor.check import Finding
from trimtab.doctor.examine import Examination
from trimtab.doctor.page import WORDS, verdict

STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
table { border-collapse: collapse; width: 100% } td { vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid #e4e4e4 }
td:first-child { width: 5rem } td:nth-child(2) { width: 12rem } td { overflow-wrap: anywhere }
dl { margin: .3rem 0 0 } dt { font-weight: 600; float: left; clear: left; width: 4.2rem } dd { margin: 0 0 .2rem 4.2rem }
summary { cursor: pointer } .verdict { font-weight: 600 }
.ok { color: #19692c } .warning { color: #8a5a00 } .fail { color: #b3141d; font-weight: 700 } .na { color: #6b6b6b }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #161616 } td { border-color: #333 }
  .ok { color: #6cc481 } .warning { color: #e0ad4a } .fail { color: #ff7b80 } .na { color: #9a9a9a }
}
"""


def html(found: Examination) -> str:
    """The page with every explanation."""
    about = "".join(f"<p><b>{escape(label)}</b> {escape(words)}</p>" for label, words in found.about.items())
    groups = "".join(_group(title, list(findings)) for title, findings in groupby(found.findings, lambda f: f.check.group))
    title = escape(f"trimtab doctor: {found.config.model}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>{about}"
        f'<p class="verdict">{escape(verdict(found).plain)}</p>{groups}</body></html>\n'
    )


def _group(title: str, findings: list[Finding]) -> str:
    return f"<h2>{escape(title)}</h2><table>{''.join(map(_row, findings))}</table>"


def _row(f: Finding) -> str:
    status = f.result.status
    is_open = " open" if status in ("warning", "fail") else ""
    said = f"<details{is_open}><summary>{escape(f.result.found)}</summary>"
    said += f"<dl><dt>means</dt><dd>{escape(f.check.means)}</dd><dt>do</dt><dd>{escape(f.do)}</dd></dl></details>"
    kind = status.replace("/", "")
    name = f'<td class="{"na" if kind == "na" else ""}">{escape(f.check.name)}</td>'
    return f'<tr><td class="{kind}">{WORDS[status]}</td>{name}<td>{said}</td></tr>'
