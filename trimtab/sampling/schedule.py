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


def group_jobs(prompt_of: Sequence[int], prefixes: Sequence[int], width: int) -> list[Group]:
    """Jobs 0.. with their distinct prompts -> groups of at most ``width``, long prompts first.

    Neighbours are then of similar length, and the most memory is needed at the start.
    """
    jobs: dict[int, list[int]] = {}
    for job, prompt in enumerate(prompt_of):
        jobs.setdefault(prompt, []).append(job)
    ordered = sorted(jobs, key=lambda prompt: -prefixes[prompt])
    return [Group(p, prefixes[p], tuple(jobs[p][i : i + width])) for p in ordered for i in range(0, len(jobs[p]), width)]


class Schedule:
    """Rows and slots, filled from ``groups``. Public arrays have one entry per row."""

    def __init__(self, groups: Sequence[Group], rows: int, slots: int) -> None:
        self.rows = rows
        self.job = np.full(rows, IDLE, dtype=np.int64)
        self.slot = np.zeros(rows, dtype=np.int64)
        self.place = np.zeros(rows, dtype=np.int64)  # which of the slot's samples, below ``width``
        self.prefix = np.zeros(rows, dtype=np.int64)
        self._waiting = deque(groups)
        self._ready: deque[tuple[int, int, int, int]] = deque()  # (job, slot, place in the slot, prefix) whose prompts are cached
        self._left = np.zeros(slots, dtype=np.int64)  # samples of each slot that are not finished

    @property
    def busy(self) -> np.ndarray:
        """(rows,) bool."""
        return self.job != IDLE

    @property
    def waiting(self) -> bool:
        """Whether some sample has no row yet."""
        return bool(self._waiting or self._ready)

    @property
    def used_rows(self) -> int:
        """Rows that a step computes: up to the last busy one, in multiples of ``ROW_MULTIPLE``."""
        busy = np.flatnonzero(self.busy)
        return -(-(int(busy[-1]) + 1) // ROW_MULTIPLE) * ROW_MULTIPLE if len(busy) else 0

    @property
    def longest_prefix(self) -> int:
        """Columns of the longest prompt with a busy row."""
        return int(self.prefix[self.busy].max(initial=0))

    def fill_slots(self, token_budget: int) -> list[tuple[int, Group]]:
        """(slot, group) whose prompts are to be computed now: at most ``token_budget`` tokens, at least one group.

        Empty while the slots in use are enough, so that prompts are computed many at a time.
        """
        free = np.flatnonzero(self._left == 0)
        starved = not self._ready and not self.busy.all()
        if not self._waiting or not len(free) or not (starved or 4 * len(free) >= len(self._left)):
            return []
        filled: list[tuple[int, Group]] = []
        tokens = 0
        for slot in free.tolist():
            if not self._waiting or (filled and tokens + self._waiting[0].prefix > token_budget):
                break
            group = self._waiting.popleft()
            tokens += group.prefix
            self._left[slot] = len(group.jobs)
            filled.append((slot, group))
            self._ready.extend((job, slot, place, group.prefix) for place, job in enumerate(group.jobs))
        return filled

    def admit(self) -> np.ndarray:
        """Gives idle rows to samples that are ready; returns the rows."""
        rows = np.flatnonzero(self.job == IDLE)[: len(self._ready)]
        if len(rows):
            taken = np.array([self._ready.popleft() for _ in range(len(rows))])
            self.job[rows], self.slot[rows], self.place[rows], self.prefix[rows] = taken.T
        return rows

    def release(self, rows: np.ndarray) -> np.ndarray:
        """The samples of ``rows`` are finished; returns the slots that nobody needs any more."""
        slots = self.slot[rows]
        np.subtract.at(self._left, slots, 1)
        self.job[rows] = IDLE
        return np.unique(slots[self._left[slots] == 0])

    def close_ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """When no sample waits, moves busy rows to the lowest places. Returns (targets, sources)."""
        busy = self.busy
        if self._waiting or self._ready or -(-int(busy.sum()) // ROW_MULTIPLE) * ROW_MULTIPLE >= self.used_rows:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        targets, sources = moves_to_front(busy)
        for array in (self.job, self.slot, self.place, self.prefix):
            array[targets] = array[sources]
        self.job[sources] = IDLE
        return targets, sources


def moves_to_front(taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves that bring what is ``taken`` (bool) to the lowest places: (free places, who goes there)."""
    count = int(taken.sum())
    return np.flatnonzero(~taken[:count]), np.flatnonzero(taken[count:]) + count
