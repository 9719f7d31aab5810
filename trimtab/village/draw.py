"""Fast random choices for text: one block of uniforms from a seeded numpy generator, used up one by one."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from trimtab.common.rng import generator

T = TypeVar("T")
BLOCK = 128


class Draw:
    """Choices from one stream. A scalar draw of numpy costs a microsecond, a list element a tenth of that."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left: list[float] = []

    def random(self) -> float:
        """Uniform in [0, 1)."""
        if not self._left:
            self._left = self._rng.random(BLOCK).tolist()
        return self._left.pop()

    def chance(self, p: float) -> bool:
        return self.random() < p

    def index(self, n: int) -> int:
        """Uniform in 0..n-1."""
        return int(self.random() * n)

    def one(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` different items (all of them when there are fewer), in random order."""
        pool = list(items)
        count = min(count, len(pool))
        for i in range(count):
            j = i + int(self.random() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def weighted(self, items: Sequence[T], cumulative: Sequence[float]) -> T:
        """One item; ``cumulative`` are running sums of the weights."""
        u = self.random() * cumulative[-1]
        return next(item for item, edge in zip(items, cumulative, strict=True) if u < edge)


def draw(seed: int, *names: str | int) -> Draw:
    """Choices from the stream ``names`` of ``seed``."""
    return Draw(generator(seed, "village", *names))
