"""Progress of long work: a bar with rate, time left and the numbers that matter; plain lines when output is not a terminal."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, Progress as RichProgress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """``with Progress("sft", total=100, unit="steps") as p: p.advance(loss=0.1)``.

    ``total`` may be None when unknown. Numbers given to ``advance`` are shown behind the rate: give the two that matter.
    """

    def __init__(self, title: str, total: int | None, unit: str = "steps", done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._start, self._began_at, self._shown = time.monotonic(), done, 0.0
        self._values: dict[str, float] = {}
        self._bar: RichProgress | None = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.completed}{task.fields[of]}"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(
                title, total=total or None, completed=done, of=f"/{total}" if total else "", rate="", numbers=""
            )

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            self._line(final=True)

    def advance(self, by: int = 1, /, **numbers: float) -> None:
        """``by`` units of work are done; ``numbers`` are the latest values to show."""
        self.done += by
        self._values |= numbers  # a number that is measured now and then stays on show in between
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._began_at) / seconds
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=self._rate(rate), numbers=format_numbers(self._values))
        elif time.monotonic() - self._shown >= PLAIN_EVERY_SECONDS:
            self._shown = time.monotonic()
            self._line()

    def _line(self, final: bool = False) -> None:
        seconds = time.monotonic() - self._start
        rate = (self.done - self._began_at) / max(seconds, 1e-9)
        of = f"/{self.total}" if self.total else ""
        left = ""
        if not final and self.total and rate > 0:
            left = f", {clock((self.total - self.done) / rate)} left"
        tail = f"  {format_numbers(self._values)}".rstrip()
        said = f"{self.title}: {self.done}{of} {self.unit} in {clock(seconds)}, {self._rate(rate)}{left}{tail}"
        print(said, file=sys.stderr, flush=True)

    def _rate(self, rate: float) -> str:
        """``3.2 steps/s``, ``2.1 s/step``."""
        return f"{rate:,.1f} {self.unit}/s" if rate >= 1 or rate == 0 else f"{1 / rate:,.1f} s/{self.unit.rstrip('s')}"


def format_numbers(numbers: Mapping[str, float]) -> str:
    """``loss 0.123  kl 4.5``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def clock(seconds: float) -> str:
    """``75 -> 1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
