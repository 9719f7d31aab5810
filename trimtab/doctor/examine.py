"""``trimtab doctor``: runs the checks on a model and a data file, and says in one page what they found.

Groups and their order on the page are ``GROUPS``; a check is one function in its group's file.
"""

import difflib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from trimtab.common.config import from_mapping
from trimtab.common.errors import UserError
from trimtab.common.files import check_writable
from trimtab.common.progress import Progress
from trimtab.doctor import fit, generation, logprobs, preferences, records, reward, template, tokenizer, tokens, weights
from trimtab.doctor.check import Check, Finding, Group, NotApplicable, Result, fail
from trimtab.doctor.settings import Config
from trimtab.doctor.subject import MakeEngine, Subject

MODEL_GROUPS = (tokenizer.GROUP, tokens.GROUP, template.GROUP, weights.GROUP, logprobs.GROUP, generation.GROUP, reward.GROUP)
DATA_GROUPS = (records.GROUP, preferences.GROUP, fit.GROUP)
GROUPS: tuple[Group, ...] = (*MODEL_GROUPS, *DATA_GROUPS)


@dataclass(frozen=True)
class Examination:
    """What came of it: a finding for every check that was chosen, in the page's order."""

    config: Config
    about: Mapping[str, str]  # what was examined, in words
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> Counter[str]:
        """Checks by status."""
        return Counter(f.result.status for f in self.findings)

    @property
    def exit_status(self) -> int:
        """1 if a check failed (under ``strict``, or warned), else 0."""
        return int(bool(self.counts["fail"] or (self.config.strict and self.counts["warning"])))

    def named(self, name: str) -> Finding:
        """The finding of the check called ``name``."""
        return next(f for f in self.findings if f.check.name == name)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.config.model, "data": self.config.data, "test": self.config.test, "seed": self.config.seed,
            "about": dict(self.about), "counts": {s: self.counts[s] for s in ("ok", "warning", "fail", "n/a")},
            "exit_status": self.exit_status, "checks": [_finite(f.to_json()) for f in self.findings],
        }  # fmt: skip


def diagnose(model: str | Path, data: str | Path = "", *, engine: MakeEngine | None = None, **settings: Any) -> Examination:
    """``trimtab doctor`` as a call, without printing; ``settings`` are those of the command.

    Raises:
        UserError: as ``examine``; or a setting is wrong.
    """
    return examine(from_mapping(Config, {"model": str(model), "data": str(data), **settings}, "diagnose"), engine)


def examine(config: Config, engine: MakeEngine | None = None) -> Examination:
    """Runs the chosen checks; ``engine`` replaces the engine that ``config`` names.

    Raises:
        UserError: there is no such model or data file, or a name in ``only`` or ``skip`` is unknown.
    """
    if not config.model:
        raise UserError("doctor needs a model: trimtab doctor MODEL [DATA]")
    chosen = choose(config)
    for path in config.out:
        if not path.endswith((".json", ".html")):
            raise UserError(f"{path}: the page is written as .json or .html; choose such a name")
        check_writable(path, overwrite=config.overwrite)
    subject = Subject(config, engine)
    if config.data:
        _ = subject.data  # a file that is not there is told before the model is loaded
    findings = []
    with _quiet(), Progress("doctor", len(chosen), "checks") as bar:
        for check in chosen:
            began = time.perf_counter()
            result = run_check(check, subject)
            findings.append(Finding(check, result, time.perf_counter() - began))
            bar.advance(failed=sum(f.result.status == "fail" for f in findings))
    return Examination(config, about(subject), tuple(findings))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own remarks on what is looked at here: they would stand in the middle of the page."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def run_check(check: Check, subject: Subject) -> Result:
    """What the check finds; a fault in its own code is a failure that says so, so that the other checks still run."""
    try:
        return check.run(subject)
    except NotApplicable as reason:
        return Result("n/a", str(reason))
    except UserError as error:
        return fail(str(error))
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return fail(f"the check itself could not be run: {type(error).__name__}: {said}", "Report this; skip= leaves the check out.")


def choose(config: Config) -> list[Check]:
    """The checks that ``only`` and ``skip`` leave.

    Raises:
        UserError: a name is unknown.
    """
    groups = GROUPS if config.data else MODEL_GROUPS
    only, skip = (_names(text, option) for text, option in ((config.only, "only"), (config.skip, "skip")))
    checks = [c for group in groups for c in group.checks]
    return [c for c in checks if (not only or _key(c.name) in only or _key(c.group) in only) and not {_key(c.name), _key(c.group)} & skip]


def _names(text: str, option: str) -> set[str]:
    known = {_key(name): name for group in GROUPS for name in (group.title, *(c.name for c in group.checks))}
    found = [part for part in text.split(",") if part.strip()]
    for part in found:
        if _key(part) not in known:
            close = difflib.get_close_matches(_key(part), known, 1, 0.5)
            hint = f"did you mean '{known[close[0]]}'?" if close else f"the groups are {', '.join(g.title for g in GROUPS)}"
            raise UserError(f"{option}: no check or group '{part.strip()}'; {hint}")
    return {_key(part) for part in found}


def _key(name: str) -> str:
    """``Pad-token`` and ``pad token`` are one name."""
    return "".join(c for c in name.casefold() if c.isalnum() or c == "=")


def about(s: Subject) -> dict[str, str]:
    """What was examined, in words."""
    out = {"model": f"{s.config.model}: {', '.join(s.settings.architectures or [type(s.settings).__name__])}"}
    if "model_attempt" in vars(s) and s.model_attempt.value is not None:
        out["model"] += f", {s.size}, {s.longest:,} positions"
    if s.config.data:
        few = len(s.data.records) < s.data.total
        out["data"] = f"{s.config.data}: {s.data.drawn}" + (f", drawn with seed {s.config.seed}" if few else "")
        if s.data.total > s.config.encode:
            out["data"] += f"; {s.config.encode:,} of them in tokens"
    if s.config.test:
        out["test"] = s.config.test
    return out


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
