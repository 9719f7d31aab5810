"""What methods share that take one policy-gradient step on fresh answers: REINFORCE, to which each brings its baseline.

R(x, y) = r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)) (Stiennon et al. 2020); the gradient is the mean over completions of A * grad log
pi(y|x). With A = R it is REINFORCE (Williams 1992); a method takes something off R that does not depend on y. No value model, no
ratio: one optimizer step on each iteration's answers, so they are always the current policy's own. All answers to a prompt are one
tree, so the forward pass of the update gives the log-ratio that their advantages need, and no pass is made for it alone.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trimtab.methods.offline import total
from trimtab.methods.online import Answers, Held, OnlineSettings, Parts, engine_logprobs, packed
from trimtab.models.score import score_tokens
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep, State
from trimtab.trees import step_indices


class Reinforce(Held):
    """REINFORCE on trees. ``advantages`` is what a method adds."""

    config: OnlineSettings

    def __init__(self, config: OnlineSettings, parts: Parts) -> None:
        super().__init__(config, parts)
        self._largest = 0.0

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def advantages(self, returns: Tensor, batch: MicroBatch) -> Tensor:
        """(C,) R of every completion of the batch -> (C,) what each counts; 0 for one that is only measured against."""
        return returns

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and gives one optimizer step."""
        chosen = step_indices(len(self.parts.trees), self.config.batch_size, self.config.seed, state.step)
        yield self.step(self.answer(chosen, state.step))

    def step(self, answers: Answers, baselines: Sequence[float] = ()) -> OptimizerStep:
        """Packs the answers; the divisor is the number of completions.

        With ``baselines`` the last completion of every tree is no answer but what its siblings are measured against: it has this score,
        and is neither learnt from nor counted.
        """
        self._largest = self.kl = 0.0
        extras = []
        for i, (scores, samples) in enumerate(zip(answers.scores, answers.samples, strict=True)):
            own = [baselines[i]] if baselines else []
            learnt = torch.tensor([True] * len(scores) + [False] * len(own))
            extras.append({"scores": torch.tensor([*scores, *own]), "learnt": learnt, "said": engine_logprobs([samples])})
        divisor = float(sum(map(len, answers.scores)))
        return packed(answers.trees, extras, self.config.micro_batch_tokens, divisor)

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        trees, temperature, learnt = batch.trees, self.config.temperature, batch.extra["learnt"]
        tokens = score_tokens(self.policy, trees, temperature=temperature)
        with torch.no_grad():  # the same batch on the same numeric path: with equal weights every log-ratio is exactly 0
            reference = score_tokens(self.reference, trees, temperature=temperature).logprobs
        log_ratio = tokens.logprobs.detach() - reference
        kl = trees.sum_by_completion(log_ratio)
        self.kl += float(kl[learnt].sum()) / batch.divisor
        returns = batch.extra["scores"] - self.beta * kl
        advantages = self.advantages(returns, batch)
        losses = -advantages * trees.sum_by_completion(tokens.logprobs)
        drawn = learnt[trees.completion_of]  # (S,) bool
        apart = (batch.extra["said"] - tokens.logprobs.detach()[drawn]).abs()
        self._largest = max(self._largest, float(apart.max()))
        metrics = {
            "policy_loss": total(losses[learnt]), "kl/reference": total(kl[learnt]), "kl/per_token": total(log_ratio[drawn]),
            "return": total(returns[learnt]), "advantage_abs": total(advantages[learnt].abs()), "entropy": total(tokens.entropy[drawn]),
            "engine/mean_diff": total(apart),
        }  # fmt: skip
        return losses.sum() / batch.divisor, metrics

    def after(self, state: State) -> dict[str, float]:
        return {**super().after(state), "engine/max_diff": self._largest}
