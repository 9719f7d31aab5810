"""REINFORCE with a leave-one-out baseline: K answers to a prompt, each measured against the mean of the others.

R(x, y) = r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)); the gradient is the mean over completions of (R_i - mean of R_j, j != i)
* grad log pi(y_i|x). Ahmadian et al. 2024, equation 7 (Kool et al. 2019).
"""

from pydantic import Field
from torch import Tensor

from trimtab.losses.policy import leave_one_out
from trimtab.methods.build import Rewards, Trained, need
from trimtab.methods.online import OnlineSettings, load_parts
from trimtab.methods.reinforce import Reinforce
from trimtab.training.method import MicroBatch


class Config(OnlineSettings):
    """Settings of ``trimtab rloo``."""

    num_completions: int = Field(4, ge=2, description="answers sampled for each prompt; each is measured against the others")


class RLOO(Reinforce):
    """RLOO on trees."""

    name = "rloo"
    config: Config

    def advantages(self, returns: Tensor, batch: MicroBatch) -> Tensor:
        return leave_one_out(returns, batch.trees.tree_of)


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward."""
    need(config, "model", "data", "reward")
    parts, tokenizer = load_parts("rloo", config, rewards)
    return Trained(RLOO(config, parts), len(parts.trees), {"model": (parts.policy, tokenizer)})
