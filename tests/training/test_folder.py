"""A run's folder: whose it is, what it says of the run, and what survives a stop."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_models import read_lines

from trimtab.common.errors import RunFailed, UserError
from trimtab.common.files import atomic_write, read_json, write_json
from trimtab.training.folder import RunFolder, content_hash


def begun(path: Path, **config: Any) -> RunFolder:
    """A run that was begun by a process that is gone."""
    folder = RunFolder(path)
    assert folder.begin("sft", config)
    folder.let_go()
    return folder


def test_the_same_command_goes_on_and_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    begun(tmp_path / "run", lr=0.1, seed=3)
    again = begun(tmp_path / "run", lr=0.1, seed=3)
    again.end("done", {"loss": 1.5})
    info = read_json(tmp_path / "run" / "run.json")
    assert (info["verb"], info["status"], info["seed"], info["config"]) == ("sft", "done", 3, {"lr": 0.1, "seed": 3})
    assert read_json(tmp_path / "run" / "results.json") == {"figures": {"loss": 1.5}}
    assert RunFolder(tmp_path / "run").begin("sft", {"lr": 0.1, "seed": 3}) is False


def test_another_run_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", lr=0.1)
    (folder.path / "checkpoints" / "step-1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds another run \(lr 0.1, not 0.2\); choose another out=DIR"):
        RunFolder(tmp_path / "run").begin("sft", {"lr": 0.2})
    with pytest.raises(UserError, match="verb sft, not dpo"):
        RunFolder(tmp_path / "run").begin("dpo", {"lr": 0.1})


def test_where_and_how_fast_may_change(tmp_path: Path) -> None:
    begun(tmp_path / "run", lr=0.1, threads=1, save_every=2, out="a")
    begun(tmp_path / "run", lr=0.1, threads=2, save_every=9, out="b")
    info = read_json(tmp_path / "run" / "run.json")
    assert info["status"] == "running" and info["config"] == {"lr": 0.1, "threads": 2, "save_every": 9, "out": "b"}


def test_an_option_that_came_later_was_at_its_default(tmp_path: Path) -> None:
    """A run of an earlier version goes on, in groups of options too; with another value of what it did not know it is another run."""
    defaults = {"lr": 0.5, "beta": 0.0, "lora": {"rank": 0, "new": "a"}}
    begun(tmp_path / "run", lr=0.1, lora={"rank": 4})
    now = {"lr": 0.1, "beta": 0.0, "lora": {"rank": 4, "new": "a"}}
    for config in ({**now, "beta": 1.0}, {**now, "lora": {"rank": 4, "new": "b"}}, {**now, "lr": 0.5}):
        with pytest.raises(UserError, match="holds another run"):
            RunFolder(tmp_path / "run").begin("sft", config, defaults=defaults)
    assert RunFolder(tmp_path / "run").begin("sft", now, defaults=defaults)


def test_changed_input_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("1\n")
    assert RunFolder(tmp_path / "run").begin("sft", {}, inputs=[data])
    assert RunFolder(tmp_path / "run").begin("sft", {}, inputs=[data])
    data.write_text("2\n")
    with pytest.raises(UserError, match=r"data.jsonl: changed since the run in .*run began"):
        RunFolder(tmp_path / "run").begin("sft", {}, inputs=[data])


def test_changed_parent_is_refused_and_a_hub_name_has_no_hash(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    run, parents = RunFolder(tmp_path / "run"), [model, "someone/model"]
    assert run.begin("sft", {}, parents=parents)
    run.let_go()
    kept = read_json(tmp_path / "run" / "run.json")["parents"]
    assert kept == {str(model): content_hash(model), "someone/model": None}
    (model / "config.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"model: changed since the run in .*run began"):
        RunFolder(tmp_path / "run").begin("sft", {}, parents=parents)


def test_what_a_run_reads_may_not_lie_where_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the two are written: relative, with .., through a link; at the place or inside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "data.jsonl").write_text("{}")
    (tmp_path / "run" / "samples.jsonl").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    places = {"run/model": "model", "link/model": "model", "run/../run/model/data.jsonl": "model", "run/samples.jsonl": "samples.jsonl"}
    for source, name in places.items():
        for out in ("run", "link", str(tmp_path / "run")):
            said = f"^{source}: this run reads it and would write {out}/{name} in its place; choose another out=DIR$"
            with pytest.raises(UserError, match=said):
                RunFolder(out).refuse_to_replace(["model"], [source])


def test_a_run_may_not_lie_in_a_folder_that_it_reads(tmp_path: Path) -> None:
    """It would change while it is read, and could not be taken up again."""
    for out in ("texts", "texts/run"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"^{tmp_path}/{out}: this run would write into {tmp_path}/texts, which it reads"):
            RunFolder(tmp_path / out).refuse_to_replace([], [tmp_path / "texts"])


def test_what_a_run_keeps_elsewhere_may_not_lie_in_a_folder_that_it_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("run")
    for place, name in {"run/model": "model", "run/model/cache": "model", "x/../run/adapter": "adapter"}.items():
        said = f"^reference_cache={place}: the run replaces run/{name} whole, and this with it; choose another folder$"
        with pytest.raises(UserError, match=said):
            folder.refuse_to_lose(["model", "adapter"], {"left_out": "", "reference_cache": place})
    folder.refuse_to_lose(["model"], {"left_out": "run", "reference_cache": "run/model-cache"})


def test_other_places_beside_a_run_may_be_read(tmp_path: Path) -> None:
    """Also inside its folder, or with a name that only begins like the model's; a hub's name is no place."""
    for name in ("run/base", "run/model-base", "other/model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "data.jsonl").write_text("{}")
    read = ["run/base", "run/model-base", "other/model", "run/data.jsonl", "run/model/gone"]
    places = [*(tmp_path / name for name in read), "someone/model"]
    folder = RunFolder(tmp_path / "run")
    folder.refuse_to_replace(["model"], places)
    (tmp_path / "run/model").mkdir()  # the place that was gone still is; its folder is what the run writes
    with pytest.raises(UserError, match="run/model: this run reads it"):
        folder.refuse_to_replace(["model"], [*places, tmp_path / "run/model"])


def test_metrics_are_one_line_for_each_value_and_truncation_drops_a_torn_one(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.log(1, {"loss": 0.5, "lr": 1e-3})
    folder.log_samples(1, [{"text": "ä"}])
    kept = folder.offsets()
    folder.log(2, {"loss": 0.25})
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 3, "name": "lo')
    folder.truncate(kept)
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "name": "loss", "value": 0.5},
        {"step": 1, "name": "lr", "value": 1e-3},
    ]
    assert read_lines(tmp_path / "samples.jsonl") == [{"step": 1, "text": "ä"}]
    folder.truncate({})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_file_shorter_than_at_the_checkpoint_is_refused_and_no_other_is_cut(tmp_path: Path) -> None:
    """Metrics go on for a line after the checkpoint; of the samples a byte is lost, or the whole file."""
    folder = begun(tmp_path)
    folder.log(1, {"loss": 0.5})
    folder.log_samples(1, [{"text": "a"}])
    kept = folder.offsets()
    folder.log(2, {"loss": 0.25})
    before, size = (tmp_path / "metrics.jsonl").read_bytes(), kept["samples.jsonl"]
    for left in (size - 1, None):
        (tmp_path / "samples.jsonl").unlink() if left is None else os.truncate(tmp_path / "samples.jsonl", left)
        said = rf"^{tmp_path}/samples.jsonl: damaged \({left or 0} bytes, {size} when the checkpoint was made\); put the whole"
        with pytest.raises(UserError, match=said) as caught:
            folder.truncate(kept)
        assert str(caught.value).endswith(f"delete {tmp_path}/checkpoints to train from the start") and "\n" not in str(caught.value)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("step", "value", "mend"), [(0, math.nan, "look at the model"), (3, -math.inf, "start again with a lower lr")])
def test_a_metric_that_is_no_number_ends_the_run_and_is_not_written(step: int, value: float, mend: str, tmp_path: Path) -> None:
    folder = begun(tmp_path)
    with pytest.raises(RunFailed, match=f"^step {step}: the metric eval/loss is {value}; .*{mend}") as caught:
        folder.log(step, {"loss": 0.5, "eval/loss": value})
    assert "\n" not in str(caught.value) and not (tmp_path / "metrics.jsonl").exists()


def test_a_file_in_the_place_of_the_folder_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(UserError, match=f"{out}: cannot write, {tmp_path}/file is a file and not a folder; choose another place"):
            RunFolder(out).begin("sft", {})


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot write")])
def test_a_write_that_fails_leaves_the_old_file_and_one_line(
    tmp_path: Path, number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail(handle: int) -> None:
        raise OSError(number, "told")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError) as caught:
        write_json(path, {"a": 2})
    assert str(caught.value).startswith(str(path)) and words in str(caught.value) and "\n" not in str(caught.value)
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_atomic_write_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "b") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_json_does_not_have_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "c.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "words"), [(None, "no such file"), ("{", "not JSON"), ("\udcff", "not JSON")])
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "d.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=words):
        read_json(path)


OTHERS = "processor, versions, threads, number format or attention"


def test_a_run_that_goes_on_with_another_attention_says_that_it_is_not_bit_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was begun before attention was compiled had torch's. Where there is no choice (a GPU), nothing is written or said."""

    def said(before: str | None, now: str | None) -> str:
        folder = tmp_path / f"{before}-{now}"
        for attention in (before, now):
            run = RunFolder(folder)
            assert run.begin("sft", {}, attention=attention)
            run.let_go()
        assert read_json(folder / "run.json").get("attention") == now
        return capsys.readouterr().out

    assert said("torch", "compiled a") == f"{tmp_path}/torch-compiled a: goes on with another {OTHERS}; not bit-equal\n"
    assert "not bit-equal" in said("compiled a", "compiled b") and "not bit-equal" in said(None, "compiled a")
    assert not said("compiled a", "compiled a") and not said(None, "torch") and not said(None, None)
