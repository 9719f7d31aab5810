"""Limits and splits by user: exact counts, seeded draws that do not depend on the others, nobody in two splits."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from trimtab.data.curate.caps import cap, cap_users, draw_order
from trimtab.data.curate.splits import SPLITS, assert_apart, connected, split, split_by_user

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
USERS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=2, unique=True), max_size=40)


def test_a_user_keeps_exactly_the_limit_and_not_the_first() -> None:
    users = [["busy"]] * 30 + [["calm"]] * 5 + [[]] * 40
    kept = cap_users(users, most=10)
    assert sum(kept[:30]) == 10 and all(kept[30:])
    assert kept[:10] != [True] * 10 and kept[20:30] != [True] * 10
    assert cap_users(users, most=10) == kept != cap_users(users, most=10, seed=1)
    assert all(cap_users(users, most=0)) and all(cap_users(users, most=30)) and not any(cap_users([["a"]] * 3, most=3)[3:])


def test_other_prompts_change_nobody_s_sample() -> None:
    ids = [f"p{i}" for i in range(40)]
    alone = cap_users([["a"]] * 40, 7, ids=ids)
    mixed = cap_users([["b"]] * 60 + [["a"]] * 40, 7, ids=[*(f"q{i}" for i in range(60)), *ids])
    assert mixed[60:] == alone


@settings(deadline=None)
@given(USERS, st.integers(1, 5), st.integers(0, 3))
def test_nobody_has_more_and_nothing_is_left_out_needlessly(users: list[list[str]], most: int, seed: int) -> None:
    kept = cap_users(users, most, seed)
    count = {u: sum(u in mine and k for mine, k in zip(users, kept, strict=True)) for u in "abcdefgh"}
    assert max(count.values()) <= most
    for mine, k in zip(users, kept, strict=True):
        assert k or any(count[u] == most for u in mine)


def test_exempt_prompts_are_kept_and_count_for_nobody() -> None:
    users, starts = np.array([1] * 6, np.uint64), np.arange(7)
    exempt = np.array([True, True, False, False, False, False])
    kept = cap(users, starts, draw_order(0, "cap", np.arange(6, dtype=np.uint64)), 2, exempt)
    assert kept[:2].all() and kept[2:].sum() == 2


@settings(deadline=None, max_examples=200)
@given(USERS, st.data())
def test_no_user_and_no_group_is_in_two_splits(users: list[list[str]], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 30), min_size=len(users), max_size=len(users)))
    found = split_by_user(users, SHARES, data.draw(st.integers(0, 5)), groups)
    for a in range(len(users)):
        for b in range(a):
            if groups[a] == groups[b] or set(users[a]) & set(users[b]):
                assert found[a] == found[b]


@settings(deadline=None)
@given(USERS)
def test_connected_parts_are_those_of_pairwise_comparison(users: list[list[str]]) -> None:
    flat = np.array([ord(u) for mine in users for u in mine], np.uint64)
    groups = np.arange(len(users)) // 3
    part = connected(flat, np.cumsum([0, *map(len, users)]), groups).tolist()
    group = list(range(len(users)))
    for _ in users:  # as often as a chain can be long
        for a in range(len(users)):
            for b in range(len(users)):
                if groups[a] == groups[b] or set(users[a]) & set(users[b]):
                    group[a] = group[b] = min(group[a], group[b])
    assert [part.index(p) for p in part] == [group.index(g) for g in group]


def test_shares_are_met_and_heavy_users_are_everywhere() -> None:
    """300 users of 1 to 20 prompts: each share to within one prompt; in ten draws heavy users come into every split."""
    users = [[f"u{k}"] for k in range(300) for _ in range(1 + k % 20)]
    where = set()
    for seed in range(10):
        found = split_by_user(users, SHARES, seed)
        for name, share in SHARES.items():
            assert abs(found.count(name) - share * len(users)) <= 1
        where |= {found[i] for i, (user,) in enumerate(users) if int(user[1:]) % 20 == 19}
    assert where == set(SPLITS) and split_by_user(users, SHARES, 1) == split_by_user(users, SHARES, 1) != split_by_user(users, SHARES, 2)


def test_a_user_who_fits_in_one_split_only_is_there() -> None:
    """30 of 100 prompts are one user's, who fits in 80 % and not in 10 %."""
    users = [["heavy"]] * 30 + [[f"u{k}"] for k in range(70)]
    for seed in range(20):
        found = split_by_user(users, SHARES, seed)
        assert found[0] == "train" and [found.count(name) for name in SPLITS] == [80, 10, 10]


def test_prompts_without_a_user_are_alone_and_a_share_of_nothing_gets_nothing() -> None:
    found = split_by_user([[]] * 100, {"train": 3, "test": 1})
    assert found.count("train") == 75 and found.count("test") == 25
    assert split_by_user([], SHARES) == []


def test_one_part_that_is_too_large_is_said() -> None:
    """Sixty of a hundred prompts hang together, one by one, and 50 % is the largest share."""
    flat = np.array([k for i in range(60) for k in (i, i + 1)], np.uint64)
    starts = np.concatenate([np.arange(0, 121, 2), np.full(40, 120)])
    found = split(flat, starts, np.arange(100), [0.5, 0.25, 0.25])
    assert (found.largest, found.reachable, found.parts) == (60, False, 41)
    assert len(set(found.of[:60].tolist())) == 1
    assert split(flat[:80], starts[:41], np.arange(40), [1, 0, 0]).reachable


def test_a_user_in_two_splits_is_noticed() -> None:
    users, starts, groups = np.array([7, 7], np.uint64), np.array([0, 1, 2]), np.array([0, 1])
    assert_apart(np.array([1, 1], np.int8), users, starts, groups)
    with pytest.raises(AssertionError, match="a user is in two splits"):
        assert_apart(np.array([0, 1], np.int8), users, starts, groups)
    with pytest.raises(AssertionError, match="near-duplicates is in two splits"):
        assert_apart(np.array([0, 1], np.int8), np.array([7, 8], np.uint64), starts, np.array([3, 3]))
