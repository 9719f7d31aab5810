"""Online methods on a tiny policy, ready to be taken apart by their tests; and what is asked of each of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from tiny_models import answer_score, gradient_error, gradients, online_parts

from trimtab.feedback.protocol import Rule
from trimtab.methods.online import Answers, Online, Parts
from trimtab.training.loop import Learner
from trimtab.training.method import MicroBatch, State

M = TypeVar("M", bound=Online)

SETTINGS = {"batch_size": 3, "num_completions": 3, "max_tokens": 6, "seed": 1, "dtype": "float32", "cut_penalty": 2.5}
TEMPERATURES = (1.0, 0.7)  # policy, reference and engine all speak of logits / temperature


def made(method: Callable[[Any, Parts], M], settings: type[Any], start: Path, *, other_reference: bool = False, **options: Any) -> M:
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


def iterations(method: Online, count: int) -> list[dict[str, float]]:
    """What is logged of each of the first ``count`` iterations, rewarded for the letter a."""
    method.parts = replace(method.parts, reward=Rule(lambda prompt, text: float(text.count("a"))))
    learner, logged = Learner(method, method.config), []
    for i in range(count):
        method.update(method.batches(State(i, count)), learner, f"step {i}")
        logged.append(method.after(State(i, count)))
    return logged


def assert_the_reward_grows(method: Online) -> list[dict[str, float]]:
    """After 30 iterations there are more of the letter than at first; returns what was logged."""
    logged = iterations(method, 30)
    rewards = [row["reward/rule"] for row in logged]
    assert sum(rewards[-5:]) > 1.5 * sum(rewards[:5]) + 0.5
    return logged


def assert_updates_end_once_the_policy_has_moved(make: Callable[..., Online], start: Path) -> None:
    """Three epochs of one large step each: the first is taken; the second finds the policy moved, and is not, nor is the third."""

    def run(**options: Any) -> tuple[torch.Tensor, float]:
        method = make(start, lr=1e-2, minibatch_size=9, **options)
        method.update(method.batches(State(0, 9)), Learner(method, method.config), "step 1")
        weights = torch.cat([p.detach().flatten() for module in method.modules.values() for p in module.parameters()])
        made = method.after(State(1, 9))["updates"]
        assert method.after(State(2, 9))["updates"] == 0  # counted for each iteration anew
        return weights, made

    stopped, once, thrice = (run(epochs_per_batch=n, stop_kl=kl) for n, kl in ((3, 1e-6), (1, 1e9), (3, 1e9)))
    assert torch.equal(stopped[0], once[0]) and not torch.equal(stopped[0], thrice[0])
    assert [made for _, made in (stopped, once, thrice)] == [1, 1, 3]


def assert_packing_changes_nothing(make: Callable[..., Online], start: Path) -> None:
    """The three prompts' answers in three micro-batches or in one: the same gradient."""
    found = []
    for budget in (1, 10_000):
        method = make(start, other_reference=True, micro_batch_tokens=budget)
        step = first_step(method)
        found.append((len(step), slopes(method, step)))
    assert (found[0][0], found[1][0]) == (3, 1)
    assert gradient_error(found[0][1], found[1][1]) <= 1e-5
