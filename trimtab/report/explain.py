"""The words of the page for somebody who sees such a report for the first time."""

import math
import re

from trimtab.common.stats import Estimate
from trimtab.report.read import Evaluation, Folder, text

STEPS = (
    (
        "base",
        ("pretrain",),
        "The base model",
        "was trained to predict the next word of raw text, and nothing else. Given a question it continues the page "
        "on which it "
        "would expect that question, often with more questions. It shows where everything starts.",
    ),
    (
        "few",
        (),
        "The few-shot prompt",
        "puts some answered examples before the question. Nothing is trained: it shows how much the base model can "
        "do already and only has "
        "to be shown.",
    ),
    (
        "workbook",
        (),
        "The prompt in the base's own words",
        "asks as the exercises were asked that the base has read among its pages, with their solutions, and cuts off what follows. "
        "Nothing is trained: it is what a well-chosen prompt gets out of the base, and who knows this prompt need not train to beat "
        "the bare base.",
    ),
    (
        "sft",
        ("sft",),
        "Supervised fine-tuning (SFT)",
        "trains on answers that were written for it. It teaches what an answer looks like, but it imitates: where the "
        "writers stated "
        "what they did not know, or told what they should not, so will the model. Every later stage starts from it "
        "and is compared with it.",
    ),
    (
        "reward",
        ("reward",),
        "The reward model",
        "exists because it is easier to say which answer is better than to write a good one. Labelers ranked "
        "several answers to the same prompt; the reward model learns to score the better-ranked one higher. It can be asked "
        "without end, "
        "and it is only a stand-in for the labelers: a proxy, with errors that can be exploited.",
    ),
    (
        "best",
        (),
        "Best-of-n",
        "trains nothing: the SFT model answers n times and the reward model picks. It is the simplest way to use a "
        "reward model, and the line that "
        "training has to beat. Its price is paid at every answer: n of them are written.",
    ),
    (
        "dpo",
        ("dpo",),
        "Direct preference optimisation (DPO)",
        "learns from the same rankings without a reward model and without sampling: the better answer is made "
        "likelier and the worse "
        "one less likely, both measured against the SFT model.",
    ),
    (
        "likelihoods",
        ("triplet", "slic", "orpo", "simpo"),
        "Training on rankings by likelihood alone",
        "makes the better answer of each pair likelier than the worse one by the model's own probabilities. No second model holds "
        "it where it started; a margin that is enough, or a loss on good answers beside it, does.",
    ),
    (
        "kto",
        ("kto",),
        "KTO",
        "learns from single answers that are called good or bad, without pairs: a good one is to gain over what the start model "
        "gave it, a bad one to lose, and what is gained or lost already counts less and less.",
    ),
    (
        "gradient",
        ("scst", "rloo", "grpo"),
        "Policy gradient",
        "lets the model answer, scores the answers, and makes likelier what scored above a baseline: the model's own greedy answer "
        "(SCST), the mean of the other answers to the prompt (RLOO), or the group's mean in units of its spread (GRPO). A penalty on the "
        "distance to the start model (KL) keeps it where the reward can be trusted.",
    ),
    (
        "trpo",
        ("trpo",),
        "Trust-region policy optimisation (TRPO)",
        "takes, in each iteration, the longest step along the natural gradient that keeps the distance (KL) between the policy before and "
        "after it under a bound. The step is measured before it is kept: one that is too long, or that gains nothing, is shortened, "
        "and one that stays bad is not taken.",
    ),
    (
        "iterated",
        ("bon",),
        "Finetuning on the best of n",
        "lets the model answer n times, keeps the answer that the reward likes best, trains on it as SFT does, and again. What one "
        "round can move is bounded; rounds add up.",
    ),
    (
        "ppo",
        ("ppo",),
        "Proximal policy optimisation (PPO)",
        "lets the model answer, scores the answers by the reward model, and makes likelier what scored above "
        "expectation. A penalty on the "
        "distance to the SFT model (KL) keeps it where the reward model can be trusted.",
    ),
)

# what the demo's recipe calls them
SHORT = {"fewshot": "few", "bon": "best"}

JUDGED = {
    "gold": (
        "Gold score",
        "is the judgement of {judge}, which no model was trained on. It is what counts; a reward model's own score "
        "is called proxy.",
    ),
    "proxy": (
        "Proxy score",
        "is the score of {judge}, a reward model. Models that were trained on it, or on the rankings behind it, look better "
        "here than they are: ask people before believing it.",
    ),
    "rule": ("Score", "is given by the rule {judge}."),
}

READING = (
    (
        "Preferred to {baseline}",
        "is how often an answer of a model has a higher score than an answer of {baseline} to the same prompt; a tie "
        "counts half. 50 % means no difference.",
    ),
    (
        "Invented facts and secrets told",
        "count only the prompts where that is possible. Who says little invents little: a base model's share is small because it seldom "
        "answers the question.",
    ),
    (
        "The line around each dot",
        "is a 95 % interval: with other prompts of the same kind, and the same models, 95 of 100 such intervals "
        "would hold the true "
        "value. The number behind a figure counts only the prompts it could be measured on.",
    ),
    (
        "Paired differences",
        "compare two models prompt by prompt. The difficulty of the prompts cancels, so they show smaller "
        "differences than the table does. An interval "
        "that does not touch zero is a difference.",
    ),
    (
        "KL",
        "measures in nats how far a model has moved from the SFT model. Moving costs: far from it, the reward "
        "model's errors grow. "
        "The best model gains much gold for little KL.",
    ),
)


def steps_of(folder: Folder) -> list[tuple[str, str]]:
    """(title, text) of the steps that this folder has, in the order in which they build on each other."""
    verbs = {stage.verb for stage in folder.stages}
    names = {m.name for m in folder.evaluation.models} if folder.evaluation else set()
    out = []
    for key, by_verb, title, words in STEPS:
        parts = {part for name in names for part in re.split(r"[^a-z]+", name.lower())} if key in ("few", "best") else set()
        named = key in names | parts | {SHORT.get(name) for name in names}
        if named or verbs & set(by_verb):
            out.append((title, words))
    return out


def reading_of(evaluation: Evaluation) -> list[tuple[str, str]]:
    """(term, text): how to read the table."""
    known = {"judge": judge_of(evaluation), "baseline": evaluation.title_of(evaluation.baseline)}
    kinds = {name for m in evaluation.models for name in m.figures} | ({"paired"} if evaluation.paired else set())
    needs = ("gold", "win_rate", "invented", "", "paired", "kl")
    return [
        (fill(a, known), fill(b, known))
        for (a, b), need in zip((JUDGED.get(evaluation.source, JUDGED["rule"]), *READING), needs, strict=True)
        if not need or need in kinds
    ]


def judge_of(evaluation: Evaluation) -> str:
    """Who judged, in words."""
    if evaluation.judge == "village":
        return "the village's judge, a program that checks facts, secrets, wording and length"
    return text(evaluation.judge, 80)


def fill(sentence: str, known: dict[str, str]) -> str:
    """``str.format`` for names only: a title that holds braces stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda m: known.get(m[1], m[0]), sentence)


def headline(evaluation: Evaluation) -> list[str]:
    """One sentence for each model after the baseline, last one first: how it stands against it, with the interval."""
    names = [m.name for m in evaluation.models]
    place = names.index(evaluation.baseline) if evaluation.baseline in names else -1
    base = evaluation.title_of(evaluation.baseline)
    out = []
    for model in reversed(evaluation.models[place + 1 :]):
        rate = model.figures.get("win_rate")
        if rate is not None and math.isfinite(rate.low):
            name = model.title[:1].upper() + model.title[1:]
            out.append(f"{name} {verdict(rate)} {base}: it wins {spread(rate)} of the comparisons on {rate.n} prompts.")
    if out:
        out.append(f"Who judged: {judge_of(evaluation)}.")
    return out


def verdict(rate: Estimate) -> str:
    """What a win rate's interval allows to be said."""
    if rate.low > 0.5:
        return "is preferred to"
    return "is worse than" if rate.high < 0.5 else "is not clearly different from"


def spread(e: Estimate) -> str:
    """``68.2 % (95 % interval 64.0 to 72.1)``."""
    return f"{100 * e.value:.1f} % (95 % interval {100 * e.low:.1f} to {100 * e.high:.1f})"
