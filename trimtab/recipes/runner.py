"""Runs a recipe: each stage by the same verb as the command line, in its own folder, and only where something is to do.

What is done is read from the folders, so a killed run needs nothing but the same command: a stage is skipped when its
``run.json`` says done with these very settings and inputs and no stage it builds on has to run; an unfinished one is
handed to its verb, which goes on from its checkpoint; one that no longer fits is set aside (``sft`` becomes ``sft.1``),
never overwritten.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common.config import Settings, Verb, defaults_of, dump, from_mapping
from trimtab.common.errors import Interrupted, UserError
from trimtab.common.files import read_json, write_json
from trimtab.common.memory import peak_bytes
from trimtab.recipes.recipe import Recipe, Stage, load_recipe
from trimtab.training.folder import FREE_SETTINGS, content_hash, locked, with_defaults

DONE, RESUME, NEW = "done", "resume", "new"


@dataclass(frozen=True)
class Task:
    """A stage that is ready to run."""

    stage: Stage
    config: Settings
    folder: Path


def run_recipe(path: Path | str, out: Path | str, overrides: Sequence[str], verbs: Mapping[str, Verb]) -> Path:
    """Runs what is left to do of a recipe in ``out`` and keeps ``recipe.json`` there up to date; returns ``out``.

    Raises:
        UserError: the recipe is wrong (before anything runs), a stage's input is, or Ctrl-C was pressed.
    """
    out = Path(out)
    recipe = load_recipe(path, out, overrides)
    tasks = [prepare(stage, out, verbs) for stage in recipe.stages]
    log = RecipeLog(recipe, out)
    plan = _plan(tasks)
    log.start(plan)
    for number, task in enumerate(tasks, start=1):
        stage, state = task.stage, plan[task.stage.name]
        doing = {DONE: "done already", RESUME: f"{stage.verb} goes on", NEW: stage.verb}[state]
        print(f"[{number}/{len(tasks)}] {stage.name}: {doing}", flush=True)
        if state == DONE:
            log.skip(stage.name)
            continue
        try:
            with log.running(stage.name, fresh=state == NEW):
                verbs[stage.verb].run(task.config)
        except (KeyboardInterrupt, Interrupted):
            raise UserError("interrupted; run the same command to go on") from None
        except UserError as error:
            raise type(error)(f"{stage.where}: {error}") from error
    return out


def prepare(stage: Stage, out: Path, verbs: Mapping[str, Verb]) -> Task:
    """A stage's settings, read as its verb reads them.

    Raises:
        UserError: there is no such verb, or it does not take these settings.
    """
    if stage.verb not in verbs:
        raise UserError(f"{stage.where}: no verb '{stage.verb}', write one of {', '.join(sorted(verbs))}")
    folder = out / stage.name
    config = from_mapping(verbs[stage.verb].settings, {**stage.config, "out": str(folder)}, stage.where)
    return Task(stage, config, folder)


def _plan(tasks: Sequence[Task]) -> dict[str, str]:
    """What to do with each stage. Folders that no longer fit are set aside here, before anything runs: a stage that was
    planned anew stays so even if this command is stopped before its turn."""
    plan: dict[str, str] = {}
    for task in tasks:
        waits = [parent for parent in task.stage.parents if plan[parent] != DONE]
        found = task.folder / "run.json"
        run = read_json(found) if found.exists() else None
        reason = _difference(run, task) if run else None
        if run and reason is None and waits:
            reason = f"{waits[0]} runs again"
        if run is None or reason:
            plan[task.stage.name] = NEW
            if reason:
                print(f"{task.folder}: {reason}; the earlier run is kept in {_set_aside(task.folder)}", flush=True)
        else:
            plan[task.stage.name] = DONE if run.get("status") == "done" else RESUME
    return plan


def _difference(run: Mapping[str, Any], task: Task) -> str | None:
    """Why an earlier run is not this task's, None when it is."""
    if run.get("verb") != task.stage.verb:
        return f"the verb was {run.get('verb')}"
    before, now = with_defaults(run.get("config", {}), defaults_of(type(task.config))), dump(task.config)
    changed = [key for key in {**before, **now} if key not in FREE_SETTINGS and before.get(key) != now.get(key)]
    if changed:
        return f"{', '.join(changed)} changed"
    for path, digest in {**run.get("inputs", {}), **run.get("parents", {})}.items():
        if digest is not None and (not Path(path).exists() or content_hash(path) != digest):
            return f"{path} changed"
    return None


def _set_aside(folder: Path) -> Path:
    """Renames the folder of an earlier run; returns its new place.

    Raises:
        UserError: another process is at work in it.
    """
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    with locked(folder):
        return folder.rename(kept)


class RecipeLog:
    """``recipe.json``: what ran, for how long, with how much memory. Written whenever a stage starts or stops."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.path = out / "recipe.json"
        before = read_json(self.path) if self.path.exists() else {}
        if before and before.get("recipe") != recipe.name:
            raise UserError(f"{out}: holds recipe '{before.get('recipe')}', not '{recipe.name}'; choose another folder")
        if before and before.get("seed") != recipe.values.get("seed"):
            raise UserError(f"{out}: holds seed {before.get('seed')}, not {recipe.values.get('seed')}; choose another folder with --out")
        known = {row["name"]: row for row in before.get("stages", [])}
        self.stages: dict[str, dict[str, Any]] = {}
        for stage in recipe.stages:
            row = known.get(stage.name, {"seconds": 0.0, "status": "waiting"})
            self.stages[stage.name] = {**row, "name": stage.name, "verb": stage.verb, "dir": stage.name}
        self.info = {"recipe": recipe.name, "seed": recipe.values.get("seed")}
        self.peak = before.get("peak_memory_bytes", 0)

    def start(self, plan: Mapping[str, str]) -> None:
        """Stages that run anew are waiting; what was written over the earlier ones' results is set aside with them."""
        anew = [name for name, state in plan.items() if state == NEW and self.stages[name]["status"] != "waiting"]
        for name in anew:
            self.stages[name].update(status="waiting", seconds=0.0)
        if anew:
            for name in ("results.json", "report.html"):
                if (path := self.path.with_name(name)).exists():
                    path.rename(path.with_name(f"earlier-{name}"))
            self._write()

    @contextlib.contextmanager
    def running(self, name: str, fresh: bool) -> Iterator[None]:
        """Times ``name`` and writes how it ended; the seconds of its earlier parts count unless it starts afresh."""
        row, began = self.stages[name], time.monotonic()
        before = 0.0 if fresh else row["seconds"]
        row.update(status="running", seconds=before)
        self._write()
        status = "failed"
        try:
            yield
            status = "done"
        except (KeyboardInterrupt, Interrupted):
            status = "interrupted"
            raise
        finally:
            row.update(status=status, seconds=before + time.monotonic() - began)
            self._write()

    def skip(self, name: str) -> None:
        """``name`` was done by an earlier command, which may have been killed before it could write so here."""
        if self.stages[name]["status"] != "done":
            self.stages[name]["status"] = "done"
            self._write()

    def _write(self) -> None:
        self.peak = max(self.peak, peak_bytes())
        rows = list(self.stages.values())
        seconds = sum(row["seconds"] for row in rows)
        write_json(self.path, {**self.info, "wall_seconds": seconds, "peak_memory_bytes": self.peak, "stages": rows})
