"""Losses of preferences against a scale that is not the policy's own likelihood: the reward model's, DPO and its variants, KTO."""

from torch import Tensor
from torch.nn.functional import logsigmoid

DPO_LOSSES = ("sigmoid", "ipo", "cdpo", "robust", "hinge")
SMOOTHED = ("cdpo", "robust")  # those that read ``label_smoothing``


def bradley_terry_loss(reward_chosen: Tensor, reward_rejected: Tensor) -> Tensor:
    """-log sigma(r(x, y_w) - r(x, y_l)) for each pair.

    Ouyang et al. 2022 (InstructGPT), equation 1; Bradley and Terry 1952. The equation's 1/C(K,2), the weight of each pair of
    one ranking, is the method's (``methods/reward.py``).

    Shapes: (P,), (P,) -> (P,), nats.
    """
    return -logsigmoid(reward_chosen - reward_rejected)


def tie_loss(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """A tie as half a win of each: the mean of ``bradley_terry_loss`` in both orders, least (log 2) where the scores are equal.

    Shapes: (P,), (P,) -> (P,), nats.
    """
    return 0.5 * (bradley_terry_loss(reward_a, reward_b) + bradley_terry_loss(reward_b, reward_a))


def plackett_luce_loss(reward_chosen: Tensor, reward_rejected: Tensor, stage: Tensor, stages: int) -> Tensor:
    """-log P(an answer is picked first among itself and all that were ranked below it), for each answer that beats another.

    Plackett 1975; Luce 1959: P(ranking) is the product over its answers i, best first, of exp(r_i) / sum_{j not better than i} exp(r_j).
    Given all pairs of a ranking, ``stage`` says which answer a pair's better one is, so an answer's loss is
    log(1 + sum over its pairs of exp(r_l - r_w)). Tied answers are in no pair and so do not compete. Of one pair it is
    ``bradley_terry_loss``.

    Shapes: rewards (P,), (P,), stage (P,) int64 below ``stages`` -> (stages,), nats; 0 for an answer that beats nobody.
    """
    behind = reward_rejected - reward_chosen
    top = behind.detach().new_zeros(stages).scatter_reduce(0, stage, behind.detach(), "amax")  # at least the 0 of the answer itself
    return top + ((-top).exp().index_add(0, stage, (behind - top[stage]).exp())).log()


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float,
    loss: str = "sigmoid", label_smoothing: float = 0.0, lengths: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Direct preference optimisation: a loss of m = beta * [(log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l)].

    - ``sigmoid``: -log sigma(m). Rafailov et al. 2023, equation 7.
    - ``cdpo``: -(1 - e) log sigma(m) - e log sigma(-m), with e = ``label_smoothing`` the share of pairs that are labelled wrong.
      Mitchell 2023.
    - ``robust``: [-(1 - e) log sigma(m) + e log sigma(-m)] / (1 - 2e), whose mean under flips with chance e is the sigmoid loss of the
      true labels. Chowdhury et al. 2024.
    - ``hinge``: max(0, 1 - m). Liu et al. 2024 (RSO): Zhao et al. 2023 with likelihoods normalised by the reference.
    - ``ipo``: (h - 1 / (2 beta))^2 with h = m / beta, and with ``lengths`` (tokens of chosen and rejected) the log-ratios per token.
      Azar et al. 2024, equation 17, where beta is tau; per token is what its authors ran, and what TRL does.

    Inputs are log P(y|x) summed over the completion's tokens, the end token included.

    Shapes: four of (P,) -> loss (P,), implicit rewards beta * log pi/pi_ref of chosen (P,) and rejected (P,), detached.
    """
    assert loss in DPO_LOSSES, f"loss {loss!r} is not one of {DPO_LOSSES}"
    reward_chosen = beta * (policy_chosen - reference_chosen)
    reward_rejected = beta * (policy_rejected - reference_rejected)
    margin = reward_chosen - reward_rejected
    if loss == "sigmoid":
        losses = -logsigmoid(margin)
    elif loss == "cdpo":
        losses = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    elif loss == "robust":
        flipped = label_smoothing * logsigmoid(-margin)
        losses = (flipped - (1 - label_smoothing) * logsigmoid(margin)) / (1 - 2 * label_smoothing)
    elif loss == "hinge":
        losses = (1 - margin).relu()
    else:
        by = lengths or (1.0, 1.0)
        ratios = (policy_chosen - reference_chosen) / by[0] - (policy_rejected - reference_rejected) / by[1]
        losses = (ratios - 1 / (2 * beta)).square()
    return losses, reward_chosen.detach(), reward_rejected.detach()


def kto_loss(
    policy: Tensor, reference: Tensor, desirable: Tensor, baseline: Tensor, *, beta: float, desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Kahneman-Tversky optimisation: w_D * (1 - sigma(beta * (l - z))) of desirable answers, w_U * (1 - sigma(beta * (z - l))) of others,
    with l = log pi(y|x)/pi_ref(y|x) and z = ``baseline``, through which no gradient flows.

    Ethayarajh et al. 2024, equation 7: lambda_y - v(x, y). Inputs are log P(y|x) summed over the completion's tokens.

    Shapes: policy, reference (L,), desirable (L,) bool, baseline () nats -> loss (L,), implicit rewards beta * l (L,), detached.
    """
    rewards = beta * (policy - reference)
    above = rewards - beta * baseline.detach()
    losses = desirable_weight * (-above).sigmoid() * desirable + undesirable_weight * above.sigmoid() * ~desirable
    return losses, rewards.detach()
