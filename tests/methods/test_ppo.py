"""PPO's iteration taken apart: what the first ratio and KL are, what shaped rewards sum to, where the controller moves."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from online_methods import TEMPERATURES, assert_updates_end_once_the_policy_has_moved, iterations
from safetensors.torch import load_file
from tiny_models import (
    PROMPTS,
    answer_score,
    gradient_error,
    gradients,
    online_parts,
    random_trees,
    randomise,
    read_lines,
    write_lines,
)

from trimtab.common.errors import RunFailed
from trimtab.common.files import write_json
from trimtab.data.template import Renderer
from trimtab.feedback.ensemble import Ensemble
from trimtab.feedback.protocol import Rule
from trimtab.feedback.reward_model import RewardModel
from trimtab.losses.policy import clipped_surrogate, clipped_value_loss
from trimtab.methods.build import run
from trimtab.methods.control import KLControl, Penalty, RunningScale
from trimtab.methods.mix import Mix, Ptx
from trimtab.methods.online import tree_lengths
from trimtab.methods.ppo import PPO, Config, build, start_value
from trimtab.methods.reward import add_pad_token
from trimtab.models.load import load_scorer, load_tokenizer, save_model
from trimtab.models.lora import Lora
from trimtab.models.score import ValueHead, score_rewards, score_tokens, score_values
from trimtab.training.loop import Learner
from trimtab.training.method import MicroBatch, State
from trimtab.trees import PromptTree, TreeBatch


def make(start: Path, *, other_reference: bool = False, **options: Any) -> PPO:
    settings = {
        "batch_size": 4,
        "num_completions": 3,
        "max_tokens": 7,
        "minibatch_size": 2,
        "micro_batch_tokens": 50,
        "seed": 1,
        "dtype": "float32",
    }
    mix, value_offset = options.pop("mix", None), options.pop("value_offset", 0.0)
    config = Config(**{**settings, **options})
    parts = online_parts(start, Rule(answer_score), Rule(answer_score, "gold"), other_reference=other_reference)
    value = ValueHead(parts.policy) if config.value == "trunk" else load_scorer(start)
    torch.nn.init.normal_(value.score.weight, generator=torch.Generator().manual_seed(3))
    return PPO(config, parts, value, value_offset, mix)


def first_epoch(method: PPO) -> list[list[MicroBatch]]:
    steps = [list(step) for step in method.batches(State(0, 1))]
    return steps[: len(steps) // method.config.epochs_per_batch]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_before_the_first_update_the_ratio_is_one_and_the_kl_zero(start: Path, temperature: float) -> None:
    """The same modules sample, score and are the reference: log-ratio to the reference exactly 0, ratio 1 to 1e-5."""
    method = make(start, temperature=temperature)
    for step in first_epoch(method):
        for batch in step:
            metrics = method.loss(batch)[1]
            count = metrics["ratio_mean"][1]
            assert metrics["ratio_mean"][0] / count == pytest.approx(1, abs=1e-5)
            assert abs(metrics["approx_kl"][0]) <= 1e-8 * count and metrics["clipfrac"][0] == 0
    logged = method.after(State(1, 1))
    assert logged["kl/reference"] == 0.0 and logged["kl/per_token"] == 0.0
    assert logged["engine/max_diff"] <= 1e-4 and logged["reward/gold"] == logged["reward/rule"]


def test_shaped_rewards_sum_to_the_score_minus_beta_times_the_log_ratio(start: Path) -> None:
    """gamma = lambda = 1: the return of a completion's first token is r - [cut] * cut_penalty - beta * log(pi / pi_ref)."""
    method = make(start, other_reference=True, beta=0.3, gae_lambda=1.0, gamma=1.0, cut_penalty=2.5)
    rollouts = method.rollouts([0, 1, 2, 3], 0)
    tokens = method.score_rollouts([r.tree for r in rollouts])
    cuts = 0
    for i, (rollout, said) in enumerate(zip(rollouts, tokens, strict=True)):
        lengths = tree_lengths(rollout.tree)
        firsts = lengths.cumsum(0) - lengths
        ratios = (said.logprobs - said.reference_logprobs).split(lengths.tolist())
        for completion, first, ratio in zip(rollout.tree.completions, firsts.tolist(), ratios, strict=True):
            cut = completion[-1] != method.parts.renderer.end_id
            cuts += cut
            score = answer_score(PROMPTS[i], method.parts.renderer.decode(completion))
            assert abs(float(ratio.sum())) > 0.1
            assert float(rollout.returns[first]) == pytest.approx(
                score - 2.5 * cut - 0.3 * float(ratio.sum()), abs=1e-3
            )
    assert cuts > 0
    every = torch.cat([r.advantages for r in rollouts])
    assert float(every.mean()) == pytest.approx(0, abs=1e-5) and float(every.std(correction=0)) == pytest.approx(
        1, abs=1e-4
    )


def test_advantages_are_whitened_over_the_iteration_and_not_by_prompt(start: Path) -> None:
    """Scores -1 0 1 and 10 -10 30, lambda 1, no values: each token's advantage is its answer's score, less the mean of all, over the
    deviation of all."""
    method = make(start, gae_lambda=1.0)
    with torch.no_grad():
        method.value.score.weight.zero_()
    answers = replace(method.answer([0, 1], 0), scores=[[-1.0, 0.0, 1.0], [10.0, -10.0, 30.0]])
    method.answer = lambda *given: answers  # type: ignore[method-assign]
    lengths = torch.cat([tree_lengths(tree) for tree in answers.trees])
    every = torch.tensor([-1.0, 0.0, 1.0, 10.0, -10.0, 30.0]).repeat_interleave(lengths)
    found = torch.cat([r.advantages for r in method.rollouts([0, 1], 0)])
    assert torch.allclose(found, (every - every.mean()) / every.std(correction=0), atol=1e-5)


def test_the_logged_kl_is_per_completion(start: Path) -> None:
    method = make(start, other_reference=True)
    rollouts = method.rollouts([0, 1], 0)
    tokens = method.score_rollouts([r.tree for r in rollouts])
    total = sum(float((t.logprobs - t.reference_logprobs).sum()) for t in tokens)
    logged = method.after(State(1, 1))
    assert logged["kl/reference"] == pytest.approx(total / 6, rel=1e-5)
    assert logged["kl/per_token"] == pytest.approx(total / sum(len(t.logprobs) for t in tokens), rel=1e-5)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (2.0, 1 + 0.2 * 12 / 60),
        (0.5, 1 - 0.2 * 12 / 60),
        (1.0, 1.0),
        (1.1, 1 + 0.1 * 12 / 60),
        (-3.0, 1 - 0.2 * 12 / 60),
    ],
)
def test_the_controller_moves_beta_towards_the_target(start: Path, kl: float, factor: float) -> None:
    """Target 1, horizon 60, 4 prompts x 3 answers = 12: error kl - 1 clipped to 0.2, beta * (1 + error * 12 / 60)."""
    method = make(start, beta=0.1, kl=KLControl(target=1.0, horizon=60))
    method.kl = kl
    assert method.after(State(1, 1))["beta"] == 0.1  # what this iteration was trained with
    assert method.beta == pytest.approx(0.1 * factor)
    other = make(start, beta=0.1)
    other.load_state_dict(method.state_dict())
    assert other.beta == method.beta


def test_a_short_horizon_never_turns_the_penalty_into_a_reward(start: Path) -> None:
    """1 - 0.2 * 12 / 2 would be -0.2."""
    method = make(start, beta=0.1, kl=KLControl(target=1.0, horizon=2))
    method.kl = 0.0
    method.after(State(1, 1))
    assert method.beta == pytest.approx(0.05)


def test_without_a_target_beta_stays(start: Path) -> None:
    method = make(start, beta=0.1)
    method.kl = 50.0
    method.after(State(1, 1))
    assert method.beta == 0.1


def test_the_loss_does_not_depend_on_the_micro_batch_split(start: Path) -> None:
    """Loss and gradients of one minibatch, whole and a tree at a time; the divisor is the minibatch's completion tokens."""
    found = []
    for budget in (1, 10_000):
        method = make(start, micro_batch_tokens=budget, other_reference=True)
        (step, *_) = first_epoch(method)
        tokens = sum(len(batch.trees.targets) for batch in step)
        assert {batch.divisor for batch in step} == {float(tokens)}
        with torch.no_grad():
            method.policy.lm_head.weight.mul_(1.05)  # so that ratios are not 1
        loss = sum(float(method.loss(batch)[0].detach()) for batch in step)
        for batch in step:
            method.loss(batch)[0].backward()
        slopes = [p.grad for m in method.modules.values() for p in m.parameters() if p.grad is not None]
        found.append((len(step), loss, slopes))
    (many, loss, slopes), (one, other, others) = found
    assert (many, one) == (2, 1) and loss == pytest.approx(other, rel=1e-5)
    for a, b in zip(slopes, others, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def test_every_epoch_sees_every_answer_once(start: Path) -> None:
    method = make(start, epochs_per_batch=3)
    steps = [[tree for batch in step for tree in batch.trees.trees] for step in method.batches(State(2, 9))]
    assert len(steps) == 3 * 2
    epochs = [sorted((t.prompt, t.completions) for step in steps[e : e + 2] for t in step) for e in (0, 2, 4)]
    assert epochs[0] == epochs[1] == epochs[2] and len(epochs[0]) == 4


def test_answers_depend_on_the_iteration_and_the_seed_only(start: Path) -> None:
    def sampled(method: PPO, iteration: int) -> Sequence[Any]:
        return [r.tree.completions for r in method.rollouts([0, 1], iteration)]

    assert sampled(make(start), 0) == sampled(make(start), 0)
    assert sampled(make(start), 0) != sampled(make(start), 1)
    assert sampled(make(start), 0) != sampled(make(start, seed=2), 0)


def test_updates_stop_once_the_policy_has_moved_too_far(start: Path) -> None:
    method = make(start, stop_kl=0.1)
    assert method.before_step({"approx_kl": (0.9, 10.0)}) and not method.before_step({"approx_kl": (1.1, 10.0)})
    assert_updates_end_once_the_policy_has_moved(make, start)


def test_at_another_temperature_old_and_new_logprobs_are_both_of_scaled_logits(start: Path) -> None:
    """The ratio is 1 at temperature 0.7 too, and the old logprobs are the engine's own of what it drew from."""
    method = make(start, temperature=0.7)
    rollouts = method.rollouts([0, 1, 2], 0)
    for step in [method.minibatch(rollouts)]:
        for batch in step:
            total, count = method.loss(batch)[1]["ratio_mean"]
            assert total / count == pytest.approx(1, abs=1e-5)
    cold = make(start, temperature=1.0).score_rollouts([r.tree for r in rollouts])
    assert not torch.allclose(
        torch.cat([t.logprobs for t in cold]), torch.cat([r.old_logprobs for r in rollouts]), atol=1e-2
    )


def test_sample_rows_say_what_was_asked_answered_and_scored(start: Path) -> None:
    method = make(start)
    method.rollouts([3, 0], 0)
    rows = method.samples()
    assert [row["prompt"] for row in rows] == ["the old mill", "the cat"]
    assert all(row["reward"] == row["gold"] == answer_score(PROMPTS[0], row["completion"]) for row in rows)


def test_the_value_model_starts_as_the_calibrated_reward(start: Path, tmp_path: Path) -> None:
    """At a completion's last token its output plus the constant is (plain score - shift) / scale."""
    scorer, tokenizer = load_scorer(start, seed=5), load_tokenizer(start)
    add_pad_token(scorer, tokenizer, Renderer(tokenizer).end_id)
    save_model(scorer, tokenizer, tmp_path / "reward")
    write_json(tmp_path / "reward/reward.json", {"shift": -0.7, "scale": 2.5})
    reward = RewardModel(tmp_path / "reward")
    value, offset = start_value(str(start), reward, reward.renderer)
    tree = PromptTree(tuple(reward.renderer.prompt(PROMPTS[0])), ((7, 9), (11,)))
    with torch.no_grad():
        said = score_rewards(value, TreeBatch.pack([tree])) + offset
    assert said.tolist() == pytest.approx(reward.score_trees([tree])[0], abs=1e-5)


def test_the_constant_is_added_to_every_value_of_a_rollout_and_of_the_loss(start: Path) -> None:
    """Without a clip on values the loss at the first update is value_coef / 2 * (V + 0.7 - R)^2 beside the policy's."""
    method, plain = make(start, value_offset=0.7, value_clip=0.0), make(start, value_clip=0.0)
    rollouts, others = method.rollouts([0, 1], 0), plain.rollouts([0, 1], 0)
    for rollout, other in zip(rollouts, others, strict=True):
        assert torch.allclose(rollout.old_values, other.old_values + 0.7, atol=1e-6)
    for batch in method.minibatch(rollouts):
        total, count = method.loss(batch)[1]["value_loss"]
        values = score_values(method.value, batch.trees).detach() + 0.7
        assert total / count == pytest.approx(0.5 * float((values - batch.extra["returns"]).square().mean()), rel=1e-5)


def test_without_a_reward_model_the_value_starts_at_zero(start: Path) -> None:
    value, offset = start_value(str(start), Rule(answer_score), Renderer(load_tokenizer(start)))
    assert offset == 0.0 and not value.score.weight.any()


def test_an_engine_that_is_off_is_seen_at_any_temperature(start: Path) -> None:
    """By half a nat, at temperature 0.7: both sides are of logits / temperature."""
    method = make(start, temperature=0.7)
    real = method.parts.engine.sample

    def off(*given: Any, **named: Any) -> Any:
        rows = real(*given, **named)
        return [[replace(s, logprobs=tuple(x - 0.5 for x in s.logprobs)) for s in row] for row in rows]

    method.rollouts([0, 1], 0)
    assert method.logged["engine/max_diff"] <= 1e-4
    method.parts.engine.sample = off  # type: ignore[method-assign]
    method.rollouts([0, 1], 0)
    assert method.logged["engine/mean_diff"] == pytest.approx(0.5, abs=1e-3)


def test_a_reward_model_that_is_only_watched_is_not_called_gold(start: Path) -> None:
    method = make(start)
    method.parts = replace(method.parts, reward=Rule(answer_score, "gold"), gold=Rule(lambda prompt, text: -5.0, "proxy"))
    method.rollouts([0, 1], 0)
    assert method.logged["reward/watched"] == -5.0 and method.logged["reward/gold"] != -5.0


def moved_policy(method: PPO) -> list[MicroBatch]:
    """The first minibatch, once the policy is no longer the one that sampled it."""
    (step, *_) = first_epoch(method)
    with torch.no_grad():
        method.policy.lm_head.weight.mul_(1.05)
    return step


def policy_slopes(method: PPO, step: Sequence[MicroBatch]) -> dict[str, torch.Tensor]:
    for batch in step:
        method.loss(batch)[0].backward()
    return gradients(method.policy)


def test_without_any_option_the_loss_is_the_clipped_one_bit_for_bit(start: Path) -> None:
    """(sum of the clipped surrogate + value_coef * sum of the clipped value loss) / tokens, and nothing else in the graph."""
    method = make(start, other_reference=True)
    for batch in moved_policy(method):
        tokens, extra = score_tokens(method.policy, batch.trees), batch.extra
        surrogate = clipped_surrogate(tokens.logprobs, extra["old_logprobs"], extra["advantages"], clip=0.2)[0]
        values = score_values(method.value, batch.trees)
        value_loss = clipped_value_loss(values, extra["old_values"], extra["returns"], clip=0.2)
        assert torch.equal(method.loss(batch)[0], (surrogate.sum() + 0.5 * value_loss.sum()) / batch.divisor)


def test_one_epoch_without_a_clip_is_reinforce_with_the_advantages(start: Path) -> None:
    """At the first update the ratio is 1, so that the policy's gradient is sum of -A grad log pi / tokens."""
    method = make(start, clip=1e9)
    (step, *_) = first_epoch(method)
    found = policy_slopes(method, step)
    for batch in step:
        (-(batch.extra["advantages"] * score_tokens(method.policy, batch.trees).logprobs).sum() / batch.divisor).backward()
    assert gradient_error(found, gradients(method.policy)) <= 1e-4


def test_the_penalty_is_the_plain_surrogate_plus_its_price_times_the_kl(start: Path) -> None:
    """The loss with price 3 less the loss with a price of almost nothing is 3 * k3 per token; a tiny price is clip to infinity."""
    step = moved_policy(method := make(start, variant="penalty", penalty=Penalty(beta=3.0)))
    for batch in step:
        loss, metrics = method.loss(batch)
        method.price = 1e-12
        free, _ = method.loss(batch)
        method.price = 3.0
        kl, tokens = metrics["approx_kl"]
        assert kl > 0 and "clipfrac" not in metrics  # it clips nothing
        assert float((loss - free).detach()) == pytest.approx(3 * kl / batch.divisor, rel=1e-3)
        assert tokens <= batch.divisor
    method.price = 1e-12
    other = make(start, clip=1e9)
    other.policy = method.policy
    assert gradient_error(policy_slopes(method, step), policy_slopes(other, step)) <= 1e-5


def test_the_price_rises_where_the_policy_moved_too_far(start: Path) -> None:
    """Target 1e-6 per token: after one iteration of large steps the KL is far above it, and log beta grows by the rate, 0.5. At temperature
    0.7 the KL is that of what is sampled."""
    options: dict[str, Any] = {"lr": 1e-2, "stop_kl": 1e9, "micro_batch_tokens": 500, "temperature": 0.7}
    method = make(start, variant="penalty", penalty=Penalty(beta=2.0, target=1e-6), **options)
    method.update(method.batches(State(0, 9)), Learner(method, method.config), "step 0")
    old = torch.cat([r.old_logprobs for r in method._rollouts])
    now = torch.cat([t.logprobs for t in method.score_rollouts([r.tree for r in method._rollouts])])
    logged = method.after(State(1, 9))
    assert logged["penalty/beta"] == 2.0 and method.price == pytest.approx(2.0 * math.exp(0.5))
    exact = float((torch.expm1(now - old) - (now - old)).mean())
    assert logged["penalty/kl"] == pytest.approx(exact, rel=1e-4) and exact > 1e-5
    other = make(start, variant="penalty")
    other.load_state_dict(method.state_dict())
    assert other.price == method.price
    other.load_state_dict({"beta": 0.3})  # of a run begun before there was a price
    assert other.beta == 0.3


def test_dual_descent_holds_the_kl_of_a_real_policy(start: Path) -> None:
    """From a price that is far too low (the first iterations move by an eighth of a nat and more): iterations 31 to 40 end within 20 % of
    the target, on average."""
    method = make(
        start, variant="penalty", penalty=Penalty(beta=0.1, target=0.02), batch_size=5, num_completions=8, max_tokens=6, minibatch_size=5,
        epochs_per_batch=4, beta=0.0, lr=3e-3, stop_kl=1e9, micro_batch_tokens=8192,
    )  # fmt: skip
    seen = [row["penalty/kl"] for row in iterations(method, 40)]
    assert min(seen[:3]) > 0.125 and sum(seen[-10:]) / 10 == pytest.approx(0.02, rel=0.2)


def test_the_entropy_bonus_is_taken_off_the_loss(start: Path) -> None:
    method, plain = make(start, entropy_coef=0.7), make(start)
    step, same = first_epoch(method)[0], first_epoch(plain)[0]
    for batch, other in zip(step, same, strict=True):
        entropy = float(score_tokens(method.policy, batch.trees).entropy.sum().detach()) / batch.divisor
        assert entropy > 0
        gap = float((plain.loss(other)[0] - method.loss(batch)[0]).detach())
        assert gap == pytest.approx(0.7 * entropy, rel=1e-4)


def test_rewards_in_another_scale(start: Path) -> None:
    """whiten: all token rewards to variance 1, their mean kept; running: scores less the mean so far, over the deviation so far."""
    plain = make(start, other_reference=True)
    answers = plain.answer([0, 1, 2, 3], 0)
    tokens = plain.score_rollouts(answers.trees)
    flat = torch.cat(plain.rewards(answers, tokens))
    white = torch.cat(make(start, normalise="whiten").rewards(answers, tokens))
    assert float(white.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert float(white.mean()) == pytest.approx(float(flat.mean()), abs=1e-4)

    running = make(start, normalise="running", beta=0.0)
    every: list[float] = []
    for iteration in range(3):
        rows = [[float(x + 10 * iteration) for x in row] for row in answers.scores]
        every += [x for row in rows for x in row]
        shaped = running.rewards(replace(answers, scores=rows), tokens)
        mean, deviation = torch.tensor(every).mean(), torch.tensor(every).std(correction=0)
        sums = [float(part.sum()) for r, tree in zip(shaped, answers.trees, strict=True) for part in r.split(tree_lengths(tree).tolist())]
        expected = [float((x - mean) / deviation) for row in rows for x in row]
        assert sums == pytest.approx(expected, abs=1e-4)
    again = make(start, normalise="running")
    again.load_state_dict(running.state_dict())
    assert again.scale.state_dict() == running.scale.state_dict() and again.scale.count == len(every)


def test_a_running_scale_of_equal_scores_is_zero() -> None:
    scale = RunningScale()
    assert scale.normalised(3.0) == 0.0
    scale.add([])
    scale.add([2.0, 2.0])
    assert scale.normalised(2.0) == 0.0


def test_demonstrations_are_mixed_into_every_update(start: Path) -> None:
    """PPO-ptx: beside each minibatch two of five trees, the next ones each time; their mean cross-entropy counts 4 times."""
    trees = random_trees([(3, (4,)), (5, (2,)), (4, (6,)), (2, (3,)), (6, (5,))])
    method = make(start, mix=Mix(trees.__getitem__, 5, 2, 500, 1), ptx=Ptx(weight=4.0, demonstrations="demos.jsonl"))
    plain = make(start)
    steps, without = [list(s) for s in method.batches(State(1, 9))], [list(s) for s in plain.batches(State(1, 9))]
    assert len(steps) == len(without) == 4
    mixed = [[tree for batch in step if not batch.extra for tree in batch.trees.trees] for step in steps]
    assert [len(row) for row in mixed] == [2, 2, 2, 2] and mixed[0] != mixed[1]
    again = [[t for b in s if not b.extra for t in b.trees.trees] for s in make(start, mix=method.mix).batches(State(1, 9))]
    assert again == mixed
    for step, other in zip(steps, without, strict=True):
        assert [b.trees.trees for b in step if b.extra] == [b.trees.trees for b in other]
        (batch,) = (b for b in step if not b.extra)
        loss, metrics = method.loss(batch)
        total, count = metrics["ptx_loss"]
        assert count == batch.divisor == len(batch.trees.targets)
        assert float(loss.detach()) == pytest.approx(4 * total / count, rel=1e-5)


def test_the_mix_goes_on_where_the_last_iteration_ended(start: Path) -> None:
    """Four updates of two trees in each of two iterations: the first epoch of 16 trees, each once."""
    trees = random_trees([(3, (4,))] * 16)
    method = make(start, mix=Mix(trees.__getitem__, 16, 2, 500, 1), ptx=Ptx(weight=1.0, demonstrations="demos.jsonl"))
    seen = [t.key for i in (0, 1) for s in method.batches(State(i, 9)) for b in s if not b.extra for t in b.trees.trees]
    assert len(seen) == 16 == len(set(seen))


def test_answers_that_were_cut_are_left_out_where_that_is_asked(start: Path) -> None:
    """The rest is what it is without the option; where nothing is left the run fails and says what to do."""
    long = {"max_tokens": 60, "num_completions": 8}
    method, plain = make(start, cut="left_out", **long), make(start, **long)
    kept, every = method.answer([0, 1, 2, 3], 0), plain.answer([0, 1, 2, 3], 0)
    ended = {s.token_ids for row in every.samples for s in row if s.stop == "end"}
    assert 0 < len(ended) < 32 and {s.token_ids for row in kept.samples for s in row} == ended
    assert all(row for row in kept.samples) and [t.key for t in kept.trees] == [p.id for p in kept.prompts]
    assert [len(row) for row in kept.scores] == [len(t.completions) for t in kept.trees]
    assert sum(len(r.tree.completions) for r in method.rollouts([0, 1, 2, 3], 0)) == len([s for row in kept.samples for s in row])
    with pytest.raises(RunFailed, match="iteration 1: every answer was cut at max_tokens=1, and cut=left_out leaves nothing"):
        make(start, cut="left_out", max_tokens=1).answer([0, 1], 0)


def test_sibling_order_and_a_constant_change_the_policy_gradient_by_nothing(start: Path) -> None:
    """A constant goes to the value model: with advantages over the returns (lambda 1, no values) whitening takes it out again."""
    method = make(start, beta=0.0, gae_lambda=1.0, batch_size=2)
    with torch.no_grad():
        method.value.score.weight.zero_()
    expected = policy_slopes(method, method.minibatch(method.rollouts([0, 1], 0)))
    real = method.parts.reward
    method.parts = replace(method.parts, reward=Rule(lambda prompt, text: answer_score(prompt, text) + 5))
    assert gradient_error(policy_slopes(method, method.minibatch(method.rollouts([0, 1], 0))), expected) <= 1e-4
    method.parts = replace(method.parts, reward=real)
    turned = [
        replace(r, tree=r.tree.with_completions(r.tree.completions[::-1]), **{
            name: torch.cat(getattr(r, name).split(tree_lengths(r.tree).tolist())[::-1])
            for name in ("old_logprobs", "advantages", "returns", "old_values")
        })
        for r in method.rollouts([0, 1], 0)
    ]  # fmt: skip
    assert gradient_error(policy_slopes(method, method.minibatch(turned)), expected) <= 1e-5


def test_the_value_model_of_an_ensemble_starts_from_its_first_reward_model(start: Path, tmp_path: Path) -> None:
    scorer, tokenizer = load_scorer(start, seed=5), load_tokenizer(start)
    add_pad_token(scorer, tokenizer, Renderer(tokenizer).end_id)
    save_model(scorer, tokenizer, tmp_path / "reward")
    reward = RewardModel(tmp_path / "reward")
    value, _ = start_value(str(start), Ensemble([Rule(answer_score), reward], "mean"), reward.renderer)
    assert torch.equal(value.score.weight, reward.model.score.weight)


# ---- a head on the policy's trunk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_trunks_values_are_a_scorers_of_the_same_trunk_and_head(start: Path, temperature: float) -> None:
    """And what the policy says of the tokens is what it says without them, to the bit; a fresh head says 0."""
    method = make(start, value="trunk", temperature=temperature)
    tree = PromptTree(tuple(method.parts.renderer.prompt(PROMPTS[0])), ((7, 9), (11,)))
    batch, twin = TreeBatch.pack([tree]), load_scorer(start)
    with torch.no_grad():
        twin.score.weight.copy_(method.value.score.weight)
        tokens, values = method.scored(batch)
        torch.testing.assert_close(values, score_values(twin, batch), atol=1e-5, rtol=0)
        assert torch.equal(tokens.logprobs, score_tokens(method.policy, batch, temperature=temperature).logprobs)
        assert float(values.abs().max()) > 0.1 and not ValueHead(method.policy).score.weight.any()


def test_the_trunk_has_both_gradients_in_the_share_that_value_coef_says(start: Path) -> None:
    """Its gradient is the policy's alone plus value_coef times the value's alone; with 0 it is that of a PPO without a value loss."""

    def slopes(coefficient: float, advantages: float = 1.0) -> dict[str, torch.Tensor]:
        method = make(start, value="trunk", value_coef=coefficient)
        (step, *_) = first_epoch(method)
        for batch in step:
            extra = {**batch.extra, "advantages": advantages * batch.extra["advantages"]}
            method.loss(replace(batch, extra=extra))[0].backward()
        head = method.value.score.weight.grad
        assert head is not None and bool(head.any()) == (coefficient > 0)
        return gradients(method.policy)

    both, policy, value = slopes(0.7), slopes(0.0), slopes(1.0, advantages=0.0)
    assert gradient_error(both, {name: g + 0.7 * value[name] for name, g in policy.items()}) <= 1e-4
    assert gradient_error(both, policy) > 1e-2


@pytest.mark.parametrize("lora", [Lora(), Lora(rank=3)], ids=["all weights", "adapters"])
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"compile": "true"}], ids=["plain", "checkpointing", "compile"])
def test_a_run_with_a_head_on_the_trunk_learns_its_values_and_leaves_a_plain_model(
    lora: Lora, options: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    asked = [{"id": f"i{i}", "messages": [{"role": "user", "content": f"say {i}"}]} for i in range(4)]
    data = write_lines(tmp_path / "prompts.jsonl", asked)
    words: dict[str, Any] = {"steps": 6, "batch_size": 4, "num_completions": 4, "max_tokens": 5, "lr": 1e-2, "dtype": "float32"}
    words |= {"model": str(start), "data": str(data), "reward": "x", "value": "trunk", "beta": 0.0, "lora": lora, **options}
    config = Config(out=str(tmp_path / "run"), **words)
    run("ppo", config, lambda name: Rule(lambda prompt, text: 3.0))
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run/metrics.jsonl")}
    assert rows[1, "kl/reference"] == 0.0 and rows[6, "value_loss"] < rows[1, "value_loss"]
    (kept,) = (tmp_path / "run/checkpoints").iterdir()
    assert "value.score.weight" in load_file(kept / "weights.safetensors")
    assert not (tmp_path / "run/value").exists()
    assert not any("score" in name for name in load_file(tmp_path / "run/model/model.safetensors"))


def test_a_value_model_of_its_own_may_begin_as_the_start_model(start: Path, tmp_path: Path) -> None:
    """Though there is a reward model that reads the policy's tokens: its head is 0, its trunk the start model's."""
    scorer, tokenizer = load_scorer(start, seed=5), load_tokenizer(start)
    add_pad_token(scorer, tokenizer, Renderer(tokenizer).end_id)
    randomise(scorer, seed=2)
    save_model(scorer, tokenizer, tmp_path / "reward")
    data = write_lines(tmp_path / "prompts.jsonl", [{"id": "i", "messages": [{"role": "user", "content": "say"}]}])
    for value, zero in (("reward", False), ("start", True)):
        config = Config(model=str(start), data=str(data), reward=f"reward:{tmp_path}/reward", value=value, max_tokens=4)
        made = build(config, lambda name: RewardModel(tmp_path / "reward")).method
        assert isinstance(made, PPO) and bool((made.value.score.weight == 0).all()) == zero
        trunk = made.value.model.layers[0].mlp.up_proj.weight
        assert torch.equal(trunk, made.policy.model.layers[0].mlp.up_proj.weight) == zero
