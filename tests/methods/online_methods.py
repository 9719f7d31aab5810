"""Online methods on a tiny policy, ready to be taken apart by their tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import answer_score, gradients, online_parts

from trimtab.feedback.protocol import Rule
from trimtab.methods.online import Answers, Online, Parts
from trimtab.training.method import MicroBatch, State

SETTINGS = {"batch_size": 3, "num_completions": 3, "max_tokens": 6, "seed": 1, "dtype": "float32", "cut_penalty": 2.5}


def made(method: Callable[[Any, Parts], Any], settings: type[Any], start: Path, *, other_reference: bool = False, **options: Any) -> Any:
    """``method`` with ``SETTINGS`` and ``options``; the reference is the policy's copy, or random."""
    return method(settings(**{**SETTINGS, **options}), online_parts(start, Rule(answer_score), other_reference=other_reference))


def first_step(method: Online) -> Sequence[MicroBatch]:
    """The first optimizer step of the first iteration."""
    return next(iter(method.batches(State(0, 9))))


def slopes(method: Online, step: Sequence[MicroBatch]) -> dict[str, torch.Tensor]:
    """The policy's gradient of one optimizer step, by parameter."""
    for batch in step:
        method.loss(batch)[0].backward()
    return gradients(method.policy)


def shuffled(answers: Answers, orders: Sequence[Sequence[int]]) -> Answers:
    """The same answers with the siblings of each prompt in another order."""
    samples = [[row[k] for k in order] for row, order in zip(answers.samples, orders, strict=True)]
    scores = [[row[k] for k in order] for row, order in zip(answers.scores, orders, strict=True)]
    trees = [tree.with_completions([tree.completions[k] for k in order]) for tree, order in zip(answers.trees, orders, strict=True)]
    return Answers(answers.chosen, answers.prompts, trees, samples, scores)
