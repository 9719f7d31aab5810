"""The page: well-formed, self-contained, escaped, with a figure for every metric, and never broken by missing pieces."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_folder import metrics_of, results, sample_rows, write_lines, write_metrics, write_recipe, write_run

from trimtab.common.errors import UserError
from trimtab.report import svg, write_comparison, write_report
from trimtab.report.curves import charts_of
from trimtab.report.read import Series, read_folder

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_self_contained(html: str) -> Page:
    """What must hold of every page, whatever went into it."""
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "img", "foreignobject"}
    for tag, attributes in page.tags:
        assert "src" not in attributes and "style" not in attributes, (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)), "an id stands twice"
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    assert set(used) <= set(ids), set(used) - set(ids)
    return page


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_recipe(tmp_path_factory.mktemp("recipe") / "village")
    out = write_report(folder)
    assert out == folder / "report.html"
    return out.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(village: str) -> None:
    check_self_contained(village)
    assert "http:" not in village and "https:" not in village and "//" not in village


def test_it_has_its_parts_and_says_who_wins(village: str) -> None:
    page = Page(village)
    for heading in ("Results", "Warnings", "How to read this", "What the reward cost in KL", "Samples", "What was run"):
        assert heading in page.text
    win = results()["models"][-1]["figures"]["win_rate"]
    interval = f"(95 % interval {100 * win['low']:.1f} to {100 * win['high']:.1f})"
    assert f"PPO is preferred to SFT: it wins 68.0 % {interval} of the comparisons on 480 prompts." in page.text
    assert "seed 0" in page.text and "3.2 GiB" in page.text and "torch 2.13.0" in page.text
    assert "Not in this report" not in page.text  # nothing is missing from a whole recipe


def test_the_table_shows_every_model_with_value_and_interval(village: str) -> None:
    rows = re.findall(r"<tr[^>]*><th scope=\"row\"><i class=\"dot[^>]*></i>(.*?)</tr>", village, re.DOTALL)
    assert [row.partition("<")[0] for row in rows] == [m["title"] for m in results()["models"]]
    ppo = rows[-1]
    assert "<b>4.96</b>" in ppo and "4.82 to 5.10" in ppo and "<b>9.4</b>" in ppo
    assert all(row.count("<circle") >= 5 for row in rows)
    assert "baseline" in rows[2] and rows[2].count("<circle") == 6  # the win rate of SFT against itself is no figure


def test_every_metric_of_every_stage_has_a_figure_that_ends_where_it_ends(village: str) -> None:
    described = [a["aria-label"] or "" for t, a in Page(village).tags if t == "svg" and "aria-label" in a]
    stages = {
        "base": ("pretrain", 200),
        "sft": ("sft", 200),
        "reward": ("reward", 200),
        "dpo": ("dpo", 200),
        "ppo": ("ppo", 60),
    }
    for stage, (verb, count) in stages.items():
        metrics = {k: Series(*map(tuple, zip(*v, strict=True))) for k, v in metrics_of(verb, count).items()}
        drawn = set()
        for chart in charts_of(metrics):
            label = [
                d for d in described if re.match(rf"{re.escape(chart.described.title)} over \w+ ?\w+ of {stage};", d)
            ]
            assert len(label) == 1, (stage, chart.described.title)
            for legend, metric, series in chart.lines:
                assert f"{legend} ends at {svg.short(float(f'{series.values[-1]:.3g}'))}" in label[0]
                drawn.add(metric)
        assert drawn == set(metrics)


def test_twenty_samples_side_by_side_with_score_and_reasons(village: str) -> None:
    cards = re.findall(r'<article class="card">.*?</article>', village, re.DOTALL)
    assert len(cards) == 20
    for card in cards:
        assert re.findall(r'<i class="dot [^>]*></i>([^<]*)', card) == ["base model", "SFT", "DPO", "PPO"]
        assert len(re.findall(r'<b class="gold">[1-7]\.\d</b>', card)) == 4
    assert "did -1.9: does not say where Anna lives" in village
    assert "Chosen by a fixed rule" in village


def test_the_same_folder_gives_the_same_page(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "dpo", "dpo", 20)
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


EVIL = "</style><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ 7*7 }} $\\frac{ \x00\x1b \ud800 \u202e \ufeff"


def hostile(value: object) -> object:
    """Every string of a JSON value replaced by an attack, keys too."""
    if isinstance(value, dict):
        return {k: hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return value + EVIL if isinstance(value, str) else value


def test_hostile_text_everywhere_stays_text(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "evil", ("sft",))
    names = {"name", "baseline", "model", "id", "dir"}  # these tie the files together
    info = json.loads((folder / "recipe.json").read_text())
    info["recipe"] = EVIL
    for row in info["stages"]:
        row["verb"] = row["status"] = EVIL
    (folder / "recipe.json").write_text(json.dumps(info))
    table = json.loads((folder / "results.json").read_text())
    for model in table["models"]:
        model["title"] = EVIL
    table["judge"] = EVIL
    (folder / "results.json").write_text(json.dumps(table))
    rows = [{k: v if k in names else hostile(v) for k, v in row.items()} for row in sample_rows(24)]
    (folder / "evaluation" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ppo" / "run.json").write_text(
        json.dumps(
            {"verb": EVIL, "config": {EVIL: EVIL}, "device": EVIL, "versions": {EVIL: EVIL}, "inputs": {EVIL: EVIL}}
        )
    )
    write_metrics(folder / "sft" / "metrics.jsonl", {EVIL: [(1, 2.0), (2, 3.0)], "loss": [(1, 1.0), (2, 0.5)]})
    html = write_report(folder).read_text(encoding="utf-8")
    page = check_self_contained(html)
    assert "<script>alert(1)</script>" in page.text  # as text that is read, in text nodes only
    assert "{{ 7*7 }}" in page.text and " 49 " not in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", html)


def test_the_settings_and_inputs_are_shown_shortened(village: str) -> None:
    assert "kl.target" in village and f"sha256 {'ab' * 6}" in village


def test_a_single_training_run(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "my_ppo", "ppo", 60)
    rows = [
        {"step": s, "id": "p", "prompt": f"question {s}", "completion": f"answer {s}", "reward": 0.5, "gold": 4.0}
        for s in range(1, 61)
    ]
    write_lines(run / "samples.jsonl", rows)
    (run / "results.json").write_text(
        json.dumps({"figures": {"accuracy": {"value": 0.7, "low": 0.68, "high": 0.72, "n": 900}}})
    )
    page = check_self_contained(write_report(run).read_text())
    assert "my_ppo" in page.text and "70.0 % [68.0, 72.0] n=900" in page.text
    assert "answer 1 " in page.text and "answer 60 " in page.text and page.text.count("reward 0.50 · gold 4.00") == 20
    assert "Reward, gold" in page.text and "Results" not in page.text


def test_pieces_that_are_missing_are_named(recipe: Path) -> None:
    (recipe / "recipe.json").write_text("{ torn")
    (recipe / "dpo" / "metrics.jsonl").unlink()
    (recipe / "dpo" / "run.json").write_text("[1, 2]")
    (recipe / "results.json").unlink()
    (recipe / "evaluation" / "samples.jsonl").unlink()
    with open(recipe / "sft" / "metrics.jsonl", "a") as f:
        f.write('{"step": 201, "name": "lo')
    page = check_self_contained(write_report(recipe).read_text())
    for note in (
        "recipe.json: cannot be read (JSONDecodeError)",
        "dpo: no metrics",
        "dpo/run.json: not a JSON object",
        "sft/metrics.jsonl: 1 unreadable line left out",
        "the evaluation's samples.jsonl: no samples can be shown",
    ):
        assert note in page.text, note
    assert "PPO is preferred to SFT" in page.text  # from the evaluation's own folder


def test_a_recipe_in_its_first_minutes(tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    write_run(folder / "sft", "sft", 3)
    stages = [
        {"name": "sft", "verb": "sft", "dir": "sft", "seconds": 3.0, "status": "running"},
        {"name": "ppo", "verb": "ppo", "dir": "ppo", "seconds": 0.0, "status": "waiting"},
    ]
    (folder / "recipe.json").write_text(json.dumps({"recipe": "village", "seed": 1, "stages": stages}))
    page = check_self_contained(write_report(folder).read_text())
    assert "no evaluation yet" in page.text and "stage ppo: no folder (waiting)" in page.text
    assert "Stage sft did not finish: running." in page.text


def test_values_of_the_wrong_kind_do_not_break_the_page(recipe: Path) -> None:
    (recipe / "recipe.json").write_text(
        json.dumps({"recipe": 7, "seed": [1], "wall_seconds": "long", "stages": [3, {}, {"dir": "../../etc"}]})
    )
    table = results()
    table["models"][0] = "base"
    table["models"][1]["figures"] = {"gold": 3, "words": {"value": "many", "n": None}, "kl": {"value": 1e400, "n": 1}}
    table["models"][2]["figures"]["gold"] = {"value": 4.0, "low": None, "high": None, "n": 1}
    table["paired"] = [1]
    table["reward_model"] = "good"
    (recipe / "results.json").write_text(json.dumps(table))
    write_lines(
        recipe / "evaluation" / "samples.jsonl",
        [{"model": 3}, {"id": None}, {"id": "x", "model": "ppo", "gold": "high", "reasons": 5}],
    )
    check_self_contained(write_report(recipe).read_text())


def test_values_that_are_not_finite_are_drawn_around_and_warned_of(tmp_path: Path) -> None:
    run = write_run(tmp_path / "nan", "sft", 20)
    write_metrics(
        run / "metrics.jsonl",
        {"loss": [(i, float("nan") if i > 5 else 1.0) for i in range(10)], "bad": [(1, float("inf"))]},
    )
    page = check_self_contained(write_report(run).read_text())
    assert "The metric loss is not a finite number at 4 of 10 steps, first at step 6." in page.text
    assert "No finite value was logged." in page.text


def test_wrong_folders_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)


def test_a_recipe_without_its_list_is_read_from_its_folders_in_order_of_start(recipe: Path) -> None:
    (recipe / "recipe.json").unlink()
    folder = read_folder(recipe)
    assert [s.name for s in folder.stages][:3] == ["base", "demonstrations", "sft"]
    assert folder.evaluation is not None and len(folder.evaluation.samples) == 96 * 6


def test_comparison_of_runs(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    a, b = make_run(tmp_path / "lr3" / "ppo", "ppo", 40), make_run(tmp_path / "lr4" / "ppo", "ppo", 60)
    info = json.loads((b / "run.json").read_text())
    info["config"]["lr"] = 0.0001
    info["config"]["kl"]["target"] = 8.0
    (b / "run.json").write_text(json.dumps(info))
    for run, value in ((a, 0.6), (b, 0.7)):
        figure = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 500}
        (run / "results.json").write_text(json.dumps({"figures": {"accuracy": figure}}))
    out = write_comparison([a, b], tmp_path / "both.html")
    page = check_self_contained(out.read_text())
    assert "lr3/ppo" in page.text and "lr4/ppo" in page.text
    assert "kl.target 6.0 8.0" in page.text and "lr 0.001 0.0001" in page.text and "seed 0 0" not in page.text
    assert "60.0 % [58.0, 62.0] n=500" in page.text
    labels = [a["aria-label"] for t, a in page.tags if t == "svg" and "aria-label" in a]
    gold = next(label for label in labels if label and label.startswith("Reward, gold of ppo;"))
    assert "lr3/ppo ends at" in gold and "lr4/ppo ends at" in gold
    with pytest.raises(UserError, match="at least two"):
        write_comparison([a], tmp_path / "one.html")


def test_comparison_of_recipes(tmp_path: Path, recipe: Path) -> None:
    other = write_recipe(tmp_path / "second", ("sft", "dpo"))
    info = json.loads((other / "ppo" / "run.json").read_text())
    info["config"]["seed"] = 1
    (other / "ppo" / "run.json").write_text(json.dumps(info))
    page = check_self_contained(write_comparison([recipe, other], tmp_path / "both.html").read_text())
    assert "second · PPO" in page.text and "village · SFT" in page.text
    assert "ppo.seed 0 1" in page.text and "sft.seed" not in page.text
