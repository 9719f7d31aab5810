"""The parts of a page as plain values: text, numbers and finished SVG, which the template only has to place."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from trimtab.common.stats import Estimate
from trimtab.report import svg
from trimtab.report.choose import choose, evenly
from trimtab.report.curves import charts_of, step_name, unit_of
from trimtab.report.read import (
    Evaluation,
    Folder,
    Model,
    Run,
    Series,
    estimate,
    estimates,
    listing,
    mapping,
    number,
    text,
)
from trimtab.report.svg import Line, Point, Whisker, short

LONGEST_TEXT = 1500
MODEL_COLORS = {
    "base": "c6", "few": "c7", "fewshot": "c7", "workbook": "c2", "sft": "c3", "best": "c4", "bon": "c4", "dpo": "c5", "ppo": "c1",
}  # fmt: skip
SPARE_COLORS = ("c8", "c2", "c4", "c7")


@dataclass(frozen=True)
class Column:
    """One figure of the results table. ``span``: what its whiskers are drawn over, None = from the data."""

    name: str
    title: str
    unit: str
    better: str = ""
    scale: float = 1.0
    digits: int = 1
    span: tuple[float, float] | None = None
    reference: float | None = None
    zero: bool = True


COLUMNS = (
    Column("gold", "Gold score", "1 to 7", "higher is better", digits=2, zero=False),
    Column("win_rate", "Preferred to {baseline}", "% of comparisons", "higher is better", 100, span=(0, 100), reference=50),
    Column("invented", "Invented facts", "% of answers", "lower is better", 100),
    Column("told_secret", "Secrets told", "% of answers", "lower is better", 100),
    Column("words", "Length", "words"),
    Column("kl", "KL to reference", "nats per answer"),
    Column("reward", "Reward, proxy", "reward model", digits=2, zero=False),
)


def colors_of(models: Sequence[Model]) -> dict[str, str]:
    """A colour class for each model; the well-known stages keep theirs in every report."""
    spare = iter(SPARE_COLORS * (1 + len(models) // len(SPARE_COLORS)))
    out: dict[str, str] = {}
    for model in models:
        key = next((k for k in MODEL_COLORS if model.name == k or (k in ("few", "best") and k in model.name)), None)
        color = MODEL_COLORS[key] if key else next(spare)
        out[model.name] = next(spare) if color in out.values() else color
    return out


# ---- the table -----------------------------------------------------------------------------------------------------


def table(
    models: Sequence[Model], baseline: str, baseline_title: str, colors: Mapping[str, str], source: str = "gold"
) -> dict[str, Any] | None:
    """Heads and rows of the results table; columns that no model has are left out. None when nothing is left.

    Where ``source`` says that no gold judge judged, the first column is not called gold.
    """
    columns = [c for c in COLUMNS if any(c.name in m.figures for m in models)]
    if source != "gold":
        columns = [replace(c, title=f"Score ({source})", unit="mean") if c.name == "gold" else c for c in columns]
    spans = {c.name: _span(c, [m.figures[c.name] for m in models if c.name in m.figures]) for c in columns}
    heads = [
        {
            "title": c.title.replace("{baseline}", baseline_title),
            "unit": c.unit,
            "better": c.better,
            "low": short(spans[c.name][0]),
            "high": short(spans[c.name][1]),
        }
        for c in columns
    ]
    rows = []
    for model in models:
        cells = [cell(model.figures.get(c.name), c, spans[c.name], colors[model.name]) for c in columns]
        if model.name == baseline:
            cells = [{"note": "baseline"} if c.name == "win_rate" else x for c, x in zip(columns, cells, strict=True)]
        rows.append(
            {"title": model.title, "color": colors[model.name], "cells": cells, "baseline": model.name == baseline}
        )
    return {"heads": heads, "rows": rows} if columns else None


def cell(e: Estimate | None, column: Column, span: tuple[float, float], color: str) -> dict[str, Any]:
    """One number with its interval, and where both lie on the column's scale in per cent."""
    if e is None:
        return {"note": "\u2013"}
    e = scaled(e, column.scale)
    low, high = span
    known = math.isfinite(e.low) and math.isfinite(e.high)

    def place(x: float) -> float:
        # 4 to 96: a dot on the edge stays whole
        return round(4 + 92 * min(1.0, max(0.0, (x - low) / (high - low))), 2)

    return {
        "value": fixed(e.value, column.digits),
        "interval": f"{fixed(e.low, column.digits)} to {fixed(e.high, column.digits)}" if known else "",
        "n": e.n,
        "at": place(e.value),
        "from": place(e.low) if known else None,
        "to": place(e.high) if known else None,
        "mark": place(column.reference) if column.reference is not None else None,
        "color": color,
    }


def scaled(e: Estimate, scale: float) -> Estimate:
    return Estimate(e.value * scale, e.low * scale, e.high * scale, e.n)


def fixed(value: float, digits: int) -> str:
    """Fixed digits with a true minus sign, and no minus zero."""
    out = f"{value:,.{digits}f}"
    return f"\u2212{out[1:]}" if out.startswith("-") and float(out.replace(",", "")) != 0 else out.lstrip("-")


def _span(column: Column, found: Sequence[Estimate]) -> tuple[float, float]:
    if column.span:
        return column.span
    ends = [x * column.scale for e in found for x in (e.value, e.low, e.high) if math.isfinite(x)]
    low, high = min([0.0, *ends] if column.zero else ends), max(ends)
    step = nice(max(high - low, 1e-9) / 4)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high if high > low else low + step


def nice(value: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 5) if m * power >= value * (1 - 1e-9)), 10 * power)


# ---- figures -------------------------------------------------------------------------------------------------------


def paired_charts(evaluation: Evaluation, colors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Difference of every model from the baseline on the same prompts, one chart for each figure."""
    base = evaluation.title_of(evaluation.baseline)
    kinds = (
        ("gold", "Gold score" if evaluation.source == "gold" else f"Score ({evaluation.source})", "points", 1.0),
        ("invented", "Invented facts", "percentage points", 100.0),
        ("told_secret", "Secrets told", "percentage points", 100.0),
    )
    out = []
    for name, title, unit, scale in kinds:
        rows = []
        digits = 2 if scale == 1 else 1
        for model in evaluation.models:
            e = evaluation.paired.get(f"{model.name}-{evaluation.baseline}", {}).get(name)
            if e is not None:
                rows.append(Whisker(text(model.title, 26), e, colors[model.name]))
        if rows:
            said = "; ".join(f"{r.label} {r.estimate.text(2, scale=scale)}" for r in rows)
            picture = svg.interval_chart(rows, described=f"{title} minus {base}: {said}", reference=0.0, scale=scale)
            numbers = [
                {
                    "label": r.label,
                    "value": signed(r.estimate.value * scale, digits),
                    "low": signed(r.estimate.low * scale, digits),
                    "high": signed(r.estimate.high * scale, digits),
                    "n": r.estimate.n,
                }
                for r in rows
            ]
            out.append({"title": title, "unit": unit, "svg": picture, "numbers": numbers})
    return out


def signed(value: float, digits: int) -> str:
    """``+0.42``, ``−3.10``, ``?`` when unknown."""
    if not math.isfinite(value):
        return "?"
    return ("+" if round(value, digits) > 0 else "") + fixed(value, digits)


def reward_model(evaluation: Evaluation) -> dict[str, Any] | None:
    """The reward model's accuracy between the rule it must beat and how far two labelers agree."""
    found = estimates(evaluation.reward_model)
    kinds = (
        ("longest", "longer answer wins", "c6"),
        ("accuracy", "reward model", "c1"),
        ("labeler_agreement", "two labelers agree", "c3"),
    )
    rows = [Whisker(label, found[name], color) for name, label, color in kinds if name in found]
    if "accuracy" not in found:
        return None
    if (new := estimate(mapping(evaluation.reward_model.get("new")).get("accuracy"))) is not None:
        rows.insert(2, Whisker("reward model, new people", new, "c1"))
    said = "; ".join(f"{r.label} {r.estimate.percent()}" for r in rows)
    bins = [mapping(row) for row in listing(mapping(evaluation.reward_model.get("calibration")).get("bins"))]
    known = [(number(row.get("confidence")), estimate(row.get("accuracy"))) for row in bins]
    points = [(x, e) for x, e in known if x is not None and e is not None]
    error = number(mapping(evaluation.reward_model.get("calibration")).get("error"))
    plain, temperature = (number(evaluation.reward_model.get(name)) for name in ("calibration_error_at_1", "temperature"))
    fitted = ""
    if plain is not None and temperature is not None and temperature != 1:
        fitted = f" at the temperature {temperature:.2f} that was fitted, {100 * plain:.1f} without it"
    return {
        "svg": svg.interval_chart(
            rows, described=f"Agreement with held-out rankings: {said}", reference=0.5, scale=100
        ),
        "numbers": [{"label": r.label, "text": r.estimate.percent()} for r in rows],
        "calibration": svg.calibration_chart(points, described="Accuracy of pairs by confidence") if points else None,
        "error": f"{100 * error:.1f} points{fitted}" if error is not None else None,
        "missing": [label for name, label, _ in kinds if name not in found],
    }


def frontiers(folder: Folder, colors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Gold and proxy reward against the square root of KL."""
    models = folder.evaluation.models if folder.evaluation else ()
    out = []
    for kind, figure, title in (("gold", "gold", "Gold score"), ("proxy", "reward", "Reward, proxy")):
        points = []
        for m in models:
            kl = m.figures.get("kl") or (
                Estimate(m.kl_bound, math.nan, math.nan, 0) if m.kl_bound is not None else None
            )
            if kl is not None and figure in m.figures:
                bound = "kl" not in m.figures
                points.append(Point(text(m.title, 26), root(kl), m.figures[figure], colors[m.name], bound))
        paths = [
            Line(run.name, path, colors.get(run.name, "c1"))
            for run in folder.runs
            if (path := kl_path(run, f"reward/{kind}")) is not None
        ]
        if len(points) >= 2 or paths:
            said = "; ".join(f"{p.label}: {p.y.value:.2f} at {p.x.value:.2f}" for p in points)
            picture = svg.frontier_chart(
                points, paths, ylabel=title.lower(), described=f"{title} against root KL. {said}"
            )
            out.append(
                {
                    "title": title,
                    "svg": picture,
                    "paths": [p.label for p in paths],
                    "bounds": any(p.bound for p in points),
                }
            )
    return out


def root(e: Estimate) -> Estimate:
    """The square root of a KL; an estimate that noise made negative counts as 0."""
    value, low, high = (math.sqrt(max(0.0, x)) if math.isfinite(x) else x for x in (e.value, e.low, e.high))
    return Estimate(value, low, high, e.n)


def kl_path(run: Run, name: str, most: int = 24) -> Series | None:
    """(root KL, reward) over a run, averaged in at most ``most`` equal parts; None where one of both is not logged."""
    if "kl/reference" not in run.metrics or name not in run.metrics:
        return None
    kl = dict(zip(run.metrics["kl/reference"].steps, run.metrics["kl/reference"].values, strict=True))
    both = [(kl[s], v) for s, v in zip(run.metrics[name].steps, run.metrics[name].values, strict=True) if s in kl]
    rows = np.array([pair for pair in both if all(map(math.isfinite, pair))])
    if len(rows) < 2:
        return None
    parts = [part.mean(axis=0) for part in np.array_split(rows, min(most, len(rows)))]
    return Series(tuple(math.sqrt(max(0.0, p[0])) for p in parts), tuple(float(p[1]) for p in parts))


def curves(run: Run) -> list[dict[str, Any]]:
    """A chart for every metric of a run."""
    out = []
    palette = ("c1", "c2", "c8", "c4")
    for chart in charts_of(run.metrics):
        lines = [
            Line(label, series, palette[i % len(palette)], sparse=metric.startswith("eval/"))
            for i, (label, metric, series) in enumerate(chart.lines)
        ]
        drawn = [line for line in lines if line.series.finite().steps]
        title = text(chart.described.title, 60)
        keys = [{"label": line.label, "color": line.color, "last": ending(line.series)} for line in lines]
        said = f"{title} over {step_name(run)}s of {text(run.name, 60)}; " + "; ".join(
            f"{k['label']} ends at {k['last']}" for k in keys
        )
        picture = None
        if drawn:
            picture = svg.line_chart(drawn, xlabel=step_name(run), described=said, reference=chart.described.reference)
        alone = len(keys) == 1 and chart.lines[0][0] == "training"
        out.append(
            {
                "title": title,
                "unit": unit_of(chart, run),
                "hint": chart.described.hint,
                "keys": keys,
                "alone": alone,
                "svg": picture,
                "metrics": [name for _, name, _ in chart.lines],
            }
        )
    return out


def ending(series: Series) -> str:
    values = series.finite().values
    return short(float(f"{values[-1]:.3g}")) if values else "no finite value"


# ---- samples -------------------------------------------------------------------------------------------------------


def side_by_side(evaluation: Evaluation, colors: Mapping[str, str]) -> dict[str, Any] | None:
    """Prompts with the answers of several models, the judge's score and its reasons."""
    if not evaluation.samples:
        return None
    choice = choose(evaluation)
    cards = []
    for row in choice.prompts:
        first = row[choice.models[0]]
        answers = [{"title": evaluation.title_of(m), "color": colors[m], **answer(row[m])} for m in choice.models]
        use_case = text(first.get("use_case") or "").replace("_", " ")
        cards.append({"prompt": text(first.get("prompt"), LONGEST_TEXT), "use_case": use_case, "answers": answers})
    return {"rule": choice.rule, "cards": cards, "columns": len(choice.models)} if cards else None


def answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """One model's answer for the page."""
    gold = number(row.get("gold"))
    flags = [
        label for key, label in (("invented", "invented"), ("told_secret", "told a secret")) if row.get(key) is True
    ]
    return {
        "text": text(row.get("completion") or "", LONGEST_TEXT),
        "gold": fixed(gold, 1) if gold is not None else None,
        "flags": flags,
        "reasons": [text(r, 200) for r in listing(row.get("reasons"))[:6]],
    }


def training_samples(run: Run) -> list[dict[str, Any]]:
    """A training run's own samples, at equal distances over the run."""
    return [
        {
            "step": short(number(row.get("step")) or 0.0),
            "prompt": text(row.get("prompt") or "", LONGEST_TEXT),
            "text": text(row.get("completion") or "", LONGEST_TEXT),
            "scores": [
                f"{label} {fixed(value, 2)}"
                for label, value in (("reward", number(row.get("reward"))), ("gold", number(row.get("gold"))))
                if value is not None
            ],
        }
        for row in evenly(run.samples)
    ]


# ---- what was run --------------------------------------------------------------------------------------------------


def facts(folder: Folder) -> list[tuple[str, str]]:
    """(name, value) lines of what was run."""
    infos = [run.info for run in folder.runs]
    first = infos[0] if infos else {}
    seconds = number(folder.info.get("wall_seconds"))
    if seconds is None:
        known = [s.seconds for s in folder.stages if s.seconds is not None]
        seconds = sum(known) if known else None
    memory = number(folder.info.get("peak_memory_bytes"))
    starts = [t for t in (number(info.get("started")) for info in infos) if t is not None]
    seed = folder.info.get("seed", first.get("seed"))
    rows = [
        (
            "recipe" if folder.is_recipe else "verb",
            folder.name if folder.is_recipe else text(folder.info.get("verb") or folder.name),
        ),
        ("seed", text(seed) if seed is not None else ""),
        ("started", moment(min(starts)) if starts else ""),
        ("time", clock(seconds) if seconds is not None else ""),
        ("peak memory", f"{memory / 2**30:.1f} GiB" if memory else ""),
        ("device", ", ".join(dict.fromkeys(text(i["device"], 80) for i in infos if i.get("device")))),
        ("threads", ", ".join(dict.fromkeys(text(i["threads"]) for i in infos if i.get("threads")))),
        ("versions", versions(infos)),
    ]
    return [(name, value) for name, value in rows if value]


def versions(infos: Sequence[Mapping[str, Any]]) -> str:
    """Versions of all stages; one that changed between stages shows both."""
    found: dict[str, dict[str, None]] = {}
    for info in infos:
        for name, value in mapping(info.get("versions")).items():
            found.setdefault(text(name, 40), {})[text(value, 40)] = None
    return ", ".join(f"{name} {' and '.join(values)}" for name, values in found.items())


def stage_rows(folder: Folder) -> list[dict[str, Any]]:
    """One row for each stage: what, how long, how it ended, its settings."""
    longest = max([s.seconds for s in folder.stages if s.seconds] or [1.0])
    rows = []
    for stage in folder.stages:
        run = stage.run
        steps = max([s.steps[-1] for s in run.metrics.values() if s.steps] or [0]) if run else 0
        pace = run.timing.get("seconds") if run else None
        rows.append(
            {
                "name": text(stage.name, 60),
                "verb": text(stage.verb, 40),
                "status": stage.status,
                "time": clock(stage.seconds) if stage.seconds is not None else "\u2013",
                "share": round(100 * (stage.seconds or 0) / longest, 1),
                "steps": short(steps) if steps else "\u2013",
                "pace": f"{short(float(f'{np.median(pace.values):.2g}'))} s"
                if pace and pace.finite().values
                else "\u2013",
                "settings": flatten(run.config) if run else [],
                "inputs": [
                    (text(k, 200), text(v, 12).split(" ")[0]) for k, v in mapping(run.info.get("inputs")).items()
                ]
                if run
                else [],
            }
        )
    return rows


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as dotted names and text."""
    out: list[tuple[str, str]] = []
    for key, value in config.items():
        name = f"{prefix}{text(key, 60)}"
        out += flatten(value, f"{name}.") if isinstance(value, dict) and value else [(name, text(value, 200))]
    return out


def moment(seconds: float) -> str:
    """A time stamp as ``2026-03-01 14:05 UTC``; empty when it is none."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return ""


def clock(seconds: float) -> str:
    """``3.2 s``, ``4 min 10 s``, ``2 h 03 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def run_figures(run: Run) -> list[dict[str, Any]]:
    """A single run's concluding figures."""
    return [{"name": n, "text": figure_text(n, e)} for n, e in estimates(run.results.get("figures")).items()]


SHARES = ("accuracy", "win_rate", "invented", "told_secret")


def figure_text(name: str, e: Estimate) -> str:
    """A figure with its interval; shares in per cent."""
    return e.percent() if name in SHARES else e.text(3)
