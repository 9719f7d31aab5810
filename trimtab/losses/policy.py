"""Policy-gradient pieces on flat tokens: shaped rewards, baselines, GAE, the surrogates, the value loss, KL estimators."""

import torch
from torch import Tensor

KL_ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(log_ratio: Tensor, estimator: str = "k1") -> Tensor:
    """An estimate of KL(p || q) from samples of p, given log_ratio = log p - log q of each.

    Schulman 2020, "Approximating KL divergence": k1 = log_ratio (unbiased, can be negative); k2 = log_ratio^2 / 2
    (biased, low variance); k3 = exp(-log_ratio) - 1 + log_ratio (unbiased, never negative). Any shape; nats.
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    assert estimator == "k3", f"estimator {estimator!r} is not one of {KL_ESTIMATORS}"
    return torch.expm1(-log_ratio) + log_ratio


def shaped_rewards(
    scores: Tensor, logprobs: Tensor, reference_logprobs: Tensor, last_tokens: Tensor, beta: float
) -> Tensor:
    """Per-token rewards whose sum over a completion is r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)).

    Stiennon et al. 2020, section 3.4; Ziegler et al. 2019, equation 2. The score sits on the completion's last token, the
    penalty on every token, so that its sum is the sequence's log-ratio.

    Shapes: scores (C,), logprobs and reference_logprobs (S,), last_tokens (C,) indices into S -> (S,).
    """
    rewards = -beta * (logprobs - reference_logprobs)
    return rewards.index_add(0, last_tokens, scores.to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation within each completion; the value after its last token is 0.

    Schulman et al. 2016, equation 16: A_t = sum_l (gamma * lambda)^l delta_{t+l}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    Shapes: rewards and values (S,), flat, completion after completion with ``lengths`` (C,) tokens each
    -> advantages (S,), returns (S,) = advantages + values.
    """
    starts = torch.cumsum(lengths, 0) - lengths
    rows = torch.arange(int(lengths.max()) if len(lengths) else 0, device=rewards.device)
    real = rows[None, :] < lengths[:, None]
    flat = (starts[:, None] + rows[None, :])[real]
    padded_rewards, padded_values = rewards.new_zeros(real.shape), values.new_zeros(real.shape)
    padded_rewards[real], padded_values[real] = rewards[flat], values[flat]
    next_values = torch.cat([padded_values[:, 1:], padded_values.new_zeros(len(lengths), 1)], dim=1)
    deltas = padded_rewards + gamma * next_values - padded_values
    running = torch.zeros_like(deltas[:, 0])
    padded = torch.zeros_like(deltas)
    for t in range(deltas.shape[1] - 1, -1, -1):
        running = deltas[:, t] + gamma * gae_lambda * running
        padded[:, t] = running
    advantages = torch.empty_like(rewards)
    advantages[flat] = padded[real]
    return advantages, advantages + values


def leave_one_out(returns: Tensor, group: Tensor) -> Tensor:
    """Each return minus the mean of the others in its group: R_i - (sum_j R_j - R_i) / (K - 1).

    Kool et al. 2019; Ahmadian et al. 2024 (RLOO), equation 7. Shapes: returns (C,), group (C,) int64 from 0 -> (C,). Alone in its group
    a return has nobody to be measured against, and its advantage is 0.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    sums = returns.new_zeros(groups).index_add(0, group, returns)[group]
    others = torch.bincount(group, minlength=groups)[group] - 1
    return torch.where(others > 0, returns - (sums - returns) / others.clamp_min(1), torch.zeros_like(returns))


def self_critical(returns: Tensor, group: Tensor, greedy: Tensor) -> Tensor:
    """Each return minus that of its group's greedy answer, which itself gets 0: R_i - R_greedy.

    Rennie et al. 2017 (SCST), section 3. Shapes: returns (C,), group (C,) int64 from 0, greedy (C,) bool, once in every group -> (C,).
    """
    groups = int(group.max()) + 1 if len(group) else 0
    baselines = returns.new_zeros(groups).index_add(0, group[greedy], returns[greedy])
    return returns - baselines[group]


def group_normalised(returns: Tensor, group: Tensor, *, divide_by_std: bool = True) -> Tensor:
    """(R_i - mean of its group) / (standard deviation of its group + 1e-4), or without the division.

    Shao et al. 2024 (GRPO), section 4.1.2; Liu et al. 2025 (Dr. GRPO) leave the division out, and it is then (K - 1) / K of
    ``leave_one_out``. The paper does not say which deviation; here it is the sample's (divisor K - 1), as in TRL. 1e-4: answers that
    differ by rounding alone shall not be told apart. Shapes: returns (C,), group (C,) int64 from 0 -> (C,).
    """
    groups = int(group.max()) + 1 if len(group) else 0

    def mean(values: Tensor, correction: int = 0) -> Tensor:
        sums = values.new_zeros(groups).index_add(0, group, values)
        return (sums / (torch.bincount(group, minlength=groups) - correction).clamp_min(1))[group]

    centred = returns - mean(returns)
    return centred / (mean(centred.square(), 1).sqrt() + 1e-4) if divide_by_std else centred


def whiten(values: Tensor, *, keep_mean: bool = False) -> Tensor:
    """(n,) -> zero mean and unit variance over all n; with ``keep_mean`` the mean is what it was. One value is then itself, else 0.

    Advantages: Huang et al. 2022 (the 37 implementation details of PPO), detail 7. Rewards keep their mean: Huang et al. 2024.
    """
    mean = values.mean()
    whitened = (values - mean) / (values.std(correction=0) + 1e-8)
    return whitened + mean if keep_mean else whitened


def surrogate(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """ratio * A for each token, with ratio = pi / pi_old. Schulman et al. 2015 (TRPO), equation 14. Shapes: three of (S,) -> (S,)."""
    return torch.exp(logprobs - old_logprobs) * advantages


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """-min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A) for each token, with ratio = pi / pi_old.

    Schulman et al. 2017 (PPO), equation 7. Shapes: three of (S,) -> loss (S,), ratio (S,) detached.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return loss, ratio.detach()


def penalised_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """-(ratio * A - beta * KL(pi_old, pi)) for each token, with ratio = pi / pi_old and the KL by k3.

    Schulman et al. 2017 (PPO), equation 8. The tokens are pi_old's, so that k3 = ratio - 1 - log ratio and its gradient
    (ratio - 1) * grad log pi are unbiased; at pi = pi_old both are 0. Shapes: three of (S,) -> loss (S,), ratio (S,) detached.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    return beta * kl_estimate(old_logprobs - logprobs, "k3") - ratio * advantages, ratio.detach()


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """0.5 * max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) for each token; without ``clip`` 0.5 * (V - R)^2.

    The clipped form is that of Schulman's baselines code (Huang et al. 2022, detail 9). Shapes: three of (S,) -> (S,).
    """
    loss = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (clipped - returns).square())
    return 0.5 * loss


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - var(returns - values) / var(returns): 1 is a perfect value model, 0 no better than a constant. (S,), (S,) -> ()."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0).clamp_min(1e-8)
