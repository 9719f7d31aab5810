"""Runs side by side: what was set differently, how they ended, and every metric they share on the same axes."""

from collections.abc import Sequence
from typing import Any

from trimtab.common.stats import Estimate
from trimtab.report import sections, svg
from trimtab.report.checks import warnings_of
from trimtab.report.curves import charts_of, step_name, unit_of
from trimtab.report.read import Folder, Model, Run, estimates, text
from trimtab.report.svg import COLORS, Line, Whisker


def context(folders: Sequence[Folder]) -> dict[str, Any]:
    """Everything that the template of a comparison places."""
    labels = labels_of(folders)
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    notes = [f"{label}: {note}" for label, f in zip(labels, folders, strict=True) for note in f.notes]
    alarms = [f"{label}: {w}" for label, f in zip(labels, folders, strict=True) for w in warnings_of(f)]
    return {
        "title": f"{len(folders)} runs side by side",
        "runs": [
            {"label": k, "color": colors[k], "facts": sections.facts(f)} for k, f in zip(labels, folders, strict=True)
        ],
        "differences": differences(folders),
        "table": evaluation_table(labels, folders),
        "figures": figure_charts(labels, folders, colors),
        "curves": curves(labels, folders, colors),
        "warnings": [text(w, 400) for w in alarms],
        "missing": [text(n, 300) for n in notes],
    }


def labels_of(folders: Sequence[Folder]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    parts = [folder.path.resolve().parts for folder in folders]
    depth = 1
    while len({p[-depth:] for p in parts}) < len({p for p in parts}) and depth < max(map(len, parts)):
        depth += 1
    names = ["/".join(p[-depth:]) for p in parts]
    return [text(f"{n} ({i + 1})" if names.count(n) > 1 else n, 60) for i, n in enumerate(names)]


def differences(folders: Sequence[Folder]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) for every setting that is not the same in all; in recipes ``stage.setting``."""
    settings: list[dict[str, str]] = []
    for folder in folders:
        rows: dict[str, str] = {}
        for run in folder.runs:
            prefix = f"{text(run.name, 60)}." if folder.is_recipe else ""
            rows |= {prefix + key: value for key, value in sections.flatten(run.config) if key != "out"}
        settings.append(rows)
    names = dict.fromkeys(name for rows in settings for name in rows)
    table = [(name, [rows.get(name, "\u2013") for rows in settings]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def evaluation_table(labels: Sequence[str], folders: Sequence[Folder]) -> dict[str, Any] | None:
    """One results table with the models of all evaluations; None when no folder has one."""
    models = [
        Model(f"{i}/{m.name}", f"{label} \u00b7 {m.title}", m.figures)
        for i, (label, folder) in enumerate(zip(labels, folders, strict=True))
        if folder.evaluation
        for m in folder.evaluation.models
    ]
    colors = {m.name: COLORS[int(m.name.partition("/")[0]) % len(COLORS)] for m in models}
    baselines = {f.evaluation.title_of(f.evaluation.baseline) for f in folders if f.evaluation}
    return sections.table(models, "", " or ".join(sorted(baselines)) or "baseline", colors) if models else None


def figure_charts(labels: Sequence[str], folders: Sequence[Folder], colors: dict[str, str]) -> list[dict[str, Any]]:
    """One interval chart for each figure that at least two runs concluded with."""
    found: dict[tuple[str, str], dict[str, Estimate]] = {}
    for label, folder in zip(labels, folders, strict=True):
        for run in folder.runs:
            for name, e in estimates(run.results.get("figures")).items():
                found.setdefault((run.name if folder.is_recipe else "", name), {})[label] = e
    out = []
    for (stage, name), by in found.items():
        if len(by) >= 2:
            title = f"{stage}: {name}" if stage else name
            numbers = [{"label": label, "text": sections.figure_text(name, e)} for label, e in by.items()]
            said = "; ".join(f"{row['label']} {row['text']}" for row in numbers)
            rows = [Whisker(text(label, 26), e, colors[label]) for label, e in by.items()]
            scale = 100.0 if name in sections.SHARES else 1.0
            picture = svg.interval_chart(rows, described=f"{title}: {said}", scale=scale)
            out.append({"title": title, "svg": picture, "numbers": numbers})
    return out


def curves(labels: Sequence[str], folders: Sequence[Folder], colors: dict[str, str]) -> list[dict[str, Any]]:
    """Charts of each stage (by name; of single runs: by verb) with one line a run."""
    stages: dict[str, list[tuple[str, Run]]] = {}
    for label, folder in zip(labels, folders, strict=True):
        for run in folder.runs:
            if run.metrics:
                stages.setdefault(run.name if folder.is_recipe else run.verb, []).append((label, run))
    return [
        {"stage": text(name, 60), "charts": stage_charts(text(name, 60), runs, colors)} for name, runs in stages.items()
    ]


def stage_charts(stage: str, runs: Sequence[tuple[str, Run]], colors: dict[str, str]) -> list[dict[str, Any]]:
    """One chart for each metric that any of ``runs`` has."""
    names = {name: series for _, run in runs for name, series in run.metrics.items()}
    out = []
    for chart in charts_of(names):
        for label, metric, _ in chart.lines:
            lines = [
                Line(who, run.metrics[metric], colors[who], sparse=metric.startswith("eval/"))
                for who, run in runs
                if metric in run.metrics
            ]
            keys = [{"label": x.label, "color": x.color, "last": sections.ending(x.series)} for x in lines]
            title = text(chart.described.title, 60) + ("" if label == "training" else f", {label}")
            said = f"{title} of {stage}; " + "; ".join(f"{k['label']} ends at {k['last']}" for k in keys)
            drawn = [line for line in lines if line.series.finite().steps]
            picture = None
            if drawn:
                picture = svg.line_chart(
                    drawn, xlabel=step_name(runs[0][1]), described=said, reference=chart.described.reference
                )
            out.append(
                {
                    "title": title,
                    "unit": unit_of(chart, runs[0][1]),
                    "hint": "",
                    "keys": keys,
                    "alone": False,
                    "svg": picture,
                    "metrics": [metric],
                }
            )
    return out
