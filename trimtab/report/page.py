"""Run folders -> report.html: one file, no script, nothing loaded from anywhere, the same in a browser and on paper."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trimtab.common.errors import UserError
from trimtab.common.files import write_text
from trimtab.report import compare, sections
from trimtab.report.checks import warnings_of
from trimtab.report.explain import headline, judge_of, reading_of, steps_of
from trimtab.report.read import Folder, read_folder, text


def write_report(path: Path | str) -> Path:
    """Writes ``report.html`` into the folder of a recipe or of a run and returns its path. It names what is missing.

    Raises:
        UserError: the folder does not exist or holds no run; the page cannot be written.
    """
    folder = read_folder(path)
    out = folder.path / "report.html"
    write_text(out, render("report.html.j2", report_context(folder)))
    return out


def write_comparison(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Writes one page that lays runs or recipes side by side: settings that differ, figures, curves on shared axes.

    Raises:
        UserError: fewer than two folders, or as ``write_report``.
    """
    if len(paths) < 2:
        raise UserError("compare needs at least two run folders: trimtab compare RUN RUN... -o FILE.html")
    folders = [read_folder(path) for path in paths]
    write_text(out, render("compare.html.j2", compare.context(folders)))
    return Path(out)


def report_context(folder: Folder) -> dict[str, Any]:
    """Everything that the template of a report places."""
    evaluation = folder.evaluation
    colors = sections.colors_of(evaluation.models) if evaluation else {}
    trained = [run for run in folder.runs if run.metrics]
    context: dict[str, Any] = {
        "title": text(folder.name, 80),
        "lead": headline(evaluation) if evaluation else [],
        "facts": sections.facts(folder),
        "warnings": [text(w, 400) for w in warnings_of(folder)],
        "steps": steps_of(folder),
        "evaluation": None,
        "frontiers": sections.frontiers(folder, colors),
        "curves": [
            {"stage": text(r.name, 60), "verb": text(r.verb, 40), "charts": sections.curves(r)} for r in trained
        ],
        "figures": [] if folder.is_recipe else sections.run_figures(folder.runs[0]),
        "training_samples": [] if folder.is_recipe or evaluation else sections.training_samples(folder.runs[0]),
        "stages": sections.stage_rows(folder),
        "is_recipe": folder.is_recipe,
        "missing": missing_of(folder),
    }
    if evaluation:
        context["evaluation"] = {
            "judge": judge_of(evaluation),
            "baseline": evaluation.title_of(evaluation.baseline),
            "prompts": evaluation.prompts,
            "answers_each": evaluation.answers_each,
            "source": evaluation.source,
            "table": sections.table(
                evaluation.models, evaluation.baseline, evaluation.title_of(evaluation.baseline), colors, evaluation.source
            ),
            "paired": sections.paired_charts(evaluation, colors),
            "reading": reading_of(evaluation),
            "reward_model": sections.reward_model(evaluation),
            "samples": sections.side_by_side(evaluation, colors),
        }
    return context


def missing_of(folder: Folder) -> list[str]:
    """What this report would show if it were there, besides what reading it brought up."""
    out = list(folder.notes)
    evaluation = folder.evaluation
    if folder.is_recipe and evaluation is None:
        out.append("no evaluation yet: the table of results and the samples will stand here when it has run")
    if evaluation is not None:
        if not evaluation.samples:
            out.append("the evaluation's samples.jsonl: no samples can be shown")
        if not evaluation.reward_model:
            out.append("figures of the reward model on held-out rankings")
    out += [f"{run.name}: no metrics" for run in folder.runs if run.verb in TRAINING and not run.metrics]
    return [text(note, 300) for note in dict.fromkeys(out)]


TRAINING = ("pretrain", "sft", "reward", "dpo", "kto", "triplet", "slic", "orpo", "simpo", "ppo")


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from its template, with the style sheet inside and a policy that allows this style sheet only."""
    environment = _environment()
    style = environment.loader.get_source(environment, "style.css")[0].strip()  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    # our own file, not input; a style element ends only at its closing tag, which it does not hold
    assert "</" not in style
    return environment.get_template(template).render(context, style=Markup(style), policy=policy)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("trimtab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
