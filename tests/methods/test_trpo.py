"""TRPO's iteration taken apart: its gradient, its bound, a step refused to the bit, packing, what grows when it is trained."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from online_methods import TEMPERATURES
from tiny_models import PROMPTS, answer_score, online_parts, save_tiny_policy, write_lines
from torch import Tensor

from trimtab.common import precision
from trimtab.common.errors import RunFailed, UserError
from trimtab.feedback.protocol import Feedback, Rule
from trimtab.methods import rloo, trpo
from trimtab.methods.trpo import TRPO, Config, Trust, build, joined
from trimtab.models.fisher import trained
from trimtab.models.score import score_tokens, tail_of, tree_states
from trimtab.training.method import State
from trimtab.trees import PromptTree, TreeBatch


class NoLearner:
    """The loop's half of an update, which TRPO must not ask."""

    def descend(self, optimizer_steps: Any, where: str) -> None:
        pytest.fail("the optimizer was asked")


def make(start: Path, *, other_reference: bool = False, reward: Any = answer_score, **options: Any) -> TRPO:
    settings = {"batch_size": 4, "num_completions": 3, "max_tokens": 6, "micro_batch_tokens": 50, "seed": 1, "cut_penalty": 2.5}
    return TRPO(Config(**{**settings, **options}), online_parts(start, Rule(reward), other_reference=other_reference))


def iterate(method: TRPO, iteration: int = 0) -> dict[str, float]:
    method.update(method.batches(State(iteration, 9)), NoLearner(), f"step {iteration + 1}")
    return method.after(State(iteration + 1, 9))


def weights(method: TRPO) -> Tensor:
    return joined({name: p.detach().clone() for name, p in method.policy.named_parameters()})


def all_logprobs(method: TRPO, trees: list[PromptTree]) -> Tensor:
    """(S, V) of the answers' tokens, by the dense definition of attention."""
    batch = TreeBatch.pack(trees)
    with torch.no_grad():
        rows = tree_states(method.policy, batch, "math").index_select(0, batch.sources)
        return torch.log_softmax(rows.double() @ tail_of(method.policy).weight.double().T / method.config.temperature, -1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_is_that_of_rloo_per_token_and_not_per_completion(start: Path, temperature: float) -> None:
    """At the old weights grad ratio = grad log pi, so that only the divisors differ."""
    method = make(start, other_reference=True, beta=0.3, temperature=temperature)
    answers, _ = method.batches(State(0, 9))
    value, found = method.gradient(answers, "here")
    settings = {name: getattr(method.config, name) for name in rloo.Config.model_fields}
    other = rloo.RLOO(rloo.Config(**settings), online_parts(start, Rule(answer_score), other_reference=True))
    (step,) = other.batches(State(0, 9))
    for batch in step:
        other.loss(batch)[0].backward()
    tokens, completions = answers[0].divisor, step[0].divisor
    expected = -joined({name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained(other.policy).items()})
    assert completions == 12 and tokens == sum(len(b.trees.targets) for b in answers) > 12
    assert torch.allclose(found, expected * completions / tokens, rtol=1e-3, atol=1e-5)
    assert value == pytest.approx(sum(float(b.extra["advantages"].sum()) for b in answers) / tokens, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("final", "share"), [(0.1, 0.55**2), (1.0, 1.0), (0.5, 0.75**2)])
def test_the_steps_fall_along_a_cosine(start: Path, final: float, share: float) -> None:
    """Half-way through, half a cosine is half-way down: a length of (1 + final) / 2, and delta goes with its square. The first iteration
    has all of delta, and each one's KL is within its own."""
    method, allowed = make(start, trust=Trust(delta=0.02, final_step=final)), []
    for iteration in (0, 4, 7):
        method.update(method.batches(State(iteration, 8)), NoLearner(), "here")
        logged = method.after(State(iteration + 1, 8))
        allowed.append(logged["trust/delta"])
        assert 0 < logged["trust/kl"] <= logged["trust/delta"]
    assert allowed[:2] == pytest.approx([0.02, 0.02 * share]) and allowed[2] >= 0.02 * final**2


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_bound_holds_on_every_step_by_the_plain_formula(start: Path, temperature: float) -> None:
    """KL(old, new) of the weights that are kept, over the whole vocabulary and by another path, is the logged one, and within delta."""
    method, accepted = make(start, temperature=temperature, trust=Trust(delta=0.02)), 0
    for iteration in range(5):
        answers, measured = method.batches(State(iteration, 9))
        trees = [tree for batch in answers for tree in batch.trees.trees]
        before = all_logprobs(method, trees)
        method.update([answers, measured], NoLearner(), "here")
        after, logged = all_logprobs(method, trees), method.after(State(iteration + 1, 9))
        kl = float((before.exp() * (before - after)).sum(-1).mean())
        assert kl == pytest.approx(logged["trust/kl"], rel=1e-3, abs=1e-7) and kl <= 0.02 * (1 + 1e-4)
        assert logged["trust/kl"] <= 0.02
        targets = TreeBatch.pack(trees).targets
        ratio = (after - before).gather(1, targets[:, None]).squeeze(1).exp()
        advantages = torch.cat([b.extra["advantages"] for b in answers]).double()
        assert float(((ratio - 1) * advantages).mean()) == pytest.approx(logged["trust/gain"], rel=1e-3, abs=1e-5)
        accepted += logged["trust/fraction"] > 0
        assert (logged["trust/gain"] > 0) == (logged["trust/fraction"] > 0)
    assert accepted >= 4


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_trained_weights_move_and_the_whole_step_is_of_the_size_of_delta(start: Path, temperature: float) -> None:
    """A small delta: the quadratic model is then good, and the first try reaches nearly all of it."""
    method = make(start, trust=Trust(delta=1e-4, damping=1e-3), temperature=temperature)
    before = weights(method)
    logged = iterate(method)
    assert logged["trust/kl_proposed"] == pytest.approx(1e-4, rel=0.15)
    assert logged["trust/gain"] == pytest.approx(logged["trust/gain_predicted"] * logged["trust/fraction"], rel=0.2)
    assert logged["trust/residual"] > 0 and logged["trust/step"] > 0 and logged["grad_norm"] > 0
    assert float((weights(method) != before).double().mean()) > 0.7  # rows of tokens that nobody wrote stay


@pytest.mark.parametrize("why", ["the KL stays above the bound", "the surrogate falls", "not a number", "all answers are equally good"])
def test_a_refused_step_leaves_every_weight_as_it_was_to_the_bit(start: Path, why: str) -> None:
    method = make(start, reward=(lambda prompt, text: 1.0) if "equally" in why else answer_score, cut_penalty=0, beta=0.0)
    measure = method.measure
    wrong = {"the KL stays above the bound": (1e9, 0.011), "the surrogate falls": (-1e9, 0.0), "not a number": (math.nan, math.nan)}
    seen = []

    def adversary(*given: Any) -> tuple[float, float]:
        seen.append(weights(method))
        return wrong.get(why) or measure(*given)

    method.measure = adversary  # type: ignore[method-assign]
    before = weights(method)
    logged = iterate(method)
    assert torch.equal(weights(method), before)
    assert (logged["trust/fraction"], logged["trust/kl"], logged["trust/gain"], logged["trust/step"]) == (0, 0, 0, 0)
    assert all(math.isfinite(value) for value in logged.values())
    assert len(seen) == (0 if "equally" in why else method.config.trust.tries) and not any(torch.equal(w, before) for w in seen)


def test_what_does_not_require_gradients_is_left_alone(start: Path) -> None:
    """Only the last layer's MLP: the rest stays, the reward's surrogate grows, the bound holds."""
    method = make(start)
    for name, p in method.policy.named_parameters():
        p.requires_grad_(".layers.1.mlp." in name)
    before = {name: p.detach().clone() for name, p in method.policy.named_parameters()}
    logged = iterate(method)
    moved = {name for name, p in method.policy.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(trained(method.policy)) and len(moved) == 3
    assert logged["trust/gain"] > 0 and 0 < logged["trust/kl"] <= 0.01


def test_how_the_answers_are_packed_changes_nothing(start: Path) -> None:
    found = []
    for budget in (1, 10_000):
        method = make(start, micro_batch_tokens=budget, other_reference=True, trust=Trust(cg_iterations=4))
        before = weights(method)
        logged = iterate(method)
        found.append((logged, weights(method) - before))
    (one, step), (other, others) = found
    assert one == pytest.approx(other, rel=1e-2, abs=1e-4)
    assert float((step - others).norm() / others.norm()) <= 1e-2


def test_the_scale_of_the_reward_changes_nothing(start: Path) -> None:
    """Ten times the reward and no penalty: the same step."""
    steps = []
    for factor in (1, 10):
        method = make(start, reward=lambda prompt, text, f=factor: f * answer_score(prompt, text), beta=0.0, cut_penalty=0)
        before = weights(method)
        iterate(method)
        steps.append(weights(method) - before)
    assert float((steps[0] - steps[1]).norm() / steps[0].norm()) <= 1e-3


def test_the_fisher_matrix_may_be_measured_on_some_prompts(start: Path) -> None:
    """Products are of the first prompts' answers; the bound is of all."""
    method = make(start, trust=Trust(fisher_prompts=1))
    answers, measured = method.batches(State(0, 9))
    assert [len(b.trees.trees) for b in measured] == [1] and sum(len(b.trees.trees) for b in answers) == 4
    whole = make(start)
    everything = next(iter(whole.batches(State(0, 9))))
    vector = torch.linspace(-1, 1, len(weights(method)))
    assert not torch.allclose(method.fisher(measured, vector), whole.fisher(everything, vector))
    assert iterate(method)["trust/kl"] <= 0.01


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_before_the_first_update_the_kl_is_zero_and_the_engine_agrees(start: Path, temperature: float) -> None:
    method = make(start, temperature=temperature)
    answers, _ = method.batches(State(0, 9))
    logged = method.after(State(1, 9))
    assert logged["kl/reference"] == logged["kl/per_token"] == 0.0 and logged["engine/max_diff"] <= 1e-4
    assert method.measure(answers, method.kept_tail())[1] == 0.0
    said = score_tokens(method.policy, answers[0].trees, temperature=temperature).logprobs
    assert torch.equal(said, answers[0].extra["old_logprobs"])


def test_the_reward_rises(start: Path) -> None:
    """Answers of the letter a: from one in ten to most, each iteration within its bound."""
    method = make(start, reward=lambda prompt, text: float("a" in text), num_completions=12, batch_size=5, beta=0.0, cut_penalty=0,
                  trust=Trust(delta=0.05, final_step=1))  # fmt: skip
    rewards = []
    for iteration in range(14):
        logged = iterate(method, iteration)
        rewards.append(logged["reward/rule"])
        assert logged["trust/kl"] <= 0.05
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.25, rewards


def test_a_number_that_is_not_finite_stops_before_the_step(start: Path) -> None:
    method = make(start, reward=lambda prompt, text: math.nan)
    before = weights(method)
    answers, _ = make(start).batches(State(0, 9))
    keys = "', '".join(dict.fromkeys(tree.key for batch in answers for tree in batch.trees.trees))
    assert keys.count(",") == 3
    with pytest.raises(RunFailed, match=rf"step 1: the surrogate is nan, its gradient nan on trees '{keys}'; no step was taken"):
        iterate(method)
    assert torch.equal(weights(method), before)


def no_rewards(name: str) -> Feedback:
    raise AssertionError(f"{name} was asked for")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"dtype": "bfloat16"}, "dtype=bfloat16: trpo multiplies in float32"),
        ({"lr": 1e-4}, "lr=0.0001 means nothing to trpo, which has no such optimizer: trust.delta bounds its steps, trust.final_step says"),
        ({"optimizer": "adamw8bit"}, "optimizer=adamw8bit means nothing to trpo, which has no such optimizer"),
        ({"reward": ""}, "reward= is missing"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(options: dict[str, Any], line: str) -> None:
    config = Config(**{"model": "/nowhere/at/all", "data": "nowhere.jsonl", "reward": "village", **options})
    with pytest.raises(UserError) as caught:
        build(config, no_rewards)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_auto_is_refused_where_it_means_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_in_bf16", lambda kind: True)
    with pytest.raises(UserError, match="dtype=auto: trpo multiplies in float32"):
        build(Config(model="m", data="d", reward="r", dtype="auto"), no_rewards)


def test_a_model_without_forward_mode_is_refused_before_it_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_policy(tmp_path / "policy", "gpt_oss")
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"id": p.id, "messages": [{"role": "user", "content": p.text}]} for p in PROMPTS])
    config = Config(model=str(folder), data=str(prompts), reward="rule", max_tokens=4)
    with pytest.raises(UserError, match="GptOssForCausalLM: the Fisher matrix needs forward-mode derivatives"):
        build(config, lambda name: Rule(answer_score))


def test_build_gives_the_policy_alone(start: Path, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"id": p.id, "messages": [{"role": "user", "content": p.text}]} for p in PROMPTS])
    made = build(Config(model=str(start), data=str(prompts), reward="rule", max_tokens=4), lambda name: Rule(answer_score))
    assert list(made.outputs) == ["model"] and made.items == len(PROMPTS) and list(made.method.modules) == ["policy"]
    assert isinstance(made.method, trpo.TRPO) and replace(made.method.parts, gold=None) == made.method.parts
