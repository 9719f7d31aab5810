"""Reads run folders as they are: finished, running, broken off, with pieces missing. Bad content never raises.

What cannot be read is left out and said in ``notes``, so that a report on a half-finished recipe is still a report.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.common.errors import UserError
from trimtab.common.stats import Estimate

JSON = Mapping[str, Any]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that no page may hold, or that break lines where nobody sees it."""


@dataclass(frozen=True)
class Series:
    """One metric over a run. Values may be NaN or infinite: that is worth a warning, not an error."""

    steps: tuple[float, ...]
    values: tuple[float, ...]

    def finite(self) -> "Series":
        kept = [(s, v) for s, v in zip(self.steps, self.values, strict=True) if math.isfinite(v)]
        return Series(tuple(s for s, _ in kept), tuple(v for _, v in kept))


@dataclass(frozen=True)
class Run:
    """One run folder. ``info`` is run.json; ``results`` is results.json; both empty when missing."""

    path: Path
    name: str
    info: JSON = field(default_factory=dict)
    metrics: Mapping[str, Series] = field(default_factory=dict)
    timing: Mapping[str, Series] = field(default_factory=dict)
    samples: tuple[JSON, ...] = ()
    results: JSON = field(default_factory=dict)

    @property
    def verb(self) -> str:
        return text(self.info.get("verb") or self.name)

    @property
    def config(self) -> JSON:
        return mapping(self.info.get("config"))


@dataclass(frozen=True)
class Stage:
    """A stage of a recipe; ``run`` is None when its folder does not exist."""

    name: str
    verb: str
    seconds: float | None
    status: str
    run: Run | None


@dataclass(frozen=True)
class Model:
    """One row of an evaluation's table."""

    name: str
    title: str
    figures: Mapping[str, Estimate]
    kl_bound: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's results.json and samples.jsonl; see docs/architecture.md."""

    judge: str
    source: str  # gold: no model was trained on the judge; proxy: a reward model; rule
    baseline: str
    prompts: int | None
    answers_each: int  # of a model to each prompt, at most
    models: tuple[Model, ...]
    paired: Mapping[str, Mapping[str, Estimate]]
    reward_model: Mapping[str, Any]
    samples: tuple[JSON, ...]

    def title_of(self, name: str) -> str:
        return next((m.title for m in self.models if m.name == name), name)


@dataclass(frozen=True)
class Folder:
    """A recipe's folder, or a single run's as a recipe of one stage."""

    path: Path
    name: str
    is_recipe: bool
    info: JSON
    stages: tuple[Stage, ...]
    evaluation: Evaluation | None
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        return [stage.run for stage in self.stages if stage.run is not None]


def read_folder(path: Path | str) -> Folder:
    """Whatever ``path`` holds.

    Raises:
        UserError: the folder does not exist, or holds nothing of a run.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the folder that a run or recipe wrote")
    notes: list[str] = []
    folders = [p for p in sorted(path.iterdir()) if any((p / name).exists() for name in RUN_FILES)]
    is_run = any((path / name).exists() for name in (RUN_FILES if not folders else RUN_FILES[:2]))
    if (path / "recipe.json").exists() or not is_run:
        if not folders and not (path / "recipe.json").exists():
            raise UserError(f"{path}: holds no run (no run.json, metrics.jsonl or recipe.json); give a run's folder")
        return _read_recipe(path, folders, notes)
    run = read_run(path, notes)
    status = text(run.info.get("status") or "unknown")
    stage = Stage(run.name, run.verb, number(run.info.get("wall_seconds")), status, run)
    return Folder(path, run.name, False, run.info, (stage,), _evaluation(run.results, run.samples), tuple(notes))


RUN_FILES = ("run.json", "metrics.jsonl", "results.json", "samples.jsonl")


def _read_recipe(path: Path, folders: list[Path], notes: list[str]) -> Folder:
    info = _json(path / "recipe.json", notes, label="recipe.json")
    rows = [mapping(row) for row in listing(info.get("stages"))]
    if not rows:
        found = sorted((number(_json(p / "run.json", []).get("started")) or math.inf, p.name) for p in folders)
        rows = [{"name": name, "dir": name} for _, name in found]
    stages = []
    for row in rows:
        name = text(row.get("name") or row.get("dir") or "?")
        folder = (
            path / Path(text(row.get("dir") or name)).name
        )  # a stage's folder lies in the recipe's, whatever is written
        run = read_run(folder, notes, name) if folder.is_dir() and folder != path else None
        verb = text(row.get("verb") or (run.verb if run else name))
        status = text(row.get("status") or (run.info.get("status") if run else None) or "unknown")
        seconds = number(row.get("seconds")) or (number(run.info.get("wall_seconds")) if run else None)
        if run is None:
            notes.append(f"stage {name}: no folder ({status})")
        stages.append(Stage(name, verb, seconds, status, run))
    evaluated = [s.run for s in stages if s.run is not None and "models" in s.run.results]
    results = _json(path / "results.json", [] if evaluated else notes)
    if evaluated:
        results = results if "models" in results else evaluated[-1].results
    samples = evaluated[-1].samples if evaluated else ()
    name = text(info.get("recipe") or path.resolve().name)
    return Folder(path, name, True, info, tuple(stages), _evaluation(results, samples), tuple(notes))


def read_run(path: Path, notes: list[str], name: str | None = None) -> Run:
    """One run folder; what is missing or unreadable is added to ``notes``."""
    name = name or path.resolve().name
    info = _json(path / "run.json", notes, label=f"{name}/run.json")
    return Run(
        path,
        name,
        info,
        _series(path / "metrics.jsonl", notes, f"{name}/metrics.jsonl"),
        _series(path / "timing.jsonl", notes, f"{name}/timing.jsonl"),
        tuple(_lines(path / "samples.jsonl", notes, f"{name}/samples.jsonl")),
        _json(path / "results.json", notes, label=f"{name}/results.json", needed=False),
    )


def _series(path: Path, notes: list[str], label: str) -> dict[str, Series]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in _lines(path, notes, label):
        step, value = _any_number(row.get("step")), _any_number(row.get("value"))
        if step is not None and value is not None and math.isfinite(step) and row.get("name") is not None:
            points.setdefault(text(row["name"]), []).append((step, value))
    return {
        name: Series(tuple(s for s, _ in rows), tuple(v for _, v in rows))
        for name, rows in ((n, sorted(p, key=lambda x: x[0])) for n, p in points.items())
    }


def _evaluation(results: JSON, samples: tuple[JSON, ...]) -> Evaluation | None:
    models = []
    for row in map(mapping, listing(results.get("models"))):
        name = text(row.get("name") or "?")
        bound = number(row.get("kl_bound"))
        models.append(Model(name, text(row.get("title") or name), estimates(row.get("figures")), bound))
    if not models:
        return None
    prompts = number(results.get("prompts"))
    return Evaluation(
        text(results.get("judge") or "a judge"),
        text(results.get("source") or "gold"),
        text(results.get("baseline") or ""),
        int(prompts) if prompts is not None else None,
        int(number(results.get("answers_each")) or 1),
        tuple(models),
        {text(k): estimates(v) for k, v in mapping(results.get("paired")).items()},
        mapping(results.get("reward_model")),
        samples,
    )


def estimates(value: Any) -> dict[str, Estimate]:
    """The figures of ``value`` that are figures; null ones are left out."""
    found = {text(name): estimate(row) for name, row in mapping(value).items()}
    return {name: e for name, e in found.items() if e is not None}


def estimate(value: Any) -> Estimate | None:
    """A figure, or None where ``value`` is none (or has no value)."""
    row = mapping(value)
    if number(row.get("value")) is None:
        return None
    known = {key: number(row.get(key)) for key in ("value", "low", "high")}
    return Estimate.from_json({**known, "n": number(row.get("n")) or 0})


# ---- files ---------------------------------------------------------------------------------------------------------


def _json(path: Path, notes: list[str], *, label: str | None = None, needed: bool = True) -> JSON:
    """A JSON object, empty when the file is missing or something else."""
    label = label or path.name
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        if needed:
            notes.append(f"{label}: missing")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{label}: cannot be read ({type(error).__name__})")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{label}: not a JSON object")
        return {}
    return value


def _lines(path: Path, notes: list[str], label: str) -> Iterator[JSON]:
    """The objects of a .jsonl file; lines that are none (the torn last one of a killed run) are counted."""
    if not path.exists():
        return
    bad = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield row
                elif line.strip():
                    bad += 1
    except OSError as error:
        notes.append(f"{label}: cannot be read ({error.strerror})")
    if bad:
        notes.append(f"{label}: {bad} unreadable line{'s' if bad > 1 else ''} left out")


# ---- values --------------------------------------------------------------------------------------------------------


def mapping(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite number as a float, else None."""
    found = _any_number(value)
    return found if found is not None and math.isfinite(found) else None


def _any_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def text(value: Any, limit: int | None = None) -> str:
    """``value`` as text for a page: no control characters or lone surrogates, ``limit`` characters at most."""
    out = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    out = CONTROL.sub("\ufffd", out.replace("\r\n", "\n"))
    out = out.encode("utf-8", "replace").decode("utf-8")
    if limit is not None and len(out) > limit:
        return f"{out[:limit].rstrip()} \u2026 ({len(out) - limit:,} more characters)"
    return out
