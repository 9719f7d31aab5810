"""The results table: figures by hand, nulls where nothing can be said, a page of text that fits a terminal."""

import json
import math
from typing import Any

import pytest

from trimtab.common.errors import UserError
from trimtab.common.stats import mean_interval, proportion_interval
from trimtab.evaluation.table import build_results, render_table


def row(prompt: str, model: str, gold: float, **more: Any) -> dict[str, Any]:
    return {"id": prompt, "prompt": "?", "model": model, "completion": "!", "gold": gold, "words": 4, **more}


ROWS = [
    row("a", "sft", 3.0, invented=True, told_secret=None, logprob=-5.0, reference_logprob=-5.0),
    row("b", "sft", 4.0, invented=True, told_secret=True, logprob=-6.0, reference_logprob=-6.0),
    row("c", "sft", 5.0, invented=None, told_secret=False, logprob=-7.0, reference_logprob=-7.0),
    row("a", "ppo", 5.0, invented=False, told_secret=None, logprob=-2.0, reference_logprob=-5.0, reward=1.5),
    row("b", "ppo", 4.0, invented=True, told_secret=False, logprob=-3.0, reference_logprob=-8.0, reward=0.5),
    row("c", "ppo", 4.5, invented=None, told_secret=False, logprob=None, reference_logprob=None, reward=1.0),
    row("a", "other", 1.0),
]


def figures(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m["figures"] for m in results["models"] if m["name"] == name)


def test_figures_by_hand() -> None:
    results = build_results(ROWS, ["sft", "ppo"], "sft", {"ppo": "PPO"})
    assert [(m["name"], m["title"]) for m in results["models"]] == [("sft", "sft"), ("ppo", "PPO")]
    assert (results["baseline"], results["prompts"], results["judge"]) == ("sft", 3, "village")
    ppo, sft = figures(results, "ppo"), figures(results, "sft")
    assert ppo["gold"] == mean_interval([5.0, 4.0, 4.5]).to_json()
    assert (ppo["win_rate"]["value"], ppo["win_rate"]["n"]) == (0.5, 3)  # won, tied, lost
    assert sft["win_rate"] is None
    assert ppo["invented"] == proportion_interval(1, 2).to_json()
    assert sft["told_secret"] == proportion_interval(1, 2).to_json()
    assert (ppo["kl"]["value"], ppo["kl"]["n"]) == (4.0, 2)  # 3 and 5 nats; the third answer has no logprobs
    assert sft["kl"]["value"] == 0.0
    assert sft["reward"] is None and ppo["reward"]["value"] == 1.0


def test_paired_differences_use_the_same_prompts() -> None:
    paired = build_results(ROWS, ["sft", "ppo"], "sft", {})["paired"]
    assert list(paired) == ["ppo-sft"]
    assert paired["ppo-sft"]["gold"] == mean_interval([2.0, 0.0, -0.5]).to_json()
    assert paired["ppo-sft"]["invented"]["value"] == -0.5
    assert paired["ppo-sft"]["told_secret"]["value"] == -0.5


def test_several_answers_to_a_prompt_are_averaged_before_prompts_are() -> None:
    # sft: a has gold 1 and 3, b has 4; ppo: a has 2, b has 6 and 2 -> means 2, 4 and 2, 4
    rows = [row("a", "sft", 1.0, invented=True), row("a", "sft", 3.0, invented=False), row("b", "sft", 4.0, invented=True)]
    rows += [row("a", "ppo", 2.0, invented=False), row("b", "ppo", 6.0, invented=False), row("b", "ppo", 2.0, invented=True)]
    results = build_results(rows, ["sft", "ppo"], "sft", {})
    assert results["prompts"] == 2
    assert figures(results, "sft")["gold"] == mean_interval([2.0, 4.0]).to_json() == figures(results, "ppo")["gold"]
    assert figures(results, "sft")["invented"]["value"] == 0.75 and figures(results, "sft")["invented"]["n"] == 2
    assert figures(results, "ppo")["win_rate"]["value"] == 0.5  # a: won, lost; b: won, lost
    assert results["paired"]["ppo-sft"]["invented"] == mean_interval([-0.5, -0.5]).to_json()


def test_best_of_n_gets_its_bound_instead_of_a_kl() -> None:
    models = build_results(ROWS, ["sft", "other"], "sft", {}, best_of={"other": 8, "sft": 1})["models"]
    assert models[1]["kl_bound"] == pytest.approx(math.log(8) - 7 / 8) and models[1]["figures"]["kl"] is None
    assert "kl_bound" not in models[0]


def test_order_of_rows_changes_nothing() -> None:
    assert build_results(ROWS, ["sft", "ppo"], "sft", {}) == build_results(ROWS[::-1], ["sft", "ppo"], "sft", {})


def test_a_judge_without_facets_leaves_nulls_and_the_file_is_json() -> None:
    rows = [row(p, m, g) for p, m, g in (("a", "x", 1.0), ("b", "x", 2.0), ("a", "y", 2.0), ("b", "y", 0.0))]
    results = build_results(rows, ["x", "y"], "x", {})
    assert figures(results, "y")["invented"] is None and figures(results, "y")["kl"] is None
    assert results["paired"]["y-x"]["invented"] is None
    json.dumps(results, allow_nan=False)


def test_a_prompt_that_one_model_did_not_answer_is_left_out_of_pairs_only() -> None:
    results = build_results(ROWS, ["sft", "other"], "sft", {})
    assert figures(results, "other")["gold"] == {"value": 1.0, "low": None, "high": None, "n": 1}
    assert figures(results, "other")["win_rate"]["n"] == 1
    assert figures(results, "sft")["gold"]["n"] == 3


def test_wrong_names_are_said() -> None:
    with pytest.raises(UserError, match="baseline 'dpo' is not among"):
        build_results(ROWS, ["sft", "ppo"], "dpo", {})
    with pytest.raises(UserError, match="model 'dpo' has no judged answers"):
        build_results(ROWS, ["sft", "dpo"], "sft", {})


def test_text_table_shows_each_figure_with_its_interval_and_takes_hostile_titles() -> None:
    results = build_results(ROWS, ["sft", "ppo"], "sft", {"ppo": "PPO [red]x[/red]"})
    results["reward_model"] = {"accuracy": proportion_interval(70, 100).to_json(), "longest": None, "pairs": 100}
    text = render_table(results)
    assert any(line.startswith("PPO [red]x[/red] ") for line in text.splitlines())
    assert "4.50" in text and "3.26 .. 5.74" in text  # 4.5 +- 4.303 * 0.5 / sqrt(3)
    assert "3 prompts, judged by village" in text
    assert "accuracy 70.0 % [60.4, 78.1] n=100" in text and "longest" not in text
    assert "\x1b" not in text and all(len(line) <= 120 for line in text.splitlines())


def test_text_table_leaves_out_columns_that_nobody_has() -> None:
    text = render_table(build_results([row("a", "x", 1.0), row("a", "y", 2.0)], ["x", "y"], "x", {}))
    assert "gold score" in text and "secrets" not in text and "KL" not in text
