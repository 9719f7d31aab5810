"""What a careful reader would notice: signs that a figure should not be trusted, or a run not repeated.

Each check gives sentences about one run's metrics or one evaluation's table. The limits are named at the top.
"""

import math
from collections.abc import Iterator

import numpy as np

from trimtab.common.stats import Estimate
from trimtab.report.read import Evaluation, Folder, Run, Series, estimates
from trimtab.report.svg import short

KL_HIGH = 20.0
"""Nats per answer. Published runs stay mostly below 10; far beyond, the reward model sees text it never learned from."""
KL_TOKEN_HIGH = 1.0
CUT_SHARE = 0.1
CLIP_HIGH = 0.3
ENDED_SHARE = 0.2
ENTROPY_KEPT = 0.15
GOLD_FALL = 0.05
"""Share of its best that the gold score may lose while the proxy rises."""
OVERFIT = 0.05
ENGINE_DIFF = 0.01
DIVERGED = 2.0
"""Times its first value, and one more, that the loss of a method on fixed data may end at."""
CHOSEN_FALL = 3.0
"""Times their first log probability that the chosen answers may end at."""
LONGER = 1.5


def warnings_of(folder: Folder) -> list[str]:
    """All warnings of a folder, the gravest kind first."""
    out = [f"Stage {s.name} did not finish: {s.status}." for s in folder.stages if s.status not in ("done", "unknown")]
    for run in folder.runs:
        where = f"{run.name}: " if folder.is_recipe else ""
        out += [f"{where}{sentence}" for sentence in run_warnings(run)]
    if folder.evaluation:
        out += evaluation_warnings(folder.evaluation)
    return out


def run_warnings(run: Run) -> Iterator[str]:
    """What one run's metrics warn of."""
    for name, series in run.metrics.items():
        bad = [s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)]
        if bad:
            yield (
                f"The metric {name} is not a finite number at {len(bad)} of {len(series.steps)} steps, "
                f"first at step {bad[0]:g}."
            )
    yield from _over_optimised(run)
    yield from _diverged(run)
    kl, token = last(run, "kl/reference"), last(run, "kl/per_token")
    if kl is not None and kl > KL_HIGH:
        yield (
            f"The policy ended {short(round(kl, 1))} nats per answer from its reference (more than {KL_HIGH:g}); "
            f"{'lower trust.delta or ' if run.verb == 'trpo' else ''}raise beta."
        )
    elif token is not None and token > KL_TOKEN_HIGH:
        yield (
            f"The policy ended {short(round(token, 2))} nats per token from its reference (more than "
            f"{KL_TOKEN_HIGH:g})."
        )
    stopped = last(run, "stopped")
    if stopped is not None and stopped < 1 - CUT_SHARE:
        yield f"{100 * (1 - stopped):.0f} % of the answers at the end were cut at the length limit before they ended."
    clip = last(run, "clipfrac")
    if clip is not None and clip > CLIP_HIGH:
        yield f"{100 * clip:.0f} % of the tokens were clipped at the end: updates are too large; lower lr."
    made = run.metrics["updates"].finite().values if "updates" in run.metrics else ()
    ended = sum(n < max(made) for n in made)
    if ended > ENDED_SHARE * len(made):
        yield f"stop_kl ended the updates of {100 * ended / len(made):.0f} % of the iterations early: lower lr, or make fewer epochs."
    entropy, start = last(run, "entropy"), first(run, "entropy")
    if entropy is not None and start is not None and 0 < start and entropy < ENTROPY_KEPT * start:
        yield f"Entropy fell from {short(start)} to {short(entropy)}: the policy says nearly always the same."
    explained = last(run, "explained_variance")
    if explained is not None and explained < 0:
        yield "The value model explains less of the returns than a constant would (explained variance below 0)."
    difference = last(run, "engine/mean_diff")
    if difference is not None and difference > ENGINE_DIFF:
        yield (
            f"Sampling and training disagree on logprobs by {short(difference)} nats on average: ratios are off "
            f"from the start."
        )
    held_out = run.metrics.get("eval/loss")
    if held_out is not None and len(held_out.finite().values) >= 3:
        values = held_out.finite().values
        if values[-1] > min(values) * (1 + OVERFIT):
            yield (
                f"The held-out loss rose from {short(min(values))} to {short(values[-1])}: over-fitted; train for "
                f"fewer steps."
            )


def _diverged(run: Run) -> Iterator[str]:
    """Where lr was far too high, nothing stops: every number is finite, and the model is lost."""
    if "reward/proxy" in run.metrics:  # the loss of a method that samples is of other answers in every step; KL and entropy tell
        return
    began, ended = first(run, "loss"), last(run, "loss")
    if began is not None and ended is not None and 0 < DIVERGED * began < ended - 1:
        yield f"The loss ended at {short(round(ended, 2))} and had begun at {short(round(began, 2))}: it diverged; lower lr."
    began, ended = first(run, "logprob_chosen"), last(run, "logprob_chosen")
    if began is not None and ended is not None and ended < CHOSEN_FALL * began < 0:
        fell = f"from {short(round(began, 1))} to {short(round(ended, 1))} nats"
        yield f"The chosen answers' log probability fell {fell}: they became improbable together with the others; lower lr."


def _over_optimised(run: Run) -> Iterator[str]:
    proxy, gold = (fifths(run.metrics.get(f"reward/{kind}")) for kind in ("proxy", "gold"))
    if len(proxy) < 5 or len(gold) < 5:
        return
    best = int(np.argmax(gold))
    if proxy[-1] > proxy[best] and gold[-1] < gold[best] * (1 - GOLD_FALL):
        yield (
            f"The proxy reward rose to the end, but the gold score fell from {short(round(gold[best], 2))} to "
            f"{short(round(gold[-1], 2))}: the reward model is being exploited; stop earlier or raise beta."
        )


def evaluation_warnings(evaluation: Evaluation) -> Iterator[str]:
    """What the table warns of."""
    ns = {m.figures["gold"].n for m in evaluation.models if "gold" in m.figures}
    if len(ns) > 1:
        yield f"The models were judged on different numbers of prompts ({', '.join(map(str, sorted(ns)))})."
    base = evaluation.title_of(evaluation.baseline)
    names = [m.name for m in evaluation.models]
    start = names.index(evaluation.baseline) if evaluation.baseline in names else 0
    words = evaluation.models[start].figures.get("words")
    for model in evaluation.models[start + 1 :]:  # what comes before the baseline is expected to be worse
        paired = evaluation.paired.get(f"{model.name}-{evaluation.baseline}", {})
        for name, what in (("invented", "invents facts"), ("told_secret", "tells secrets")):
            e = paired.get(name)
            if e is not None and e.low > 0:
                worse = f"by {100 * e.value:.1f} points, 95 % interval {100 * e.low:.1f} to {100 * e.high:.1f}"
                yield f"{model.title} {what} more often than {base} ({worse})."
        own = model.figures.get("words")
        if words and own and own.value > LONGER * words.value:
            longer = f"{own.value:.0f} words, {base} {words.value:.0f}"
            yield f"{model.title} writes much longer answers ({longer}): is length rewarded?"
    reward = estimates(evaluation.reward_model)
    accuracy, longest = reward.get("accuracy"), reward.get("longest")
    if accuracy and longest and not clearly_above(accuracy, longest.value):
        yield "The reward model is not clearly better than the rule that the longer answer wins."


def clearly_above(e: Estimate, value: float) -> bool:
    """Whether the whole interval lies above ``value``."""
    return math.isfinite(e.low) and e.low > value


def fifths(series: Series | None) -> list[float]:
    """The means of a series' five equal parts; empty when it has fewer than ten finite values."""
    values = series.finite().values if series else ()
    return [float(np.mean(part)) for part in np.array_split(np.array(values), 5)] if len(values) >= 10 else []


def last(run: Run, name: str) -> float | None:
    """The mean of the last ten finite values of a metric (a tenth of the run at most, one at least)."""
    values = run.metrics[name].finite().values if name in run.metrics else ()
    return float(np.mean(values[-min(10, max(1, len(values) // 10)) :])) if values else None


def first(run: Run, name: str) -> float | None:
    """The first finite value of a metric."""
    values = run.metrics[name].finite().values if name in run.metrics else ()
    return values[0] if values else None
