"""Policy-gradient pieces on flat tokens: shaped rewards, GAE, the clipped surrogate, the value loss, KL estimators."""

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


def whiten(values: Tensor) -> Tensor:
    """(n,) -> zero mean and unit variance over all n (Huang et al. 2024, detail 10). One value is returned as 0."""
    centred = values - values.mean()
    return centred / (values.std(correction=0) + 1e-8)


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


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> Tensor:
    """0.5 * max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) for each token; without ``clip`` 0.5 * (V - R)^2.

    The clipped form is that of Schulman's baselines code (Huang et al. 2024, detail 9). Shapes: three of (S,) -> (S,).
    """
    loss = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (clipped - returns).square())
    return 0.5 * loss


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - var(returns - values) / var(returns): 1 is a perfect value model, 0 no better than a constant. (S,), (S,) -> ()."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0).clamp_min(1e-8)
