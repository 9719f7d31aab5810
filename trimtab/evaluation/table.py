"""The table that a comparison of models ends with: judged answers in, ``results.json`` and a page of text out."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab.common.errors import UserError
from trimtab.common.stats import Estimate, mean_interval, paired_difference, proportion_interval
from trimtab.evaluation.best_of import kl_bound
from trimtab.evaluation.winrate import win_rate

Row = Mapping[str, Any]
"""One line of an evaluation's samples.jsonl: one model's judged answer to one prompt; a prompt may have several."""

PAIRED = ("gold", "invented", "told_secret")


def build_results(
    rows: Sequence[Row],
    order: Sequence[str],
    baseline: str,
    titles: Mapping[str, str],
    *,
    judge: str = "village",
    seed: int = 0,
    best_of: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """``results.json`` of an evaluation: every model's figures and its paired differences from ``baseline``.

    Every prompt counts once: several answers of one model to it are averaged first, and n of a figure is its number of
    prompts. A figure that no row has a value for is null. Shares (invented, told_secret) count only the prompts that allow
    it, those where the judge said true or false. ``best_of`` names the models whose answers
    are the best of n samples of the reference: their KL cannot be estimated from logprobs and gets its bound,
    ``kl_bound``.

    Raises:
        UserError: a model of ``order`` has no rows, or ``baseline`` is not in ``order``.
    """
    if baseline not in order:
        raise UserError(f"baseline '{baseline}' is not among the models ({', '.join(order)})")
    answers: dict[str, dict[str, list[Row]]] = {name: defaultdict(list) for name in order}
    for row in rows:
        if row["model"] in answers:
            answers[row["model"]][str(row["id"])].append(row)
    for name in order:
        if not answers[name]:
            raise UserError(f"model '{name}' has no judged answers")
    prompts = sorted(answers[baseline])

    def column(name: str, field: str) -> list[list[float]]:
        return [_values(answers[name].get(prompt, ()), field) for prompt in prompts]

    golds = {name: column(name, "gold") for name in order}
    models = []
    for name in order:
        own = [answers[name][prompt] for prompt in sorted(answers[name])]
        figures = {
            "gold": _mean(own, "gold"),
            "win_rate": None if name == baseline else win_rate(golds[name], golds[baseline], seed=seed),
            "invented": _share(own, "invented"),
            "told_secret": _share(own, "told_secret"),
            "words": _mean(own, "words"),
            "kl": _kl(own),
            "reward": _mean(own, "reward"),
        }
        model: dict[str, Any] = {"name": name, "title": titles.get(name, name)}
        model["figures"] = {k: _json(e) for k, e in figures.items()}
        if best_of and best_of.get(name, 1) > 1:
            model["kl_bound"] = kl_bound(best_of[name])
        models.append(model)
    paired = {
        f"{name}-{baseline}": {
            field: _json(paired_difference(_means(column(name, field)), _means(column(baseline, field)))) for field in PAIRED
        }
        for name in order
        if name != baseline
    }
    each = max(len(answers[baseline][prompt]) for prompt in prompts)
    return {
        "judge": judge, "baseline": baseline, "prompts": len(prompts), "answers_each": each, "models": models, "paired": paired,
    }  # fmt: skip


def _values(rows: Sequence[Row], field: str) -> list[float]:
    """The field of one prompt's answers, where they have it."""
    return [float(row[field]) for row in rows if row.get(field) is not None]


def _means(prompts: Sequence[Sequence[float]]) -> list[float | None]:
    """Each prompt's mean, None where it has no value."""
    return [sum(values) / len(values) if values else None for values in prompts]


def _mean(prompts: Sequence[Sequence[Row]], field: str) -> Estimate:
    return mean_interval([x for x in _means([_values(rows, field) for rows in prompts]) if x is not None])


def _share(prompts: Sequence[Sequence[Row]], field: str) -> Estimate:
    """With Wilson's interval on the number of prompts: a little too wide where a prompt has several answers, which are not
    independent, and honest near 0, where a bootstrap is not."""
    shares = [x for x in _means([_values(rows, field) for rows in prompts]) if x is not None]
    return proportion_interval(sum(shares), len(shares))


def _kl(prompts: Sequence[Sequence[Row]]) -> Estimate:
    """KL(model, reference) in nats per completion by k1: the mean log-ratio on the model's own samples."""
    ratios = [[{"kl": p - q} for p, q in map(_logprobs, rows) if p is not None and q is not None] for rows in prompts]
    return _mean(ratios, "kl")


def _logprobs(row: Row) -> tuple[float | None, float | None]:
    return row.get("logprob"), row.get("reference_logprob")


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    return estimate.to_json() if estimate is not None and estimate.n else None


# ---- text ----------------------------------------------------------------------------------------------------------


def _plain(digits: int) -> Callable[[float], str]:
    return lambda x: f"{x:.{digits}f}"


def _percent(x: float) -> str:
    return f"{100 * x:.1f}"


def render_table(results: Mapping[str, Any]) -> str:
    """The table as plain text for the terminal, without colours or markup: each figure with its interval below it."""
    base = _title(results, results["baseline"])
    columns = [
        ("gold", "gold score\n1 to 7" if results.get("source", "gold") == "gold" else f"score\n({results['source']})", _plain(2)),
        ("win_rate", f"preferred\nto {base}, %", _percent),
        ("invented", "invented\nfacts, %", _percent),
        ("told_secret", "secrets\ntold, %", _percent),
        ("words", "words\n", _plain(1)),
        ("kl", "KL, nats to\nreference", _plain(1)),
    ]
    shown = [c for c in columns if any(model["figures"].get(c[0]) for model in results["models"])]
    each = f", up to {results['answers_each']} answers of a model to each" if results.get("answers_each", 1) > 1 else ""
    heading = f"{results['prompts']} prompts{each}, judged by {results['judge']}; low .. high: 95 % interval"
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("model", max_width=22)
    for _, head, _ in shown:
        table.add_column(Text(head), justify="right", no_wrap=True)
    for model in results["models"]:
        cells = [_cell(model["figures"].get(name), form) for name, _, form in shown]
        table.add_row(Text(str(model["title"])), *map(Text, cells))
    parts = [heading, "", _text_of(table)]
    reward = results.get("reward_model") or {}
    said = [f"{label} {Estimate.from_json(reward[k]).percent()}" for k, label in REWARD_FIGURES if reward.get(k)]
    if (reward.get("new") or {}).get("accuracy"):
        said.insert(1, f"on prompts unlike those {Estimate.from_json(reward['new']['accuracy']).percent()}")
    if said:
        parts.append(f"reward model on held-out pairs: {'; '.join(said)}")
    return "\n".join(parts)


REWARD_FIGURES = (("accuracy", "accuracy"), ("labeler_agreement", "labelers agree"), ("longest", "longest answer"))


def _title(results: Mapping[str, Any], name: str) -> str:
    return str(next((m["title"] for m in results["models"] if m["name"] == name), name))


def _cell(figure: Mapping[str, Any] | None, form: Callable[[float], str]) -> str:
    if figure is None or figure["value"] is None:
        return "-\n"
    e = Estimate.from_json(figure)
    interval = f"{form(e.low)} .. {form(e.high)}" if math.isfinite(e.low) and math.isfinite(e.high) else ""
    return f"{form(e.value)}\n{interval}"


def _text_of(table: Table) -> str:
    console = Console(width=1000, color_system=None)  # wider than any table: nothing is cut
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
