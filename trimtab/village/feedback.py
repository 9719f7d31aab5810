"""The gold judge behind the protocol that every scorer of answers has."""

from collections.abc import Sequence
from typing import Any

from trimtab.records import Completion, Prompt
from trimtab.village.judge import judge


class VillageJudge:
    """``Feedback`` from the village's own knowledge: 1 (worthless) to 7."""

    source = "gold"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """See ``trimtab.feedback.protocol.Feedback``."""
        return [[judge(p, c.text).score for c in row] for p, row in zip(prompts, completions, strict=True)]

    def explain(self, prompt: Prompt, text: str) -> dict[str, Any]:
        """The score, as ``gold``, and what the judge says beyond it."""
        verdict = judge(prompt, text)
        facets = {name: round(value, 4) for name, value in verdict.facets.items()}
        return {
            "gold": verdict.score, "facets": facets, "reasons": list(verdict.reasons),
            "invented": verdict.invented, "told_secret": verdict.told_secret,
        }  # fmt: skip
