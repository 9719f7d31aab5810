"""Seeded streams, progress lines, memory figures."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.common.device import free_bytes
from trimtab.common.memory import available_bytes, keep_freed_memory, peak_bytes
from trimtab.common.progress import Progress, clock, format_numbers
from trimtab.common.rng import generator, seed_for


def test_streams_are_the_same_everywhere_and_forever() -> None:
    """A known answer: a changed derivation would change every experiment."""
    assert (seed_for(0), seed_for(0, "labeler", "p1")) == (4246866556266386882, 5074397187031892424)
    assert generator(3, "a").random(2).tolist() == pytest.approx([0.39820028, 0.98183905], abs=1e-8)


def test_streams_differ_by_seed_name_and_order_and_names_do_not_run_together() -> None:
    seeds = [
        seed_for(0, "a"),
        seed_for(1, "a"),
        seed_for(0, "b"),
        seed_for(0, "a", "b"),
        seed_for(0, "b", "a"),
        seed_for(0, "ab"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert seed_for(0, 1) == seed_for(0, "1")  # a prompt id may be a number


def test_streams_are_independent_of_each_other_and_of_numpys_global_state() -> None:
    np.random.seed(0)
    first = generator(0, "x").random(1000)
    np.random.seed(1)
    assert np.array_equal(generator(0, "x").random(1000), first)
    assert abs(float(np.corrcoef(first, generator(0, "y").random(1000))[0, 1])) < 0.1


def test_clock_and_numbers() -> None:
    assert [clock(s) for s in (0, 59.4, 75, 3600, 3725)] == ["0:00", "0:59", "1:15", "1:00:00", "1:02:05"]
    assert format_numbers({"loss": 0.12345, "kl": 4.5}) == "loss 0.1235  kl 4.5"


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("trimtab.common.progress.time.monotonic", lambda: self.now)


def test_plain_lines_when_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Progress("sft", total=4, done=1) as bar:
        clock.now += 0.01
        bar.advance(loss=2.0)  # nobody knows the rate after a hundredth of a second
        clock.now += 11.99
        bar.advance(loss=1.5)
        clock.now += 1
        bar.advance(loss=1.0, by=3.0)  # a metric may have any name
    assert capsys.readouterr().err.splitlines() == [
        "sft: 2/4 steps in 0:00  loss 2", "sft: 3/4 steps in 0:12, 12.0 s/step, 0:12 left  loss 1.5",
        "sft: 4/4 steps in 0:13, 4.3 s/step  loss 1  by 3",
    ]  # fmt: skip


def test_the_first_work_is_no_measure_of_the_rest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute for the first item, in which models are read; then two seconds each: 20 of 90 items to go are 40 seconds."""
    clock = Clock(monkeypatch)
    with Progress("rank", total=101, unit="items") as bar:
        clock.now += 60
        bar.advance()
        clock.now += 160
        bar.advance(80)
        clock.now += 40
        bar.advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "rank: 1/101 items in 1:00", "rank: 81/101 items in 3:40, 2.0 s/item, 0:40 left",
        "rank: 101/101 items in 4:20, 2.6 s/item",
    ]  # fmt: skip


def test_one_row_is_one_row_and_work_that_is_soon_done_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with Progress("reading", None, "rows") as bar:
        bar.advance()
    assert capsys.readouterr().err.splitlines()[-1] == "reading: 1 row in 0:00"
    for seconds in (1.9, 4.0):
        with Progress("reading", None, "rows", after=2) as bar:
            bar.advance(3000)
            clock.now += seconds
            bar.advance(3000)
    assert capsys.readouterr().err.splitlines() == ["reading: 6,000 rows in 0:04, 1,500 rows/s"] * 2


def test_the_bar_of_a_terminal_ends_with_the_last_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress("reading", None, "rows", after=2) as bar:
        inner = bar._bar
        assert inner is not None and not inner.live.is_started
        clock.now += 3
        bar.advance()
        assert inner.live.is_started
        bar.advance(41)
    assert not inner.live.is_started and inner.tasks[0].completed == 42


def test_a_number_that_is_measured_now_and_then_stays_on_show(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("sft", total=3) as bar:
        bar.advance(loss=2.0, accuracy=0.5)
        bar.advance(loss=1.0)
    assert capsys.readouterr().err.splitlines()[-1].endswith("loss 1  accuracy 0.5")


def test_an_error_ends_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress("x", total=2):
        raise RuntimeError
    assert capsys.readouterr().err == ""


def test_memory_is_in_bytes_and_only_grows() -> None:
    before = peak_bytes()
    block = np.ones(40_000_000, dtype=np.uint8)
    assert 10e6 < before <= peak_bytes() < 1e12 and block.sum() == 40_000_000


def test_the_allocator_setting_may_be_asked_for_twice() -> None:
    assert keep_freed_memory() == keep_freed_memory()


def resident_mb_after_freeing_64(environment: dict[str, str]) -> float:
    """What a fresh process that asked for the setting still has of a block of 64 MB that it wrote to and freed."""
    code = """if True:
        from trimtab.common.memory import keep_freed_memory
        keep_freed_memory()
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
        before = resident()
        block = bytearray(b"1" * 64_000_000)
        del block
        print(resident() - before)
    """
    given = {k: v for k, v in os.environ.items() if k != "TRIMTAB_KEEP_MEMORY"} | environment
    return float(subprocess.run([sys.executable, "-c", code], env=given, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    assert resident_mb_after_freeing_64({}) > 60
    assert resident_mb_after_freeing_64({"TRIMTAB_KEEP_MEMORY": "1"}) > 60
    assert resident_mb_after_freeing_64({"TRIMTAB_KEEP_MEMORY": "0"}) < 10


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_available_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    """By hand: the machine has 5,000 kB; a container of 2,000,000 bytes that uses 900,000, of them 300,000 of files, has 1,400,000."""
    machine = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\n"}
    assert available_bytes(written(tmp_path / "bare", machine)) == 5_120_000
    two = {"memory.max": "2000000\n", "memory.current": "900000\n", "memory.stat": "anon 1\ninactive_file 300000\n"}
    two = {f"sys/fs/cgroup/{name}": text for name, text in two.items()}
    assert available_bytes(written(tmp_path / "two", machine | two)) == 1_400_000
    assert available_bytes(written(tmp_path / "none", machine | two | {"sys/fs/cgroup/memory.max": "max\n"})) == 5_120_000
    assert available_bytes(written(tmp_path / "over", machine | two | {"sys/fs/cgroup/memory.current": "9000000\n"})) == 0
    one = {"limit_in_bytes": "2000000\n", "usage_in_bytes": "900000\n", "stat": "inactive_file 1\ntotal_inactive_file 300000\n"}
    one = {f"sys/fs/cgroup/memory/memory.{name}": text for name, text in one.items()}
    assert available_bytes(written(tmp_path / "one", machine | one)) == 1_400_000


def test_available_memory_is_some_of_this_machines() -> None:
    assert 1e6 < free_bytes(torch.device("cpu")) < 1e15
