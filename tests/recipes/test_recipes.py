"""Recipes: what a file means; what the runner skips, takes up and sets aside. The verbs are fakes with real folders."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from trimtab.common.config import Settings, Verb, load_config
from trimtab.common.errors import UserError
from trimtab.recipes.recipe import find_recipe, load_recipe
from trimtab.recipes.runner import run_recipe
from trimtab.training.folder import RunFolder, locked
from trimtab.training.loop import Interrupted


class Config(Settings):
    out: str = Field("", description="Folder of the run.")
    data: str = Field("", description="A file.")
    model: str = Field("", description="A folder.")
    lr: float = Field(0.1, gt=0, description="Learning rate.")
    steps: int = Field(10, description="Steps.")
    threads: int = Field(0, description="CPU threads.")


@dataclass
class Verbs:
    """Fakes that work as the real ones do: begin the folder, copy the model they start from, end the folder."""

    ran: list[str] = field(default_factory=list)
    breaks: dict[str, BaseException] = field(default_factory=dict)  # stage -> what its run raises

    def run(self, verb: str, config: Config) -> None:
        folder = RunFolder(config.out)
        parents = [config.model] if config.model and Path(config.model).is_dir() else []
        if not folder.begin(verb, config.model_dump(), inputs=[config.data] if config.data else [], parents=parents):
            return
        self.ran.append(folder.path.name)
        (folder.path / "resumed").touch() if (folder.path / "half").exists() else (folder.path / "half").touch()
        if folder.path.name in self.breaks:
            folder.end("interrupted")
            raise self.breaks.pop(folder.path.name)
        folder.end("done", {})

    def mapping(self) -> dict[str, Verb]:
        return {v: Verb(Config, lambda config, v=v: self.run(v, config)) for v in ("train", "eval")}


RECIPE = """
name: tiny
vars: {data: null, lr: 0.5, seed: 3, tag: plain}
stages:
  - {name: base, verb: train, config: {data: "${data}", lr: "${lr}"}}
  - {name: left, verb: train, config: {model: "${stage.base}/model"}}
  - {name: right, verb: train, config: {model: "${stage.base}/model", data: "${data}"}}
  - {name: judge, verb: eval, config: {model: "${stage.left}:${stage.right}"}}
"""


class Bench:
    """A recipe file, a data file and an output folder."""

    def __init__(self, folder: Path) -> None:
        self.path, self.data, self.out = folder / "tiny.yaml", folder / "data.txt", folder / "out"
        self.path.write_text(RECIPE)
        self.data.write_text("text")
        self.verbs = Verbs()

    def run(self, *words: str) -> list[str]:
        """The stages that ran."""
        self.verbs.ran.clear()
        run_recipe(self.path, self.out, [f"data={self.data}", *words], self.verbs.mapping())
        return list(self.verbs.ran)

    def fails(self, *words: str) -> str:
        with pytest.raises(UserError) as error:
            self.run(*words)
        assert "\n" not in str(error.value)
        return str(error.value)

    def log(self) -> dict[str, Any]:
        return json.loads((self.out / "recipe.json").read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_all_stages_run_once_and_are_then_skipped(bench: Bench) -> None:
    assert bench.run() == ["base", "left", "right", "judge"]
    config = json.loads((bench.out / "judge" / "run.json").read_text())["config"]
    assert config["model"] == f"{bench.out}/left:{bench.out}/right" and config["steps"] == 10
    first = bench.log()
    assert bench.run() == []
    assert bench.log() == first


def test_recipe_json(bench: Bench) -> None:
    bench.run()
    log = bench.log()
    assert log["recipe"] == "tiny" and log["seed"] == 3
    assert log["peak_memory_bytes"] > 10_000_000
    assert [(s["name"], s["verb"], s["dir"], s["status"]) for s in log["stages"]] == [
        ("base", "train", "base", "done"), ("left", "train", "left", "done"),
        ("right", "train", "right", "done"), ("judge", "eval", "judge", "done"),
    ]  # fmt: skip
    assert log["wall_seconds"] == pytest.approx(sum(s["seconds"] for s in log["stages"]))


def test_a_changed_setting_reruns_the_stage_and_what_builds_on_it(bench: Bench) -> None:
    bench.run()
    assert bench.run("left.lr=0.01") == ["left", "judge"]
    assert json.loads((bench.out / "left" / "run.json").read_text())["config"]["lr"] == 0.01
    assert json.loads((bench.out / "left.1" / "run.json").read_text())["config"]["lr"] == 0.1
    assert bench.run("lr=0.25", "left.lr=0.01") == ["base", "left", "right", "judge"]


def test_a_stage_that_ran_before_an_option_was_there_ran_with_its_default(bench: Bench) -> None:
    bench.run()
    for name in ("left", "base"):  # lr is the default in the one, another in the other
        path = bench.out / name / "run.json"
        info = json.loads(path.read_text())
        del info["config"]["lr"]
        path.write_text(json.dumps(info))
        assert bench.run() == ([] if name == "left" else ["base", "left", "right", "judge"])


def test_a_changed_input_reruns_its_readers(bench: Bench) -> None:
    bench.run()
    bench.data.write_text("other text")
    assert bench.run() == ["base", "left", "right", "judge"]


def test_a_start_model_that_was_trained_again_reruns_what_builds_on_it(bench: Bench, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "weights").write_text("1")
    assert bench.run(f"base.model={start}") == ["base", "left", "right", "judge"]
    assert bench.run(f"base.model={start}") == []
    (start / "weights").write_text("2")
    assert bench.run(f"base.model={start}") == ["base", "left", "right", "judge"]


def test_settings_that_change_no_result_rerun_nothing(bench: Bench) -> None:
    bench.run()
    assert bench.run("base.threads=1") == []


def test_a_removed_stage_reruns_what_builds_on_it(bench: Bench) -> None:
    bench.run()
    (bench.out / "right" / "run.json").unlink()
    assert bench.run() == ["right", "judge"]
    assert (bench.out / "judge.1").is_dir()


@pytest.mark.parametrize("press", [KeyboardInterrupt(), Interrupted("stopped after step 3")])
def test_ctrl_c_stops_and_the_same_command_goes_on(bench: Bench, press: BaseException) -> None:
    bench.verbs.breaks["right"] = press
    assert bench.fails() == "interrupted; run the same command to go on"
    assert [s["status"] for s in bench.log()["stages"]] == ["done", "done", "interrupted", "waiting"]
    assert bench.run() == ["right", "judge"]
    assert (bench.out / "right" / "resumed").exists() and not (bench.out / "right.1").exists()
    assert [s["status"] for s in bench.log()["stages"]] == ["done"] * 4


def test_seconds_of_an_interrupted_stage_add_up(bench: Bench) -> None:
    bench.verbs.breaks["base"] = KeyboardInterrupt()
    bench.fails()
    log = bench.log()
    log["stages"][0]["seconds"] = 1000.0
    (bench.out / "recipe.json").write_text(json.dumps(log))
    bench.run()
    assert 1000 < bench.log()["stages"][0]["seconds"] < 2000 and bench.log()["wall_seconds"] > 1000
    bench.run("lr=0.25")  # set aside and run anew: the old seconds belong to the old run
    assert bench.log()["stages"][0]["seconds"] < 1000


def test_what_was_planned_anew_stays_so_after_an_interruption(bench: Bench) -> None:
    bench.run()
    bench.verbs.breaks["left"] = KeyboardInterrupt()
    bench.fails("lr=0.25")  # base has run anew; right and judge are stale though their own settings did not change
    assert bench.run("lr=0.25") == ["left", "right", "judge"]


def test_a_failure_names_recipe_and_stage_and_is_taken_up_again(bench: Bench) -> None:
    bench.verbs.breaks["left"] = UserError("model/: no tokenizer")
    assert bench.fails() == f"{bench.path}: stage left: model/: no tokenizer"
    assert [s["status"] for s in bench.log()["stages"]] == ["done", "failed", "waiting", "waiting"]
    bench.verbs.breaks["left"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        bench.run()
    assert bench.run() == ["left", "right", "judge"]


def test_mistakes_are_found_before_anything_runs(bench: Bench) -> None:
    assert bench.fails("judge.lr=fast") == f"{bench.path}: stage judge: lr is 'fast', expected number > 0"
    assert bench.fails("judge.lrr=1") == f"{bench.path}: stage judge: unknown key 'lrr', did you mean 'lr'?"
    bench.path.write_text(RECIPE.replace("verb: eval", "verb: evil"))
    assert bench.fails() == f"{bench.path}: stage judge: no verb 'evil', write one of eval, train"
    assert not bench.out.exists()


def test_another_recipe_s_folder_is_left_alone(bench: Bench) -> None:
    bench.run()
    bench.path.write_text(RECIPE.replace("name: tiny", "name: other"))
    assert "holds recipe 'tiny', not 'other'" in bench.fails()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "tiny.yaml: data must be given, write data=..."),
        (["data=x", "dta=y"], "has no variable 'dta', did you mean 'data'?"),
        (["data=x", "nothing_like=y"], "has no variable 'nothing_like', the variables are data, lr, seed, tag"),
        (["data=x", "lr"], "command line: 'lr' is not key=value"),
        (["data=x", "lr=[1"], "command line: lr=[1: bad YAML"),
    ],
)
def test_wrong_words(bench: Bench, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(bench.path, bench.out, words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("${stage.base}/model", "${stage.judge}/model", "stage left: ${stage.judge} is no earlier stage"),
        ("${stage.base}", "${stage.bass}", "stage left: ${stage.bass} is unknown, did you mean 'stage.base'?"),
        ("${lr}", "${lrr}", "stage base: ${lrr} is unknown, did you mean 'lr'?"),
        ("name: left", "name: base", "two stages are called 'base'"),
        ("name: left", "name: a/b", "names a folder"),
        ("name: left, verb: train", "name: left", "stage 2: 'verb' is missing"),
        ("verb: train, config: {m", "verbs: train, config: {m", "stage 2: unknown key 'verbs', did you mean 'verb'?"),
        ("stages:", "steps:", "unknown key 'steps'"),
        ("stages:", "sizes: {quick: {lrr: 1}}\nstages:", "size quick: unknown key 'lrr', did you mean 'lr'?"),
        ('lr: "${lr}"', "out: x", "stage 1 (base): 'out' is the stage's own folder"),
        ("vars: {data: null, lr: 0.5, seed: 3, tag: plain}", "vars: [a]", "vars: expected lines of 'key: value'"),
        ("name: tiny", "name: [tiny", "tiny.yaml:"),
    ],
)
def test_wrong_files(bench: Bench, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    bench.path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_recipe(bench.path, bench.out, ["data=x"])
    assert str(error.value).startswith(str(bench.path)) and message in str(error.value)


def test_references(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    config = {
        "whole": "${steps}", "inside": "run-${steps}-${flag}", "literal": "$${steps}", "list": ["${out}/x", 1],
        "group": {"deep": "${stage.a}"}, "price": "5$", "off": "${flag}",
    }  # fmt: skip
    stages = [{"name": "a", "verb": "v"}, {"name": "b", "verb": "v", "config": config}]
    path.write_text(yaml.safe_dump({"vars": {"steps": 5, "flag": False}, "stages": stages}))
    recipe = load_recipe(path, "runs/r", ["steps=7", "b.group.deep=3"])
    assert recipe.name == "r" and recipe.stages[0].config == {}
    assert recipe.stages[1].config == {
        "whole": 7, "inside": "run-7-false", "literal": "${steps}", "list": ["runs/r/x", 1],
        "group": {}, "group.deep": 3, "price": "5$", "off": False,
    }  # fmt: skip
    assert recipe.stages[1].parents == ()
    assert load_recipe(path, "runs/r").stages[1].parents == ("a",)


def test_a_variable_may_name_one_above_it(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    stages = [{"name": "a", "verb": "v", "config": {"x": "${second}"}}]
    path.write_text(yaml.safe_dump({"vars": {"first": None, "second": "${first}"}, "stages": stages}, sort_keys=False))
    assert load_recipe(path, "o", ["first=f"]).stages[0].config == {"x": "f"}
    assert load_recipe(path, "o", ["first=f", "second=s"]).stages[0].config == {"x": "s"}
    with pytest.raises(UserError, match="first must be given"):
        load_recipe(path, "o")


def test_a_size_is_a_set_of_variables_and_single_words_count_more(bench: Bench) -> None:
    bench.path.write_text(RECIPE.replace("stages:", "sizes: {quick: {lr: 2, tag: small}}\nstages:"))
    quick = load_recipe(bench.path, bench.out, ["lr=3", "data=x", "size=quick"])
    assert quick.values == {"data": "x", "lr": 3, "seed": 3, "tag": "small"}
    with pytest.raises(UserError, match="has no size 'quik', write one of quick"):
        load_recipe(bench.path, bench.out, ["data=x", "size=quik"])


def test_text_variables_take_text_as_it_is(bench: Bench) -> None:
    for text in ("007", "no: yes", "[x", "a=b"):
        assert load_recipe(bench.path, bench.out, ["data=x", f"tag={text}"]).values["tag"] == text


def test_find_recipe(tmp_path: Path) -> None:
    (tmp_path / "village.yaml").write_text("")
    assert find_recipe(str(tmp_path / "village.yaml")) == tmp_path / "village.yaml"
    assert find_recipe("village", builtin=tmp_path) == tmp_path / "village.yaml"
    with pytest.raises(UserError, match=r"^villige: no such file; give a recipe's YAML file, or one of village$"):
        find_recipe("villige", builtin=tmp_path)


def test_a_stage_gets_the_settings_that_the_command_line_would_give(bench: Bench) -> None:
    bench.run("left.steps=1e1", "left.lr=1e-3")
    config = json.loads((bench.out / "left" / "run.json").read_text())["config"]
    words = [f"out={bench.out}/left", f"model={bench.out}/base/model", "steps=1e1", "lr=1e-3"]
    assert config == load_config(Config, None, words).model_dump()


def test_a_folder_in_which_another_command_works_is_not_set_aside(bench: Bench) -> None:
    bench.run()
    first = sorted(p for p in bench.out.iterdir() if (p / "run.json").exists())[0]
    with locked(first), pytest.raises(UserError, match="another process is at work"):
        bench.run("lr=0.7")
    assert (first / "run.json").exists() and not first.with_name(first.name + ".1").exists()


def test_another_seed_asks_for_another_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    assert "holds seed 3, not 4" in bench.fails("seed=4")
    assert all((bench.out / row["name"] / "run.json").exists() for row in bench.log()["stages"])


def test_what_was_concluded_from_earlier_stages_is_set_aside_with_them(bench: Bench) -> None:
    bench.run()
    (bench.out / "results.json").write_text("{}")
    first = bench.log()["stages"][0]["name"]
    bench.verbs.breaks[first] = KeyboardInterrupt()
    bench.fails("lr=0.7")
    assert not (bench.out / "results.json").exists() and (bench.out / "earlier-results.json").exists()
    assert {row["status"] for row in bench.log()["stages"]} <= {"interrupted", "waiting", "done"}
    assert [row["status"] for row in bench.log()["stages"] if row["status"] == "done" and not (bench.out / row["name"]).exists()] == []
