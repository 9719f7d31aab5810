"""Trust-region policy optimisation: the natural gradient, as far as the exact KL to the policy that sampled allows.

Maximise E[ratio * A] subject to E[KL(pi_old, pi)] <= delta (Schulman et al. 2015, equation 14), both means over completion tokens, the
KL that of whole distributions. One iteration: sample K answers to each prompt; with g the gradient of the surrogate and F the Fisher
matrix, solve (F + damping) x = g by conjugate gradient on products F v; go sqrt(2 delta / x^T F x) along x; take less and less of that step
until the surrogate has risen and the exact KL, measured again on the weights that are kept, is at most delta (appendix C). Where no
share of the step is good the weights are those of before, to the bit.

R(x, y) = r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)); A is an answer's R minus the mean of its prompt's other answers, for each of its
tokens. That is the paper's "vine" (section 5.2) with prompts as the states that are branched from: Monte Carlo returns and no value
model, the simplest thing that is faithful. The scale of A changes nothing, since delta sets the step's length; so A is not whitened,
and there is no learning rate and no optimizer state. As learning rates do elsewhere the steps' length, which is sqrt(delta), falls to
a tenth: with the paper's constant delta the last policies are as far apart as the first, by the noise of one batch's answers
(docs/log.md: half the KL to the reference without it). All is float32: a bound of 0.01 nats is of the size of bf16's rounding.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.common.config import Settings
from trimtab.common.errors import RunFailed, UserError
from trimtab.common.precision import Dtype, in_bf16
from trimtab.losses.policy import leave_one_out, surrogate
from trimtab.methods.build import Rewards, Trained, need, refuse_idle
from trimtab.methods.offline import total
from trimtab.methods.online import Answers, Held, OnlineSettings, load_parts
from trimtab.models.fisher import exact_kl, fisher_vector, scored_rows, trained
from trimtab.models.score import Tail, score_tokens, tail_of, token_logprobs
from trimtab.training.method import Learner, Metrics, MicroBatch, OptimizerStep, State, tree_names
from trimtab.training.optimizer import cosine_fall
from trimtab.training.trust_region import Search, line_search, natural_step
from trimtab.trees import PromptTree, TreeBatch, pack_indices, step_indices

# Settings of the optimizer that TRPO has none of.
OPTIMIZER = ("lr", "schedule", "warmup", "final_lr", "weight_decay", "optimizer", "adam_beta2", "max_grad_norm")


class Trust(Settings):
    """The trust region and the search for a step in it; Schulman et al. 2015, section 8 and appendix C."""

    delta: float = Field(0.01, gt=0, description="largest KL(old, new) of an iteration, nats per completion token")
    final_step: float = Field(
        0.1, gt=0, le=1, description="what the steps' length, sqrt(delta), falls to along a cosine, a share of it; 1 = the paper's constant"
    )  # fmt: skip
    damping: float = Field(0.1, ge=0, description="added to the Fisher matrix's diagonal in conjugate gradient")
    cg_iterations: int = Field(10, ge=1, description="most products with the Fisher matrix in an iteration")
    cg_tolerance: float = Field(1e-3, ge=0, description="conjugate gradient ends at a residual of this share of the gradient")
    fisher_prompts: int = Field(
        0, ge=0, description="prompts whose answers the Fisher matrix is measured on; 0 = all; fewer are faster, and steps are cut more"
    )
    shrink: float = Field(0.7, gt=0, lt=1, description="share of the step that is tried next, where more of it is not good")
    tries: int = Field(10, ge=1, description="how often it is tried; then the iteration changes nothing")


class Config(OnlineSettings):
    """Settings of ``trimtab trpo``."""

    idle: ClassVar[tuple[str, ...]] = OPTIMIZER
    num_completions: int = Field(4, ge=2, description="answers sampled for each prompt; each is measured against the others")
    dtype: Dtype = Field("float32", description="number format of matrix products: float32 alone, the bound and the Fisher matrix need it")
    trust: Trust = Field(Trust(), description="the trust region")


class TRPO(Held):
    """TRPO on trees. What of ``policy`` requires gradients is trained."""

    name = "trpo"
    shown = ("reward/proxy", "reward/rule", "trust/kl")
    steps_by_lr = False
    config: Config
    delta: float  # the bound of this iteration, nats per completion token

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def batches(self, state: State) -> Iterator[OptimizerStep]:
        """Samples, scores, and gives the answers; then those of them that the Fisher matrix is measured on."""
        chosen = step_indices(len(self.parts.trees), self.config.batch_size, self.config.seed, state.step)
        self.delta = self.config.trust.delta * cosine_fall(state.step / state.steps, self.config.trust.final_step) ** 2
        answers = self.answer(chosen, state.step)
        yield self.step(answers)
        yield self.pack(answers.trees[: self.config.trust.fisher_prompts or None])[0]

    def pack(self, trees: Sequence[PromptTree]) -> tuple[list[MicroBatch], list[list[int]]]:
        """Micro-batches, and whose trees each has; the divisor is the completion tokens of all ``trees``."""
        divisor = float(sum(len(c) for tree in trees for c in tree.completions))
        packed = pack_indices(trees, self.config.micro_batch_tokens)
        made = [MicroBatch(TreeBatch.pack([trees[i] for i in members]), divisor) for members in packed]
        return [batch.to(self.policy.device) for batch in made], packed

    @torch.no_grad()
    def step(self, answers: Answers) -> OptimizerStep:
        """The answers with what the policy that sampled them says: ``old_rows`` (S, H), the head's inputs, stand for its whole
        distributions, which would be (S, V); ``old_logprobs`` and ``advantages`` are (S,)."""
        made, said, counted, drawn = [], [], [], []
        for batch, members in zip(*self.pack(answers.trees), strict=True):
            trees, temperature = batch.trees, self.config.temperature
            rows = scored_rows(self.policy, trees)
            logprobs, entropy = token_logprobs(rows, trees.targets, tail_of(self.policy), temperature=temperature)
            # the same batch on the same numeric path: with equal weights every log-ratio is exactly 0
            reference = score_tokens(self.reference, trees, temperature=temperature).logprobs
            scores = torch.tensor([x for i in members for x in answers.scores[i]], device=rows.device)
            returns = scores - self.beta * trees.sum_by_completion(logprobs - reference)
            advantages = leave_one_out(returns, trees.tree_of)
            said.append((logprobs, reference, entropy))
            counted.append((returns, advantages.abs()))
            drawn += [answers.samples[i] for i in members]
            extra = {"old_rows": rows, "old_logprobs": logprobs, "advantages": advantages[trees.completion_of]}
            made.append(replace(batch, extra=extra))
        self.log_tokens(drawn, *(torch.cat(column).cpu() for column in zip(*said, strict=True)))
        returned, sizes = (float(torch.cat(column).mean()) for column in zip(*counted, strict=True))
        self.logged |= {"return": returned, "advantage_abs": sizes}
        return made

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Minus the surrogate."""
        tokens = score_tokens(self.policy, batch.trees, temperature=self.config.temperature)
        gains = surrogate(tokens.logprobs, batch.extra["old_logprobs"], batch.extra["advantages"])
        return -gains.sum() / batch.divisor, {"policy_loss": total(-gains)}

    def update(self, optimizer_steps: Iterable[OptimizerStep], learner: Learner, where: str) -> None:
        """One step inside the trust region. The loop's optimizer is not asked."""
        answers, measured = optimizer_steps
        trust, weights = self.config.trust, trained(self.policy)
        before, old_tail = {name: p.detach().clone() for name, p in weights.items()}, self.kept_tail()
        start, gradient = self.gradient(answers, where)
        direction = natural_step(
            lambda v: self.fisher(measured, v), gradient,
            delta=self.delta, damping=trust.damping, iterations=trust.cg_iterations, tolerance=trust.cg_tolerance,
        )  # fmt: skip
        whole = split(direction.step, before)

        def move(fraction: float) -> tuple[float, float]:
            with torch.no_grad():
                for name, p in weights.items():
                    p.copy_(before[name] + fraction * whole[name] if fraction else before[name])
            reached, kl = self.measure(answers, old_tail) if fraction else (start, 0.0)
            return reached - start, kl

        nowhere = Search(0.0, 0.0, 0.0, 0.0)  # all answers are equally good
        found = line_search(move, delta=self.delta, shrink=trust.shrink, tries=trust.tries) if direction.size else nowhere
        if not found.fraction:
            move(0.0)
        self.logged |= {
            "policy_loss": -start, "grad_norm": float(gradient.norm()), "trust/residual": direction.residual,
            "trust/fraction": found.fraction, "trust/step": found.fraction * direction.size, "trust/delta": self.delta,
            "trust/kl": found.kl, "trust/gain": found.gain, "trust/gain_predicted": direction.predicted,
        }  # fmt: skip
        if math.isfinite(found.proposed_kl):  # no number is no number in JSON either
            self.logged["trust/kl_proposed"] = found.proposed_kl

    def gradient(self, answers: OptimizerStep, where: str) -> tuple[float, Tensor]:
        """The surrogate at the old weights, and its gradient (n,).

        Raises:
            RunFailed: one of them is not finite.
        """
        weights, value = trained(self.policy), 0.0
        slopes = {name: torch.zeros_like(p) for name, p in weights.items()}
        for batch in answers:
            loss = self.loss(batch)[0]
            found = torch.autograd.grad(-loss, list(weights.values()), allow_unused=True)
            value -= float(loss.detach())
            for name, slope in zip(weights, found, strict=True):
                slopes[name] += 0 if slope is None else slope
        out = joined(slopes)
        norm = float(out.norm())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise RunFailed(f"{where}: the surrogate is {value}, its gradient {norm} on trees {tree_names(answers)}; no step was taken")
        return value, out

    def fisher(self, step: OptimizerStep, vector: Tensor) -> Tensor:
        """F ``vector``, both (n,): the mean over the tokens of ``step``."""
        parts, out = split(vector, trained(self.policy)), torch.zeros_like(vector)
        for batch in step:
            out += joined(fisher_vector(self.policy, batch.trees, parts, temperature=self.config.temperature))
        return out / step[0].divisor

    @torch.no_grad()
    def measure(self, answers: OptimizerStep, old_tail: Tail) -> tuple[float, float]:
        """The surrogate and the exact KL(old, new), both means over completion tokens, at the weights as they are."""
        gains = kl = 0.0
        tail, temperature = tail_of(self.policy), self.config.temperature
        for batch in answers:
            rows, extra = scored_rows(self.policy, batch.trees), batch.extra
            logprobs = token_logprobs(rows, batch.trees.targets, tail, temperature=temperature)[0]
            gains += float(surrogate(logprobs, extra["old_logprobs"], extra["advantages"]).sum(dtype=torch.float64))
            kl += float(exact_kl(extra["old_rows"], old_tail, rows, tail, temperature=temperature).sum(dtype=torch.float64))
        return gains / answers[0].divisor, kl / answers[0].divisor

    def kept_tail(self) -> Tail:
        """The policy's tail as it is now, whatever becomes of the weights."""
        tail = tail_of(self.policy)
        return replace(tail, weight=tail.weight.detach().clone(), bias=None if tail.bias is None else tail.bias.detach().clone())


def joined(tensors: Mapping[str, Tensor]) -> Tensor:
    """(n,) all of them end to end."""
    return torch.cat([t.flatten() for t in tensors.values()])


def split(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(n,) -> tensors of the names and shapes of ``like``."""
    parts = vector.split([t.numel() for t in like.values()])
    return {name: part.view_as(t) for (name, t), part in zip(like.items(), parts, strict=True)}


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads prompts, the start model, the reference and the reward.

    Raises:
        UserError: bf16 products, an option of the optimizer, or a model without forward-mode derivatives.
    """
    need(config, "model", "data", "reward")
    if in_bf16(config.dtype):
        raise UserError(f"dtype={config.dtype}: trpo multiplies in float32: bf16's rounding is as large as its KL bound; leave dtype out")
    instead = "trust.delta bounds its steps, trust.final_step says how they fall"
    refuse_idle(config, f"to trpo, which has no such optimizer: {instead}; leave it out", *OPTIMIZER)
    parts, tokenizer = load_parts("trpo", config, rewards)
    method = TRPO(config, parts)
    probe = TreeBatch.pack([PromptTree((0,), ((0,),))])  # an operation without forward mode is met before anything is sampled
    fisher_vector(parts.policy, probe.to(parts.policy.device), trained(parts.policy))
    return Trained(method, len(parts.trees), {"model": (parts.policy, tokenizer)})
