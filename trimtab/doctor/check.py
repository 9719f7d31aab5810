"""What a check is: a name, what its finding means, what to do about it, and a function from the examined thing to a ``Result``.

To add one, write the function in the file of its group, under ``@GROUP.check(name, means=..., do=...)``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trimtab.common.stats import Estimate

Status = Literal["ok", "warning", "fail", "n/a"]
Number = float | int | str | bool | None


class NotApplicable(Exception):
    """A check has nothing to look at; the message says why."""


@dataclass(frozen=True)
class Result:
    """What a check found, in one line; ``do`` replaces the check's own advice where the finding calls for another."""

    status: Status
    found: str
    do: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)

    def also(self, numbers: Mapping[str, Number]) -> "Result":
        """With these numbers too."""
        return replace(self, numbers={**self.numbers, **numbers})


def ok(found: str, **numbers: Number) -> Result:
    """All is well."""
    return Result("ok", found, numbers=numbers)


def warning(found: str, do: str = "", **numbers: Number) -> Result:
    """Look at it: it may be meant, and training works all the same."""
    return Result("warning", found, do, numbers)


def fail(found: str, do: str = "", **numbers: Number) -> Result:
    """Something is wrong; what is trained or measured with it would be wrong too."""
    return Result("fail", found, do, numbers)


def judged(found: str, *, bad: bool, grave: bool, do: str = "", **numbers: Number) -> Result:
    """``fail`` where it is grave, else ``warning`` where it is bad, else ``ok``."""
    return Result("fail" if grave else "warning" if bad else "ok", found, do, numbers)


def small(x: float) -> str:
    """``3.1e-06``, or ``0``."""
    return f"{x:.1e}" if x else "0"


def estimated(estimate: Estimate) -> dict[str, Number]:
    """An estimate as a result's numbers."""
    return dict(estimate.to_json())


Run = Callable[[Any], Result]  # of the ``trimtab/doctor/subject.py::Subject``


@dataclass(frozen=True)
class Check:
    """One line of the page."""

    group: str
    name: str
    means: str
    do: str
    run: Run


@dataclass
class Group:
    """Checks of one kind, in the order in which they are printed."""

    title: str
    checks: list[Check] = field(default_factory=list)

    def check(self, name: str, *, means: str, do: str) -> Callable[[Run], Run]:
        """Adds the function under it. ``means``: what a finding would do to training; ``do``: what to do about one."""

        def add(run: Run) -> Run:
            self.checks.append(Check(self.title, name, means, do, run))
            return run

        return add


@dataclass(frozen=True)
class Finding:
    """A check and what came of it."""

    check: Check
    result: Result
    seconds: float

    @property
    def do(self) -> str:
        """What to do."""
        return self.result.do or self.check.do

    def to_json(self) -> dict[str, Any]:
        check, result = self.check, self.result
        return {
            "group": check.group, "name": check.name, "status": result.status, "found": result.found, "means": check.means,
            "do": self.do, "numbers": dict(result.numbers), "seconds": round(self.seconds, 3),
        }  # fmt: skip
