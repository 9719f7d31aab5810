"""Losses on the policy's own likelihoods, without a reference model: cross-entropy, the sequence triplet, SLiC-HF, ORPO, SimPO.

``chosen`` and ``rejected`` are log P(y|x) of each pair's answers: summed over the tokens, the end token included, or that sum divided
by the number of tokens. Each function says which; which answers make a pair is the method's business.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SURE = -1e-6
"""Mean logprob above which an answer's odds count as 1e6 to 1: in float32 the odds of a sure answer would be infinite."""


def cross_entropy(logprobs: Tensor, weights: Tensor, *, tokens: float) -> Tensor:
    """-(1 / #tokens) * sum of log P(y_t|x, y_<t): some tokens' share of the mean over ``tokens``, all that a step trains.

    Radford et al. 2018 (GPT-1), equation 1, on text; on demonstrations' answers Ouyang et al. 2022, step 1. ``weights`` say what each token
    counts, and ``tokens`` is their sum over the whole step.

    Shapes: logprobs and weights (S,) -> (), nats per token.
    """
    return -(weights * logprobs).sum() / tokens


def triplet_loss(chosen: Tensor, rejected: Tensor, *, delta: float) -> Tensor:
    """max(0, delta - log P(y+|x) + log P(y-|x)): the better answer is to be likelier by ``delta`` nats, then nothing more is asked.

    Zhao et al. 2022 (SLiC), the rank loss. Sums or means over tokens, with ``delta`` in the same unit.

    Shapes: (P,), (P,) -> (P,), nats.
    """
    return (delta - chosen + rejected).relu()


def task_and_text_loss(logprobs: Tensor, task: Tensor, *, text_weight: float, task_tokens: float, text_tokens: float) -> Tensor:
    """Each token's share of -(1 / #task) * sum over the task's tokens of log P - lambda * (1 / #text) * sum over the others of log P.

    Radford et al. 2018 (GPT-1), equation 5: the task's loss and lambda = ``text_weight`` times the language model's on the same text, each
    normalised by its own count over the whole step (``task_tokens``, ``text_tokens``; with no such token its part is 0).

    Shapes: logprobs (S,), task (S,) bool -> (S,), nats per token.
    """
    shares = task / max(task_tokens, 1.0) + text_weight * ~task / max(text_tokens, 1.0)
    return -shares * logprobs


def slic_loss(chosen: Tensor, rejected: Tensor, reference_answer: Tensor, *, delta: float, sft_weight: float) -> Tensor:
    """max(0, delta - log P(y+|x) + log P(y-|x)) - lambda * log P(y_ref|x), with lambda = ``sft_weight``.

    Zhao et al. 2023 (SLiC-HF). ``reference_answer`` is log P(y_ref|x) of a good answer to each pair's prompt: likelihoods of
    this policy, not of a reference model. Sums or means over tokens, all three alike.

    Shapes: three of (P,) -> (P,), nats.
    """
    return triplet_loss(chosen, rejected, delta=delta) - sft_weight * reference_answer


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log [p / (1 - p)] of p = exp(mean logprob), the geometric mean of an answer's token probabilities. Any shape.

    Hong et al. 2024, equation 4 (``SURE`` bounds it).
    """
    return mean_logprob - torch.log(-torch.expm1(mean_logprob.clamp(max=SURE)))


def orpo_loss(chosen: Tensor, rejected: Tensor, answer: Tensor, *, odds_weight: float) -> Tensor:
    """-log P(y|x) per token of a good answer, and lambda * -log sigma(log odds(y_w) - log odds(y_l)), with lambda = ``odds_weight``.

    Hong et al. 2024 (ORPO), equations 6 and 7. ``answer`` is the mean logprob of the answer that is learnt (of two answers, the chosen).
    All are means over tokens.

    Shapes: three of (P,) -> (P,), nats.
    """
    return -answer - odds_weight * logsigmoid(log_odds(chosen) - log_odds(rejected))


def simpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float) -> Tensor:
    """-log sigma(beta * log P(y_w|x) - beta * log P(y_l|x) - gamma) of means over tokens.

    Meng et al. 2024 (SimPO), equation 6.

    Shapes: (P,), (P,) -> (P,), nats.
    """
    return -logsigmoid(beta * (chosen - rejected) - gamma)
