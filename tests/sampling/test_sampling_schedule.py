"""The schedule alone: every job runs once, in its prompt's slot, whatever finishes when."""

import numpy as np
import pytest

from trimtab.sampling.schedule import IDLE, ROW_MULTIPLE, Schedule, group_jobs, slots_for


def test_groups_are_per_distinct_prompt_and_long_prompts_come_first() -> None:
    groups = group_jobs([0, 0, 1, 1, 0], [3, 9], k=2)
    assert [(g.prompt, g.prefix, g.jobs) for g in groups] == [(1, 9, (2, 3)), (0, 3, (0, 1)), (0, 3, (4,))]


@pytest.mark.parametrize("distinct", [1000, 3])
@pytest.mark.parametrize(
    ("jobs", "k", "rows", "slots"), [(40, 4, 8, 3), (7, 7, 8, 1), (100, 1, 16, 20), (64, 16, 32, 4), (100, 20, 8, 3), (60, 12, 8, 1)]
)
def test_every_job_is_drawn_once_with_its_own_prompt(jobs: int, k: int, rows: int, slots: int, distinct: int) -> None:
    """And a prompt that has once been in a slot is in one until its last job came, be it in many groups."""
    rng = np.random.default_rng(jobs)
    prompt_of = [job // k % distinct for job in range(jobs)]
    prefixes = [int(n) for n in rng.integers(0, 9, size=max(prompt_of) + 1)]
    width = min(k, rows)
    schedule = Schedule(group_jobs(prompt_of, prefixes, k), rows, slots)
    content = np.full(slots, -1)  # which prompt a slot holds
    marks = np.full(rows, -1)  # which job a row holds
    seen: list[int] = []
    computed: list[int] = []
    while True:
        while filled := schedule.fill_slots(token_budget=12):
            here = set(content.tolist())
            computed.extend({group.prompt for _, group in filled} - here)
            for slot, group in filled:
                assert content[slot] in (-1, group.prompt)
                content[slot] = group.prompt
        admitted = schedule.admit()
        marks[admitted] = schedule.job[admitted]
        if not schedule.busy.any():
            break
        busy = np.flatnonzero(schedule.busy)
        assert schedule.used_rows % ROW_MULTIPLE == 0 and busy.max() < schedule.used_rows
        assert schedule.place.max() < width
        assert len(set(zip(schedule.slot[busy], schedule.place[busy], strict=True))) == len(busy), "two rows in one place"
        for row in busy:
            job = schedule.job[row]
            assert marks[row] == job and content[schedule.slot[row]] == prompt_of[job]
            assert schedule.prefix[row] == prefixes[prompt_of[job]] <= schedule.longest_prefix
        done = rng.choice(busy, size=rng.integers(1, len(busy) + 1), replace=False)
        seen.extend(schedule.job[done].tolist())
        content[schedule.release(done)] = -1
        targets, sources = schedule.compact()
        marks[targets] = marks[sources]
    assert sorted(seen) == list(range(jobs)) and sorted(computed) == sorted(set(prompt_of))
    assert (content == -1).all()


def test_slots_are_enough_for_full_rows() -> None:
    """By hand: 16 rows hold 4 prompts of 4 samples, so 8 and 1 to compute ahead; of one sample each 16 and 4; 8 rows hold one of 20, so 2
    and 1; 4 rows hold 4 of the prompts of one sample that come after one of 9, so 8 and 1; one row does with one."""
    assert slots_for(group_jobs([i // 4 for i in range(400)], [1] * 100, 4), 16) == 9
    assert slots_for(group_jobs(list(range(400)), [1] * 400, 1), 16) == 20
    assert slots_for(group_jobs([i // 20 for i in range(400)], [1] * 20, 20), 8) == 3
    assert slots_for(group_jobs([0] * 9 + list(range(1, 21)), [9] + [1] * 20, 9), 4) == 9
    assert slots_for(group_jobs([0, 0, 1], [1, 1], 2), 1) == 1


def test_rows_are_compacted_only_when_nothing_waits() -> None:
    schedule = Schedule(group_jobs(list(range(20)), [1] * 20, 1), rows=16, slots=16)
    assert len(schedule.fill_slots(100)) == 16 and len(schedule.admit()) == 16
    assert schedule.release(np.arange(10)).tolist() == list(range(10))
    assert all(len(part) == 0 for part in schedule.compact())
    assert len(schedule.fill_slots(100)) == 4
    schedule.admit()
    schedule.release(np.arange(4))  # six are left, in rows 10 to 15
    targets, sources = schedule.compact()
    assert sources.tolist() == [10, 11, 12, 13, 14, 15] and targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert schedule.used_rows == 8 and (schedule.job[8:] == IDLE).all() and schedule.busy[:6].all()


def test_a_slot_is_needed_until_its_last_sample_is_finished() -> None:
    schedule = Schedule(group_jobs([0] * 3, [5], 3), rows=8, slots=1)
    schedule.fill_slots(100)
    schedule.admit()
    assert schedule.release(np.array([0, 2])).tolist() == []
    assert schedule.release(np.array([1])).tolist() == [0]


def test_prompts_are_computed_many_at_a_time() -> None:
    schedule = Schedule(group_jobs(list(range(40)), [1] * 40, 1), rows=8, slots=16)
    schedule.fill_slots(100)
    schedule.admit()
    schedule.release(np.array([0]))  # 1 of 16 slots is free and 8 prompts are ready: no need yet
    assert schedule.fill_slots(100) == []
    schedule.admit()
    schedule.release(np.array([0, 1, 2]))
    assert len(schedule.fill_slots(100)) == 4
