"""The parts of a report: the rule of the samples, the warnings, the scales, the cleaned figures."""

import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_folder import metrics_of, results, sample_rows

from trimtab.common.stats import Estimate
from trimtab.report import svg
from trimtab.report.checks import evaluation_warnings, run_warnings
from trimtab.report.choose import choose, columns, evenly
from trimtab.report.curves import CATALOGUE, charts_of, unit_of
from trimtab.report.explain import fill, headline
from trimtab.report.read import Evaluation, Run, Series, _evaluation, text
from trimtab.report.sections import COLUMNS, cell, clock, fixed, kl_path, nice, root, table


def evaluation(samples: list[dict[str, Any]] | None = None, **changes: Any) -> Evaluation:
    found = _evaluation(results() | changes, tuple(samples or ()))
    assert found is not None
    return found


def run_with(**metrics: list[float]) -> Run:
    series = {k.replace("__", "/"): Series(tuple(range(len(v))), tuple(v)) for k, v in metrics.items()}
    return Run(Path("."), "run", metrics=series)


# ---- samples ---------------------------------------------------------------------------------------------------------


def test_places_go_by_use_case_and_outcomes_from_loss_to_gain() -> None:
    rows = sample_rows(96)
    choice = choose(evaluation(rows))
    counts = Counter(row["ppo"]["use_case"] for row in choice.prompts)
    assert len(choice.prompts) == 20 and len(counts) == 8 and set(counts.values()) <= {2, 3}
    gains: dict[str, list[float]] = {}
    for row in choice.prompts:
        gains.setdefault(row["ppo"]["use_case"], []).append(row["ppo"]["gold"] - row["sft"]["gold"])
    assert all(values == sorted(values) for values in gains.values())
    assert min(map(min, gains.values())) < 0 < max(map(max, gains.values()))


def test_the_choice_depends_on_neither_order_nor_text() -> None:
    rows = sample_rows(96)
    changed = [{**row, "completion": "x", "prompt": "y"} for row in rows[::-1]]
    ids = [[row["ppo"]["id"] for row in choose(evaluation(r)).prompts] for r in (rows, changed)]
    assert ids[0] == ids[1]


def test_with_one_use_case_places_are_quantiles() -> None:
    rows = []
    for i in range(40):
        for name in ("base", "sft", "dpo", "ppo"):
            rows.append({"id": f"{i:02d}", "model": name, "gold": 1 + (i / 10 if name == "ppo" else 0)})
    ids = [row["ppo"]["id"] for row in choose(evaluation(rows)).prompts]
    assert ids == [f"{i:02d}" for i in range(1, 40, 2)]


def test_few_prompts_are_all_shown_and_incomplete_ones_left_out() -> None:
    rows = [r for r in sample_rows(8) if not (r["id"].endswith("3") and r["model"] == "dpo")]
    choice = choose(evaluation(rows))
    assert len(choice.prompts) == 7 and "7 of 7" in choice.rule


def test_columns_without_the_known_stages() -> None:
    models = [{"name": n, "figures": {}} for n in ("a", "b", "c", "d", "e")]
    found = evaluation(models=models, baseline="b")
    assert columns(found) == ("a", "b", "d", "e")


def test_training_samples_span_the_run() -> None:
    rows = [{"step": s, "id": i} for s in range(1, 101) for i in "ab"]
    steps = [row["step"] for row in evenly(rows)]
    assert len(steps) == 20 and (steps[0], steps[-1]) == (1, 100) and all(row["id"] == "a" for row in evenly(rows))
    assert evenly([]) == [] and len(evenly(rows[:6])) == 3


# ---- warnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["pretrain", "reward", "dpo", "ppo"])
def test_a_good_run_warns_of_nothing(verb: str) -> None:
    series = {k: Series(*map(tuple, zip(*v, strict=True))) for k, v in metrics_of(verb, 60).items()}
    assert list(run_warnings(Run(Path("."), verb, metrics=series))) == []
    assert list(evaluation_warnings(evaluation())) == []


def test_each_sign_is_warned_of() -> None:
    up, x = list(np.linspace(0, 2, 50)), np.linspace(0, 1, 50)
    over = run_with(reward__proxy=up, reward__gold=list(4 + 4 * x * (1.2 - x) - 2 * x**3))
    assert "exploited" in next(iter(run_warnings(over)))
    rising = run_with(reward__proxy=up, reward__gold=list(4 + x))
    assert list(run_warnings(rising)) == []
    for metrics, sign in (
        ({"kl__reference": [30.0] * 20}, "30 nats per answer"),
        ({"kl__per_token": [1.5] * 20}, "1.5 nats per token"),
        ({"stopped": [0.6] * 20}, "40 % of the answers"),
        ({"clipfrac": [0.4] * 20}, "40 % of the tokens were clipped"),
        ({"updates": [8.0] * 15 + [3.0] * 5}, "stop_kl ended the updates of 25 % of the iterations early"),
        ({"entropy": [2.0] + [0.1] * 30}, "Entropy fell from 2 to 0.1"),
        ({"explained_variance": [0.5, -0.2]}, "explained variance below 0"),
        ({"engine__mean_diff": [0.05]}, "Sampling and training disagree"),
        ({"eval__loss": [3.0, 2.0, 2.5]}, "rose from 2 to 2.5"),
        ({"loss": [1.0, math.nan, math.inf]}, "at 2 of 3 steps, first at step 1"),
        ({"loss": [0.7] + [2.5] * 10}, "The loss ended at 2.5 and had begun at 0.7"),
        ({"logprob_chosen": [-11.0] + [-34.0] * 10}, "fell from \N{MINUS SIGN}11 to \N{MINUS SIGN}34 nats"),
    ):
        found = list(run_warnings(run_with(**metrics)))
        assert len(found) == 1 and sign in found[0], (metrics, found)


def test_a_loss_that_is_of_other_answers_in_every_step_or_within_its_noise_is_not_warned_of() -> None:
    for metrics in (
        {"loss": [0.1] + [3.0] * 10, "reward__proxy": [0.0] * 11}, {"loss": [0.7] + [2.3] * 10}, {"loss": [-0.1] + [3.0] * 10},
        {"logprob_chosen": [-11.0] + [-32.0] * 10},
    ):  # fmt: skip
        assert list(run_warnings(run_with(**metrics))) == []


def test_what_mends_a_kl_is_the_methods_own() -> None:
    far = {"kl/reference": Series(tuple(range(20)), (30.0,) * 20)}
    said = [next(iter(run_warnings(Run(Path("."), verb, metrics=far)))) for verb in ("ppo", "trpo")]
    assert said[0].endswith("; raise beta.") and said[1].endswith("; lower trust.delta or raise beta.")


def test_ipos_loss_is_in_squares() -> None:
    series = {"loss": Series((1, 2), (25.0, 24.0))}
    runs = [Run(Path("."), "dpo", {"config": {"loss": loss}}, series) for loss in ("sigmoid", "ipo")]
    assert [unit_of(charts_of(run.metrics)[0], run) for run in runs] == ["nats per pair of answers", "squared nats per pair of answers"]


def test_the_table_is_warned_of() -> None:
    worse = {"ppo-sft": {"invented": {"value": 0.1, "low": 0.02, "high": 0.18, "n": 200}}}
    assert "PPO invents facts more often than SFT (by 10.0 points" in next(
        iter(evaluation_warnings(evaluation(paired=worse)))
    )
    weak = {
        "accuracy": {"value": 0.58, "low": 0.56, "high": 0.6, "n": 9},
        "longest": {"value": 0.57, "low": 0.5, "high": 0.6, "n": 9},
    }
    assert "not clearly better" in next(iter(evaluation_warnings(evaluation(reward_model=weak))))
    models = results()["models"]
    models[-1]["figures"]["words"]["value"] = 40.0
    models[-2]["figures"]["gold"]["n"] = 300
    found = list(evaluation_warnings(evaluation(models=models)))
    assert "different numbers of prompts (300, 480)" in found[0] and "PPO writes much longer answers" in found[1]


# ---- words and numbers -----------------------------------------------------------------------------------------------


def test_the_headline_says_no_more_than_the_interval() -> None:
    def said(low: float, high: float) -> str:
        figures = {"win_rate": {"value": (low + high) / 2, "low": low, "high": high, "n": 100}}
        models = [{"name": "sft", "title": "SFT", "figures": {}}, {"name": "x", "title": "x", "figures": figures}]
        return headline(evaluation(models=models))[0]

    assert "is preferred to SFT" in said(0.52, 0.6)
    assert "is not clearly different from" in said(0.48, 0.6)
    assert "is worse than" in said(0.3, 0.49)


def test_names_that_hold_braces_stay_as_they_are() -> None:
    assert fill("than {baseline} {x}", {"baseline": "{judge}", "judge": "no"}) == "than {judge} {x}"


def test_numbers_as_people_write_them() -> None:
    assert [svg.short(x) for x in (0, -0.5, 12000, 0.00021, 3e-7, 0.1 + 0.2, 1e9, math.nan)] == [
        "0", "\u22120.5", "12,000", "0.00021", "3e-07", "0.3", "1e+09", "not finite",
    ]  # fmt: skip
    assert [fixed(x, 1) for x in (-0.04, -2.25, 1234.56)] == ["0.0", "\u22122.2", "1,234.6"]
    assert [clock(x) for x in (3.21, 250, 7380)] == ["3.2 s", "4 min 10 s", "2 h 03 min"]
    assert [nice(x) for x in (0.03, 0.2, 3.0, 7.0)] == pytest.approx([0.05, 0.2, 5.0, 10.0])


def test_text_is_safe_for_a_page() -> None:
    assert text("a\x00b\ud800c\r\nd") == "a\ufffdb?c\nd"
    assert text("x" * 50, 10) == "x" * 10 + " \u2026 (40 more characters)"
    assert text({"a": [1]}) == '{"a": [1]}'


def test_whiskers_stand_where_the_scale_says() -> None:
    column = next(c for c in COLUMNS if c.name == "win_rate")
    found = cell(Estimate(0.5, 0.25, 1.0, 10), column, (0, 100), "c1")
    assert (found["value"], found["interval"]) == ("50.0", "25.0 to 100.0")
    assert (found["from"], found["at"], found["to"], found["mark"]) == (27.0, 50.0, 96.0, 50.0)
    unknown = cell(Estimate(0.5, math.nan, math.nan, 1), column, (0, 100), "c1")
    assert unknown["from"] is None and unknown["interval"] == ""


def test_the_table_leaves_out_columns_that_nobody_has() -> None:
    found = evaluation(models=[{"name": "a", "figures": {"gold": {"value": 2.0, "low": 1.9, "high": 2.1, "n": 5}}}])
    built = table(found.models, "a", "A", {"a": "c1"})
    assert built is not None and [h["title"] for h in built["heads"]] == ["Gold score"]
    assert table(evaluation(models=[{"name": "a"}]).models, "a", "A", {"a": "c1"}) is None


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_every_metric_that_the_documentation_lists_has_a_chart_with_words() -> None:
    """The tables of docs/metrics.md before the evaluation's, against the report's catalogue."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", page.split("## Evaluation")[0], re.MULTILINE)
    listed = {name for row in rows if "timing" not in row for name in re.findall(r"`([\w/]+)`", row)}
    described = {name for chart in CATALOGUE if chart.hint for name, _ in chart.members}
    assert {"trust/residual", "penalty/beta", "reward/greedy", "sft_loss"} <= listed and listed - described == set()



def test_every_metric_is_in_exactly_one_chart_known_or_not() -> None:
    series = Series((1.0,), (2.0,))
    names = [
        "loss",
        "eval/loss",
        "reward_chosen",
        "eval/reward_chosen",
        "mystery",
        "eval/mystery",
        "eval/alone",
        "kl/reference",
    ]
    charts = charts_of(dict.fromkeys(names, series))
    drawn = [metric for chart in charts for _, metric, _ in chart.lines]
    assert sorted(drawn) == sorted(names)
    assert ["mystery", "eval/mystery"] in [[m for _, m, _ in c.lines] for c in charts]


def test_a_figure_has_no_style_no_names_from_elsewhere_and_its_text() -> None:
    line = svg.Line("a", Series(tuple(range(100)), tuple(math.sin(i) for i in range(100))), "c2")
    picture = str(svg.line_chart([line], xlabel="$step$ <b>", described='a "quoted" & <tag>'))
    tree = ET.fromstring(picture)  # no prefix is left undeclared
    assert not re.search(r"style=|xmlns|http|xlink|<metadata|<style|#0000", picture)
    assert "$step$ <b>" in [e.text for e in tree.iter("text")]
    assert tree.get("aria-label") == 'a "quoted" & <tag>'
    classes = {name for e in tree.iter() for name in e.get("class", "").split()}
    assert {"s-c2", "f-muted", "s-grid"} <= classes


def test_two_figures_share_no_ids() -> None:
    def ids(color: str) -> set[str]:
        line = svg.Line("a", Series((1, 2, 3), (1.0, 2.0, 4.0)), color, sparse=True)
        return set(re.findall(r' id="([^"]+)"', str(svg.line_chart([line], xlabel="x", described=color))))

    assert ids("c1") and not ids("c1") & ids("c2")


def test_every_color_has_a_light_and_a_dark_value() -> None:
    style = (Path(svg.__file__).parent / "templates" / "style.css").read_text()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)", 1)
    for name in svg.MARKERS:
        assert f"--{name}:" in light and f"--{name}:" in dark.split("\n* {")[0]
        assert f".s-{name} " in style and f".f-{name} " in style


def test_running_mean_by_hand() -> None:
    assert svg.running_mean(np.array([1.0, 2.0, 6.0, 3.0]), 1).tolist() == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert set(svg.running_mean(np.full(999, 0.05), 40)) == {0.05}


def test_long_series_are_averaged_and_keep_their_mean() -> None:
    x, y = svg.thin(Series(tuple(range(10000)), tuple(float(i % 7) for i in range(10000))))
    assert len(x) == svg.MOST_POINTS and y.mean() == pytest.approx(np.mean([i % 7 for i in range(10000)]))


def test_names_of_crowded_points_do_not_cover_each_other() -> None:
    def point(i: int) -> svg.Point:
        e = Estimate(2.0 + 0.01 * i, math.nan, math.nan, 1)
        return svg.Point(f"model {i}", e, e, "c1")

    picture = str(svg.frontier_chart([point(i) for i in range(5)], [], ylabel="gold", described="d"))
    places = [
        (float(e.get("x", "0")), float(e.get("y", "0")))
        for e in ET.fromstring(picture).iter("text")
        if (e.text or "").startswith("model")
    ]
    assert len(places) == 5
    for i, a in enumerate(places):
        assert all(abs(a[1] - b[1]) >= svg.FONT or abs(a[0] - b[0]) >= 40 for b in places[:i])


def test_the_path_of_a_run_is_in_root_kl() -> None:
    run = run_with(kl__reference=[-0.1, 4.0, 9.0], reward__gold=[3.0, 4.0, 5.0])
    assert kl_path(run, "reward/gold") == Series((0.0, 2.0, 3.0), (3.0, 4.0, 5.0))
    assert kl_path(run, "reward/proxy") is None
    assert root(Estimate(9.0, -1.0, 16.0, 4)) == Estimate(3.0, 0.0, 4.0, 4)
