"""The protocol of everything that scores answers, in text: no tokenizer is shared with the policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimtab.records import Completion, Prompt


class Feedback(Protocol):
    """Scores answers. ``source`` names what its numbers are: ``proxy`` (a trained model), ``gold`` or ``rule``."""

    @property
    def source(self) -> str: ...

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """One number for each completion of each prompt; higher is better."""


@dataclass(frozen=True)
class Rule:
    """Feedback from a plain function of (prompt, text)."""

    function: Callable[[Prompt, str], float]
    source: str = "rule"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """See ``Feedback.score``."""
        return [[float(self.function(p, c.text)) for c in cs] for p, cs in zip(prompts, completions, strict=True)]


def explained(
    feedback: Feedback, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
) -> list[list[dict[str, Any]]]:
    """``score`` as rows ``{"gold": score}``, each with what the judge says beyond it (facets, reasons), if it says more."""
    explain: Callable[[Prompt, str], dict[str, Any]] | None = getattr(feedback, "explain", None)
    if explain:
        return [[explain(p, c.text) for c in row] for p, row in zip(prompts, completions, strict=True)]
    return [[{"gold": score} for score in row] for row in feedback.score(prompts, completions)]
