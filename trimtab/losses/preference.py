"""Losses on pairs of completions: the reward model's, DPO's."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(reward_chosen: Tensor, reward_rejected: Tensor) -> Tensor:
    """-log sigma(r(x, y_w) - r(x, y_l)) for each pair.

    Ouyang et al. 2022 (InstructGPT), equation 1; Bradley and Terry 1952. The equation's 1/C(K,2), the weight of each pair of
    one ranking, is the method's (``methods/reward.py``).

    Shapes: (P,), (P,) -> (P,), nats.
    """
    return -logsigmoid(reward_chosen - reward_rejected)


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation: -log sigma(beta * [(log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l)]).

    Rafailov et al. 2023, equation 7. Inputs are log P(y|x) summed over the completion's tokens, the end token included.

    Shapes: four of (P,) -> loss (P,), implicit rewards beta * log pi/pi_ref of chosen (P,) and rejected (P,), detached.
    """
    reward_chosen = beta * (policy_chosen - reference_chosen)
    reward_rejected = beta * (policy_rejected - reference_rejected)
    return -logsigmoid(reward_chosen - reward_rejected), reward_chosen.detach(), reward_rejected.detach()
