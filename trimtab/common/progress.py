"""Progress of long work: a bar with rate, time left and the numbers that matter; plain lines when output is not a terminal."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, Progress as RichProgress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_SECONDS = 10.0
BAR_EVERY_SECONDS = 0.1
RATE_AFTER_SECONDS = 1.0  # what is done sooner has no rate worth telling


class Progress:
    """``with Progress("sft", total=100, unit="steps") as p: p.advance(loss=0.1)``.

    ``total`` may be None when unknown. Numbers given to ``advance`` are shown behind the rate: give the two that matter. Work of less
    than ``after`` seconds shows nothing.
    """

    def __init__(self, title: str, total: int | None, unit: str = "steps", done: int = 0, *, after: float = 0.0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._start, self._began_at, self._shown = time.monotonic(), done, 0.0
        self._first: tuple[float, int] | None = None  # when the first work was done, and how much
        self._after, self._begun = self._start + after, not after
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
        if self._bar and self._begun:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._begun:
            return
        if self._bar:
            self._update(self._bar, final=True)
            self._bar.stop()
        elif kind is None:
            self._line(final=True)

    def advance(self, by: int = 1, /, **numbers: float) -> None:
        """``by`` units of work are done; ``numbers`` are the latest values to show."""
        self.done += by
        self._values |= numbers  # a number that is measured now and then stays on show in between
        now = time.monotonic()
        self._first = self._first or (now, self.done)
        if now - self._shown < (BAR_EVERY_SECONDS if self._bar else PLAIN_EVERY_SECONDS) or now < self._after:
            return
        self._shown = now
        if self._bar is None:
            if not self.total or self.done < self.total:  # the last line is written at the end
                self._line()
        elif self._begun:
            self._update(self._bar)
        else:
            self._bar.start()
        self._begun = True

    def _update(self, bar: RichProgress, final: bool = False) -> None:
        bar.update(self._task, completed=self.done, rate=self._rate(final), numbers=format_numbers(self._values))

    def _line(self, final: bool = False) -> None:
        seconds = time.monotonic() - self._start
        of = f"/{self.total:,}" if self.total else ""
        unit = self.unit.removesuffix("s") if (self.total or self.done) == 1 else self.unit
        said = [f"{self.title}: {self.done:,}{of} {unit} in {clock(seconds)}", *filter(None, [self._rate(final)])]
        if not final and self.total and self._rate(final):
            taken, done = self._pace(final)
            said.append(f"{clock((self.total - self.done) * taken / done)} left")
        tail = f"  {format_numbers(self._values)}".rstrip()
        print(f"{', '.join(said)}{tail}", file=sys.stderr, flush=True)

    def _pace(self, final: bool) -> tuple[float, int]:
        """Seconds, and the units done in them: of all at the end; before, of what came behind the first work, which is seldom like the
        rest (models are read in it, caches filled)."""
        now = time.monotonic()
        if final or not self.total or self._first is None:
            return now - self._start, self.done - self._began_at
        when, done = self._first
        return now - when, self.done - done

    def _rate(self, final: bool) -> str:
        """``3.2 steps/s``, ``2.1 s/step``; nothing in the first moments."""
        seconds, done = self._pace(final)
        if seconds < RATE_AFTER_SECONDS or not done:
            return ""
        if 0 < done < seconds:
            return f"{seconds / done:,.1f} s/{self.unit.rstrip('s')}"
        return f"{done / seconds:,.{0 if done >= 100 * seconds else 1}f} {self.unit}/s"


def format_numbers(numbers: Mapping[str, float]) -> str:
    """``loss 0.123  kl 4.5``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def clock(seconds: float) -> str:
    """``75 -> 1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
