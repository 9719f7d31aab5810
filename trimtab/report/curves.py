"""Which metrics share a chart, what each is called, what to look for. Metrics without a description get a chart too."""

from collections.abc import Mapping
from dataclasses import dataclass

from trimtab.report.read import Run, Series

HELD_OUT = "eval/"


@dataclass(frozen=True)
class Described:
    """One chart: ``members`` are (metric, name in the legend)."""

    title: str
    unit: str
    hint: str
    members: tuple[tuple[str, str], ...]
    reference: float | None = None


@dataclass(frozen=True)
class Chart:
    """A described chart with a run's data: (legend, metric, series) for each line that the run has."""

    described: Described
    lines: tuple[tuple[str, str, Series], ...]


def _one(metric: str, title: str, unit: str, hint: str, reference: float | None = None) -> Described:
    return Described(title, unit, hint, ((metric, "training"), (HELD_OUT + metric, "held out")), reference)


CATALOGUE = (
    _one(
        "reward/proxy",
        "Reward, proxy",
        "reward-model score, 0 = demonstrations",
        "What is maximised. It should rise; alone it proves nothing.",
    ),
    _one(
        "reward/gold",
        "Reward, gold",
        "judge's score",
        "Only watched. If it falls while the proxy rises, the proxy is being exploited.",
    ),
    _one("reward/watched", "Reward, watched", "watched judge's score", "Another reward model: a second opinion, no gold judge."),
    _one("reward/rule", "Reward, rule", "rule's score", "What is maximised. It should rise."),
    _one("reward/greedy", "Reward of greedy answers", "score", "The policy at temperature 0, which SCST's samples are measured against."),
    Described(
        "Reward of the best of n",
        "score",
        "What is trained on; the gap is what the second half of the samples buys.",
        (("reward/best", "best of n"), ("reward/best_of_half", "best of n / 2")),
    ),
    _one("return", "Return", "reward less beta x log-ratio", "What the policy gradient climbs. It should rise."),
    _one("advantage_abs", "Size of the advantages", "mean absolute value", "Near 0 all answers are equally good: nothing is to be learnt."),
    Described(
        "KL to the reference",
        "nats per answer, k1",
        "How far the policy has moved. Growing without a gain in gold is a bad trade.",
        (("kl/reference", "training"), ("kl/bound", "bound of one iteration")),
    ),
    _one("kl/per_token", "KL per token", "nats per token, k1", "The same distance without the effect of length."),
    _one(
        "entropy",
        "Entropy",
        "nats per token",
        "How open the choice of words still is. Near 0 the policy says one thing only.",
    ),
    _one(
        "length",
        "Length",
        "tokens per answer",
        "Should settle. Steady growth often means that length itself is rewarded.",
    ),
    _one(
        "stopped", "Answers that end by themselves", "share", "The rest was cut at the length limit. Should be near 1."
    ),
    _one("reward/cut", "Read without the prompt's beginning", "share of answers", "By a reward model with too few positions. Should be 0."),
    Described(
        "Loss",
        "nats",
        "Should fall and level off; held out rising while training falls is over-fitting.",
        (("loss", "training"), ("eval/loss", "held out")),
    ),
    Described(
        "Accuracy",
        "share of pairs",
        "Better-ranked answer scored higher; 0.5 is chance; how far two labelers agree is the yardstick.",
        (("accuracy", "training"), ("eval/accuracy", "held out")),
        0.5,
    ),
    _one(
        "margin",
        "Margin",
        "score of better minus worse",
        "Grows with certainty. Growing in training only is over-fitting.",
        0.0,
    ),
    Described(
        "Implicit reward",
        "beta x log-ratio to the reference",
        "The gap is what is widened. Both falling is usual; better falling far is not healthy.",
        (
            ("reward_chosen", "better answer"),
            ("reward_rejected", "worse answer"),
            ("eval/reward_chosen", "better, held out"),
            ("eval/reward_rejected", "worse, held out"),
        ),
        0.0,
    ),
    Described(
        "Log-probability of the answers",
        "nats per answer",
        "A strong fall of both means that probability moves to answers nobody ranked.",
        (
            ("logprob_chosen", "better answer"),
            ("logprob_rejected", "worse answer"),
            ("eval/logprob_chosen", "better, held out"),
            ("eval/logprob_rejected", "worse, held out"),
        ),
    ),
    _one("active", "Pairs that pull", "share of pairs", "Pairs whose margin is below delta. At 0 the hinge has nothing more to teach."),
    _one("kl/baseline", "KTO's baseline", "nats per answer", "What gains and losses are reckoned from: 0 at first, then small."),
    _one("sft_loss", "SFT loss on the best answer", "nats per token", "Holds good answers likely. Rising, they are displaced."),
    _one("text_loss", "Loss on the prompts", "nats per token", "The language model's own loss. Rising, the language is forgotten."),
    _one("ptx_loss", "Loss of the mix", "nats per token", "Stays where SFT or pretraining left it; rising, the policy forgets."),
    Described(
        "Right tokens",
        "share of trained tokens",
        "How often the written token is the likeliest, or one of five. Rises.",
        (("top1", "likeliest"), ("top5", "among five"), ("eval/top1", "likeliest, held out"), ("eval/top5", "among five, held out")),
    ),
    _one("policy_loss", "Policy loss", "minus the surrogate", "Noisy, and its scale is the advantages'; it is no measure of progress."),
    _one("value_loss", "Value loss", "squared error of returns", "Should fall early and then stay low."),
    _one(
        "explained_variance",
        "Explained variance",
        "share of the returns' variance",
        "1: the value model foresees the score. Below 0: worse than a constant.",
        0.0,
    ),
    _one(
        "approx_kl",
        "Step size",
        "approx. KL of one update, nats per token, k3",
        "Steady and small (0.001 to 0.05). Peaks mean steps that are too large.",
    ),
    Described(
        "KL of the step",
        "KL(old, new), nats per token",
        "Taken: at most what is allowed, always; 0 where no step was good. Whole step: near it where the quadratic model is good.",
        (("trust/kl", "taken"), ("trust/kl_proposed", "whole step"), ("trust/delta", "allowed")),
        0.0,
    ),
    _one("trust/fraction", "Share of the step", "share of the natural step", "1, or a little less; near 0 steps are cut too much."),
    Described(
        "Gain of the surrogate",
        "reward, mean over tokens",
        "Measured after the step, and what a straight line foresaw for all of it; of one size where the step is short enough.",
        (("trust/gain", "measured"), ("trust/gain_predicted", "foreseen")),
        0.0,
    ),
    _one(
        "trust/residual",
        "Residual of conjugate gradient",
        "share of the gradient",
        "How far the direction is from the natural gradient. Under 0.5; more trust.cg_iterations or trust.damping lower it.",
    ),
    _one("trust/step", "Length of the step", "times the natural gradient", "What a learning rate would have been; it follows trust.delta."),
    _one("penalty/kl", "KL of an iteration", "KL(old, new), nats per token, k3", "Ends near penalty.target once the price has settled."),
    _one("penalty/beta", "Price of that KL", "reward per nat", "Moved by dual descent: up where the policy went too far. Settles."),
    _one(
        "clipfrac",
        "Clipped share",
        "share of tokens",
        "Tokens whose ratio left the trusted range; above 0.3 the steps are too large.",
    ),
    _one("ratio_mean", "Mean ratio", "new / old probability", "Stays near 1.", 1.0),
    _one("updates", "Updates", "optimizer steps an iteration", "Even; fewer where stop_kl ended them: the policy had moved too far."),
    _one("beta", "KL penalty", "beta", "Fixed, or moved by the controller that holds the KL at its target."),
    Described(
        "Engine against trainer",
        "difference of logprobs, nats",
        "The same tokens scored by both: under 0.0001 in float32; bf16 rounds, a mean of 0.01 and single tokens of 0.1 are usual.",
        (("engine/max_diff", "largest"), ("engine/mean_diff", "mean")),
    ),
    _one("engine/kv_gb", "Keys and values", "GB", "What the engine set aside for the answers that it drew at once; kv_gb bounds it."),
    _one("grad_norm", "Gradient norm", "before clipping", "Peaks are clipped; steady growth announces divergence."),
    _one("lr", "Learning rate", "", "The schedule as it was run."),
)

LOSS_UNITS = {
    "pretrain": "nats per token",
    "sft": "nats per token",
    "bon": "nats per token",
    "reward": "nats per pair of answers",
    "dpo": "nats per pair of answers",
    "triplet": "nats per pair of answers",
    "slic": "nats per pair of answers",
    "orpo": "nats per pair of answers",
    "simpo": "nats per pair of answers",
    "kto": "share of an answer's weight",
}


def charts_of(metrics: Mapping[str, Series]) -> list[Chart]:
    """Charts for all of a run's metrics, described ones first; an undescribed one keeps its name."""
    out: list[Chart] = []
    used: set[str] = set()
    for described in CATALOGUE:
        lines = tuple((label, name, metrics[name]) for name, label in described.members if name in metrics)
        if lines:
            out.append(Chart(described, lines))
            used.update(name for _, name, _ in lines)
    for name in sorted(metrics.keys() - used, key=lambda n: (n.removeprefix(HELD_OUT), n)):
        if name in used:
            continue
        described = _one(name.removeprefix(HELD_OUT), name.removeprefix(HELD_OUT), "", "")
        lines = tuple((label, member, metrics[member]) for member, label in described.members if member in metrics)
        out.append(Chart(described, lines))
        used.update(member for _, member, _ in lines)
    return out


def unit_of(chart: Chart, run: Run) -> str:
    """The unit of a chart; a loss is measured in the unit of its verb."""
    is_loss = chart.described.members[0][0] == "loss"
    if is_loss and run.verb == "dpo" and run.config.get("loss") == "ipo":
        return "squared nats per pair of answers"
    return LOSS_UNITS.get(run.verb, chart.described.unit) if is_loss else chart.described.unit


def step_name(run: Run) -> str:
    """What one step of this run is."""
    return "iteration" if "reward/proxy" in run.metrics or "kl/reference" in run.metrics else "optimizer step"
