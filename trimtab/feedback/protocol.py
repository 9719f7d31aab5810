"""The protocol of everything that scores answers, in text: no tokenizer is shared with the policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimtab.records import Completion, Prompt


class Feedback(Protocol):
    """Scores answers. ``source`` names what its numbers are: ``proxy`` (a trained model), ``gold`` or ``rule``."""

    source: str

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


def details_of(feedback: Feedback, prompt: Prompt, text: str) -> dict[str, Any]:
    """What a judge says beyond its score (facets, reasons), if it says more."""
    explain = getattr(feedback, "explain", None)
    return explain(prompt, text) if explain else {}
