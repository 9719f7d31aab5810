"""cut=left_out: nothing is learnt from an answer that was cut, and nothing that is left counts for it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from online_methods import first_step, made, slopes
from tiny_models import answer_score, gradient_error

from trimtab.feedback.protocol import Rule
from trimtab.methods.bon import BestOfN, Config as BestConfig
from trimtab.methods.control import KLControl
from trimtab.methods.grpo import GRPO, Config as GroupConfig
from trimtab.methods.online import Answers, Online
from trimtab.methods.rloo import RLOO, Config as RLOOConfig
from trimtab.methods.scst import SCST, Config as SCSTConfig
from trimtab.methods.trpo import TRPO, Config as TRPOConfig
from trimtab.sampling.protocol import Sample, SamplingOptions
from trimtab.training.method import State

METHODS: dict[str, tuple[Any, Any]] = {
    "rloo": (RLOO, RLOOConfig), "scst": (SCST, SCSTConfig), "grpo": (GRPO, GroupConfig), "bon": (BestOfN, BestConfig),
    "trpo": (TRPO, TRPOConfig),
}  # fmt: skip
# Which of three answers to each of three prompts are cut, and which greedy answers.
CUT = ((True, False, False), (True, True, True), (False, True, False))
GREEDY = ((True,), (False,), (False,))
KEPT = ((0, (1, 2)), (2, (0, 2)))


class Cutting:
    """An engine whose answers are cut where ``CUT`` (or, greedy, ``GREEDY``) says so."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:  # all else is the engine's own
        return getattr(self.engine, name)

    def sample(self, prompts: Any, k: int, options: SamplingOptions, keys: Sequence[str], **more: Any) -> list[list[Sample]]:
        rows = self.engine.sample(prompts, k, options, keys, **more)
        cuts = GREEDY if options.greedy else CUT
        return [
            [replace(s, stop="length" if cut else "end") for s, cut in zip(row, which, strict=True)]
            for row, which in zip(rows, cuts, strict=False)
        ]


def make(name: str, start: Path, reward: Rule | None = None, **options: Any) -> Online:
    method: Online = made(*METHODS[name], start, **{"cut_penalty": 1.0, "cut": "left_out", "dtype": "float32", **options})
    method.parts = replace(method.parts, engine=Cutting(method.parts.engine), reward=reward or Rule(answer_score))
    return method


@pytest.mark.parametrize("name", METHODS)
def test_what_is_learnt_is_what_the_answers_that_ended_teach(name: str, start: Path) -> None:
    """The gradient is that of a method which was given the four answers that ended, of two prompts, and no others; cut answers that lose
    a penalty teach something else."""
    method, fed = (make(name, start, other_reference=True) for _ in range(2))

    def only(given: Sequence[int], iteration: int) -> Answers:
        every = make(name, start, cut="penalised", cut_penalty=0.0, other_reference=True).answer(given, iteration)
        rows = [[every.samples[i][k] for k in ks] for i, ks in KEPT]
        trees = [every.trees[i].with_completions([s.token_ids for s in row]) for (i, _), row in zip(KEPT, rows, strict=True)]
        scores = [[every.scores[i][k] for k in ks] for i, ks in KEPT]
        return Answers([every.chosen[i] for i, _ in KEPT], [every.prompts[i] for i, _ in KEPT], trees, rows, scores)

    fed.answer = only  # type: ignore[method-assign]
    steps = [first_step(m) for m in (method, fed)]
    answers = 2 if name == "bon" else 4 + 2 * (name == "scst")
    assert sum(len(tree.completions) for batch in steps[0] for tree in batch.trees.trees) == answers
    found, expected = (slopes(m, step) for m, step in zip((method, fed), steps, strict=True))
    assert gradient_error(found, expected) <= 1e-6
    punished = make(name, start, cut="penalised", other_reference=True)
    assert gradient_error(slopes(punished, first_step(punished)), expected) > 1e-2


@pytest.mark.parametrize(("cut", "advantage"), [("left_out", 0.0), ("penalised", 1.0)])
def test_a_greedy_answer_that_was_cut_is_measured_against_as_it_is(cut: str, advantage: float, start: Path) -> None:
    """Every answer scores 0 and there is no KL. Of the first prompt the greedy answer was cut: where cut answers lose a point its two
    siblings that ended are a point better than it; where they are left out nothing is lost by being cut, and nobody is better."""
    method = make("scst", start, Rule(lambda prompt, text: 0.0), cut=cut)
    (batch,) = first_step(method)
    found = method.advantages(batch.extra["scores"], batch)  # type: ignore[attr-defined]
    ended = [1, 2] if cut == "penalised" else [0, 1]
    assert torch.equal(found[ended], torch.full((2,), advantage)) and (cut == "penalised" or not found.any())


@pytest.mark.parametrize(("cut", "factor"), [("left_out", 1.04), ("penalised", 1.09)])
def test_the_controller_counts_the_answers_that_were_learnt_from(cut: str, factor: float, start: Path) -> None:
    """Target 1, KL 9, horizon 20: beta * (1 + 0.2 * 4 / 20) for four answers, and for nine * (1 + 0.2 * 9 / 20)."""
    method = make("rloo", start, cut=cut, beta=0.1, kl=KLControl(target=1.0, horizon=20))
    first_step(method)
    method.kl = 9.0
    method.after(State(1, 9))
    assert method.beta == pytest.approx(0.1 * factor)  # type: ignore[attr-defined]
