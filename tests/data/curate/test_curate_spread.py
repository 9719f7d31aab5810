"""Work on shards: in order and the same in one process, in several, and under Ray; errors come through."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.common.config import load_config
from trimtab.common.errors import RunFailed, UserError
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.spread import on_shards
from trimtab.data.curate.store import OPEN_FILES, Shard, Texts

JOBS: list[dict[str, Any]] = [{"n": n} for n in range(9)]


def test_results_come_in_the_order_of_the_jobs() -> None:
    expected = [json.dumps(job) for job in JOBS]
    assert list(on_shards(json.dumps, JOBS, 1)) == list(on_shards(json.dumps, JOBS, 2)) == expected
    assert list(on_shards(json.dumps, [], 2)) == []


def test_an_error_of_a_process_comes_through() -> None:
    with pytest.raises(TypeError):
        list(on_shards(json.loads, JOBS, 2))


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(RunFailed, match="a worker process was ended from outside"):
        list(on_shards(killed, JOBS, 2))


def killed(job: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_threads_of_this_process_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    list(on_shards(json.dumps, JOBS, 2))
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_texts_of_several_shards_are_one_sequence(tmp_path: Path) -> None:
    texts = [["ab", "", "日本"], [], [""], ["x\n", "y"]]
    parts = []
    for number, mine in enumerate(texts):
        shard = Shard(tmp_path, number)
        parts.append((shard.path("texts"), shard.write_texts("texts", mine)))
    whole = Texts(parts)
    assert list(whole) == ["ab", "", "日本", "", "x\n", "y"] == whole[0:6] and len(whole) == 6
    with pytest.raises(IndexError):
        whole[6]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_texts_of_very_many_shards_are_not_all_open_at_once(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    shards = [Shard(tmp_path, number) for number in range(OPEN_FILES + 100)]
    whole = Texts((shard.path("texts"), shard.write_texts("texts", [f"text {shard.number}"])) for shard in shards)
    assert list(whole) == [f"text {shard.number}" for shard in shards]
    assert len(os.listdir("/proc/self/fd")) - before <= OPEN_FILES


def test_lines_and_arrays_of_a_shard(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 3)
    shard.write_lines("rows", [{"a": "line\u2028separator\nfeed"}, {}])
    assert list(shard.read_lines("rows")) == [{"a": "line\u2028separator\nfeed"}, {}]
    shard.save("arrays", {"x": np.arange(3), "y": np.zeros((0, 4), np.uint64)})
    assert shard.load("arrays")["x"].tolist() == [0, 1, 2] and shard.load("arrays")["y"].shape == (0, 4)


def test_ray_gives_the_same_bytes(tmp_path: Path) -> None:
    """A whole curation by two local workers of Ray Data beside one process."""
    for package in ("ray.data", "presidio_analyzer", "datasketch", "py3langid"):
        pytest.importorskip(package, reason="the extras 'scale' and 'curate' are not installed")
    from trimtab.data.curate.pipeline import curate
    from trimtab.data.files import write_records
    from trimtab.village import raw_prompts

    write_records(tmp_path / "a.jsonl", raw_prompts()[:120])
    settings = load_config(CurateSettings, None, ["users.most=10"])
    curate([tmp_path / "a.jsonl"], tmp_path / "one", settings, rows=50)
    curate([tmp_path / "a.jsonl"], tmp_path / "ray", settings, workers=2, runner="ray", rows=50)
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "left_out.jsonl", "card.json", "card.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes(), name


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match="needs the extra 'scale'"):
        list(on_shards(json.dumps, JOBS, 2, "ray"))
