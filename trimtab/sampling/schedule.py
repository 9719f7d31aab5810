"""Which sample is drawn in which row, which prompt lies in which slot: continuous batching as arrays, without torch.

A finished sample's row goes to the next one. When none waits, the rows still busy move together, so that a step computes
little that nobody reads. Order and places never change what is drawn.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Matrix products round a row differently in very small batches; in multiples of 8 rows they do not (on CPU, float32).
ROW_MULTIPLE = 8
IDLE = -1


@dataclass(frozen=True, slots=True)
class Group:
    """Samples (``jobs``) of one distinct prompt that share a slot; ``prefix`` is how many columns the prompt takes."""

    prompt: int
    prefix: int
    jobs: tuple[int, ...]


def group_jobs(prompt_of: Sequence[int], prefixes: Sequence[int], k: int) -> list[Group]:
    """Jobs 0.. with their distinct prompts -> groups of at most ``k``, long prompts first, those of one prompt side by side.

    Neighbours are then of similar length, and the most memory is needed at the start.
    """
    jobs: dict[int, list[int]] = {}
    for job, prompt in enumerate(prompt_of):
        jobs.setdefault(prompt, []).append(job)
    ordered = sorted(jobs, key=lambda prompt: -prefixes[prompt])
    return [Group(p, prefixes[p], tuple(jobs[p][i : i + k])) for p in ordered for i in range(0, len(jobs[p]), k)]


def width_of(groups: Sequence[Group], rows: int) -> int:
    """How many samples of one group are in ``rows`` rows at a time, at most."""
    return min(rows, max(len(group.jobs) for group in groups))


def slots_for(groups: Sequence[Group], rows: int) -> int:
    """How many groups to have at a time so that ``rows`` rows are always busy."""
    sizes = np.array([len(group.jobs) for group in groups])
    ends = np.cumsum(sizes)
    reached = np.searchsorted(ends, ends - sizes + rows)  # the group that fills the rows when this one is the first in them
    full = int((np.minimum(reached, len(groups) - 1) - np.arange(len(groups))).max()) + 1
    # Twice as many, for prompts with only some samples left, and a few to compute ahead; one row does with one prompt.
    ahead = -(-full // 4) if rows > 1 else 0
    return min(len(groups), (full if width_of(groups, rows) == 1 else 2 * full) + ahead)


class Schedule:
    """Rows and slots, filled from ``groups``. Public arrays have one entry per row, and idle ones behind up to ``size``, the next multiple
    of ``ROW_MULTIPLE``, which are computed and never used."""

    def __init__(self, groups: Sequence[Group], rows: int, slots: int) -> None:
        self.rows, self.size, self.width = rows, round_up(rows, ROW_MULTIPLE), width_of(groups, rows)
        self.job = np.full(self.size, IDLE, dtype=np.int64)
        self.slot, self.prefix = np.zeros((2, self.size), dtype=np.int64)
        self.place = np.zeros(self.size, dtype=np.int64)  # tells the rows of a slot apart, below ``width``
        self._waiting = deque(groups)
        self._ready: deque[tuple[int, int, int]] = deque()  # (job, slot, prefix) whose prompts are cached
        self._left = np.zeros(slots, dtype=np.int64)  # samples of each slot that are not finished
        self._prompt = np.full(slots, IDLE, dtype=np.int64)  # the last one in each slot
        self._kept: list[int] = []  # a slot without samples whose prompt is that of the next group: one at most
        self._places: list[deque[int]] = [deque() for _ in range(slots)]  # free ones of each slot

    @property
    def busy(self) -> np.ndarray:
        """(size,) bool."""
        return self.job != IDLE

    @property
    def waiting(self) -> bool:
        """Whether some sample has no row yet."""
        return bool(self._waiting or self._ready)

    @property
    def used_rows(self) -> int:
        """Rows that a step computes: up to the last busy one, in multiples of ``ROW_MULTIPLE``."""
        busy = np.flatnonzero(self.busy)
        return round_up(int(busy[-1]) + 1, ROW_MULTIPLE) if len(busy) else 0

    @property
    def longest_prefix(self) -> int:
        """Columns of the longest prompt with a busy row."""
        return int(self.prefix[self.busy].max(initial=0))

    def fill_slots(self, token_budget: int) -> list[tuple[int, Group]]:
        """(slot, group) whose prompts are wanted now: at most ``token_budget`` tokens, at least one group.

        Empty while the slots in use are enough, so that prompts are computed many at a time.
        """
        free = np.flatnonzero(self._left == 0)
        starved = not self._ready and not self.busy[: self.rows].all()
        if not self._waiting or not len(free) or not (starved or 4 * len(free) >= len(self._left)):
            return []
        filled: list[tuple[int, Group]] = []
        tokens = 0
        for slot in [*self._kept, *(slot for slot in free.tolist() if slot not in self._kept)]:
            if not self._waiting or (filled and tokens + self._waiting[0].prefix > token_budget):
                break
            group = self._waiting.popleft()
            tokens += group.prefix
            self._left[slot], self._prompt[slot] = len(group.jobs), group.prompt
            self._places[slot] = deque(range(self.width))
            filled.append((slot, group))
            self._ready.extend((job, slot, group.prefix) for job in group.jobs)
        self._kept = []
        return filled

    def admit(self) -> np.ndarray:
        """Gives idle rows to samples that are ready; returns the rows."""
        rows = np.flatnonzero(self.job[: self.rows] == IDLE)[: len(self._ready)]
        if len(rows):
            taken = np.array([self._ready.popleft() for _ in range(len(rows))])
            self.job[rows], self.slot[rows], self.prefix[rows] = taken.T
            self.place[rows] = [self._places[slot].popleft() for slot in self.slot[rows].tolist()]
        return rows

    def release(self, rows: np.ndarray) -> np.ndarray:
        """The samples of ``rows`` are finished; returns the slots that nobody needs any more.

        A prompt's last slot is needed until its last group has come: that group finds the prompt in it, or beside it.
        """
        slots = self.slot[rows]
        np.subtract.at(self._left, slots, 1)
        for slot, place in zip(slots.tolist(), self.place[rows].tolist(), strict=True):
            self._places[slot].append(place)
        self.job[rows] = IDLE
        over = np.unique(slots[self._left[slots] == 0])
        if self._waiting and not self._kept and not (self._left[self._prompt == self._waiting[0].prompt] > 0).any():
            self._kept = over[self._prompt[over] == self._waiting[0].prompt][:1].tolist()
            over = over[~np.isin(over, self._kept)]
        return over

    def compact(self) -> tuple[np.ndarray, np.ndarray]:
        """When no sample waits, moves busy rows to the lowest places. Returns (targets, sources)."""
        busy = self.busy
        if self._waiting or self._ready or round_up(int(busy.sum()), ROW_MULTIPLE) >= self.used_rows:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        targets, sources = compaction(busy)
        for array in (self.job, self.slot, self.place, self.prefix):
            array[targets] = array[sources]
        self.job[sources] = IDLE
        return targets, sources


def compaction(taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves that bring what is ``taken`` (bool) to the lowest places: (free places, who goes there)."""
    count = int(taken.sum())
    return np.flatnonzero(~taken[:count]), np.flatnonzero(taken[count:]) + count


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple
