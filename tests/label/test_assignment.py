"""Overlap is exact, nobody labels twice, leases run out, a submission sent twice is one label."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from label_people import Place, prompt, ranked
from sqlalchemy import func, select, update

from trimtab.common.rng import generator
from trimtab.label import assignment
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.projects import acknowledge, publish_instructions
from trimtab.label.tables import assignments, labels, onboarding, tasks
from trimtab.label.tasks import close_task, free_slots, order_queue, set_overlap


def test_each_task_gets_its_overlap_and_nobody_gets_it_twice(place: Place) -> None:
    place.begin(overlap=2).add(ranked("bees", 4), ranked("ants", 3))
    for name in ("ada", "bob"):
        place.label(name, 2)
        assert place.next(name).why == "nothing"
    assert place.next("cyd").why == "nothing"  # both tasks have their two
    assert sorted((r.task_id, r.user_id) for r in place.rows(labels)) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [t.slots for t in place.rows(tasks)] == [0, 0]


def test_many_at_once_never_pass_the_overlap(place: Place) -> None:
    place.begin(overlap=3).add(*(ranked(f"item {i}", 3) for i in range(12)))
    people = [f"worker-{i}" for i in range(10)]
    for name in people:
        place.person(name)

    def work(name: str) -> int:
        done = 0
        while (given := place.next(name).assignment) is not None:
            place.submit(name, given)
            done += 1
        return done

    with ThreadPoolExecutor(10) as threads:
        assert sum(threads.map(work, people)) == 36
    with place.store.read() as connection:
        counts = connection.execute(select(labels.c.task_id, func.count()).group_by(labels.c.task_id)).all()
    assert sorted(counts) == [(i, 3) for i in range(1, 13)]


def test_leases_that_run_out_and_skips_in_between_never_pass_the_overlap(place: Place) -> None:
    """Ten people, each at a random pace; some leases are already over when they are taken, some tasks are skipped, drafts keep others."""
    place.begin(overlap=2).add(*(ranked(f"item {i}", 2) for i in range(15)))
    people = [f"worker-{i}" for i in range(8)]
    for name in people:
        place.person(name)

    def work(name: str) -> None:
        rng = generator(0, "work", name)
        for _ in range(40):
            given = place.next(name, time.time() - 7200 * (rng.random() < 0.3)).assignment
            if given is None:
                return
            if (luck := rng.random()) < 0.2:
                _write(place, assignment.skip, place.person(name), given, "Other")
            elif luck < 0.4:
                continue
            else:
                with contextlib.suppress(Refused):  # it went to somebody else
                    _write(place, assignment.save_draft, place.person(name), given, {})
                    place.submit(name, given)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, people))
    with place.store.read() as connection:
        live = (
            select(func.count())
            .where(assignments.c.task_id == tasks.c.id, assignments.c.state.in_(("leased", "done")))
            .scalar_subquery()
        )
        rows = connection.execute(select(tasks.c.slots, live.label("live"))).all()
        most = connection.execute(select(func.count()).select_from(labels).group_by(labels.c.task_id)).scalars().all()
    assert max(most) <= 2 and all(row.slots == 2 - row.live for row in rows)


def test_free_slots_are_counted_with_what_was_taken_meanwhile(place: Place) -> None:
    """PostgreSQL: somebody takes a task and commits while another one counts its slots again."""
    if place.store.sqlite:
        pytest.skip("SQLite has one writer at a time")
    place.begin(overlap=2).add(ranked("bees", 2))
    person, project = place.person("ada"), place.project
    counting = threading.Thread(target=_write, args=(place, free_slots, [1]))
    with place.store.write() as connection:
        assignment.claim(connection, project, person)
        counting.start()
        counting.join(0.5)
        assert counting.is_alive()  # it waits
    counting.join()
    assert place.rows(tasks)[0].slots == 1


def test_two_tabs_of_one_person_hold_one_task(place: Place) -> None:
    place.begin(overlap=3).add(*(ranked(f"item {i}", 3) for i in range(5)))
    place.person("ada")
    with ThreadPoolExecutor(8) as threads:
        assert len({n.assignment for n in threads.map(lambda _: place.next("ada"), range(16))}) == 1


def test_a_lease_that_runs_out_frees_the_task_and_a_late_label_is_refused_once_it_is_gone(place: Place) -> None:
    place.begin(overlap=1, lease_minutes=10).add(ranked("bees", 4))
    now = time.time()
    late = place.next("ada", now).assignment
    assert place.next("bob", now + 599).why == "nothing"
    other = place.next("bob", now + 601).assignment
    assert late is not None and other is not None
    with pytest.raises(Refused, match="went to somebody else"):
        place.submit("ada", late, now=now + 602)
    place.submit("bob", other, now=now + 603)
    assert len(place.rows(labels)) == 1


def test_a_late_label_counts_where_the_task_still_has_room(place: Place) -> None:
    place.begin(overlap=2, lease_minutes=10).add(ranked("bees", 4))
    now = time.time()
    late = place.next("ada", now).assignment
    assert late is not None
    place.next("bob", now + 601)  # ends ada's lease, takes one of two slots
    place.submit("ada", late, now=now + 602)
    assert place.rows(tasks)[0].slots == 0


def test_a_draft_is_kept_and_prolongs_the_lease(place: Place) -> None:
    place.begin(overlap=1, lease_minutes=10).add(prompt("bees"))
    now = time.time()
    given = place.next("ada", now).assignment
    assert given is not None
    with place.store.write() as connection:
        until = assignment.save_draft(connection, place.person("ada"), given, {"text": "Bees ar"}, now + 500)
    assert until == pytest.approx(now + 1100)
    assert place.next("bob", now + 900).why == "nothing"
    assert place.next("ada", now + 901).assignment == given and place.row(given).draft == {"text": "Bees ar"}


def test_the_same_submission_twice_is_one_label(place: Place) -> None:
    place.begin().add(ranked("bees", 4), ranked("ants", 4))
    given = place.next("ada").assignment
    assert given is not None
    first = place.submit("ada", given, key="the-same-key")
    assert place.submit("ada", given, key="the-same-key") == first
    with pytest.raises(Refused, match="labelled this task already"):
        place.submit("ada", given, key="another-key-1")
    other = place.next("ada").assignment
    assert other is not None
    with pytest.raises(Refused, match="key was used"):
        place.submit("ada", other, key="the-same-key")
    assert len(place.rows(labels)) == 1


@pytest.mark.parametrize("key", ["", "short", "x" * 65, "new\nline-key", "ümlaut-key"])
def test_a_key_that_is_none_is_refused(lite_place: Place, key: str) -> None:
    lite_place.begin().add(ranked("bees", 4))
    given = lite_place.next("ada").assignment
    assert given is not None
    with pytest.raises(Invalid):
        _write(
            lite_place,
            assignment.submit,
            lite_place.person("ada"),
            given,
            key,
            {"ranks": [1, 2, 3, 4], "ratings": [1] * 4},
            1.0,
        )


def test_somebody_elses_assignment_is_as_if_there_were_none(place: Place) -> None:
    place.begin().add(ranked("bees", 4))
    given = place.next("ada").assignment
    place.person("bob")
    assert given is not None
    for call in (
        lambda: place.submit("bob", given),
        lambda: _write(place, assignment.skip, place.person("bob"), given, "Other"),
        lambda: _write(place, assignment.save_draft, place.person("bob"), given, {}),
    ):
        with pytest.raises(Missing, match="no such task of yours"):
            call()


def _write(place: Place, function, *arguments):  # type: ignore[no-untyped-def]
    with place.store.write() as connection:
        return function(connection, *arguments)


def test_a_skip_goes_to_others_and_never_comes_back(place: Place) -> None:
    place.begin(overlap=1).add(ranked("bees", 4))
    given = place.next("ada").assignment
    assert given is not None
    _write(place, assignment.skip, place.person("ada"), given, "Not my field")
    assert place.next("ada").why == "nothing"
    with pytest.raises(Refused, match="skipped"):  # a draft that was still on its way does not take it back
        _write(place, assignment.save_draft, place.person("ada"), given, {})
    assert place.next("bob").assignment is not None
    assert [a.reason for a in place.rows(assignments)] == ["Not my field", None]


def test_undo_puts_the_label_back_as_a_draft_in_the_order_of_the_screen(place: Place) -> None:
    place.begin(overlap=1).add(ranked("bees", 4), ranked("ants", 4))
    given = place.next("ada").assignment
    assert given is not None
    said = {"ranks": [2, 1, 3, 1], "ratings": [3, 7, 1, 6], "flags": [[], ["opinion"], [], []], "note": "hm"}
    place.submit("ada", given, said)
    held = place.next("ada").assignment
    assert _write(place, assignment.undo, place.project, place.person("ada")) == given
    assert place.row(given).draft["value"] == said and place.row(given).state == "leased"
    assert place.next("ada").assignment == given  # the one that was undone comes first, then the one held before
    place.submit("ada", given, said)
    assert place.next("ada").assignment == held
    kept = place.rows(labels)
    assert [r.withdrawn is None for r in kept] == [False, True]
    assert [t.slots for t in place.rows(tasks)] == [0, 0]


def test_undo_has_its_limits(place: Place) -> None:
    place.begin().add(ranked("bees", 4))
    with pytest.raises(Refused, match="nothing to undo"):
        _write(place, assignment.undo, place.project, place.person("ada"))
    place.label("ada")
    with pytest.raises(Refused, match="a day old"):
        _write(place, assignment.undo, place.project, place.person("ada"), time.time() + 25 * 3600)


def test_a_new_version_of_the_instructions_is_read_before_the_next_task(place: Place) -> None:
    place.begin().add(ranked("bees", 4), ranked("ants", 4))
    project = place.project
    assert _write(place, publish_instructions, project.id, "Be careful.", None) == 1
    assert place.next("ada").why == "instructions"
    _write(place, acknowledge, project.id, 1, place.person("ada"))
    place.label("ada")
    given = place.next("ada").assignment
    _write(place, publish_instructions, project.id, "Be more careful.", None)
    assert place.next("ada").assignment == given  # what one has begun, one ends
    assert given is not None
    place.submit("ada", given)
    assert place.next("ada").why == "instructions"
    assert [r.instructions for r in place.rows(labels)] == [1, 1]


@pytest.mark.parametrize(("right", "passed"), [(3, True), (2, False)])
def test_the_screening_stands_before_the_queue(place: Place, right: int, passed: bool) -> None:
    """Four known pairs, three or two of them ordered as known, where 0.75 is asked for."""
    place.begin(pass_score=0.75).add(*(ranked(f"known {i}", 2, [1, 2]) for i in range(4)), purpose="screening")
    place.add(ranked("bees", 4))
    for i in range(4):
        given = place.next("ada").assignment
        assert given is not None
        shown = place.row(given).shown
        best_first = [1 if index == 0 else 2 for index in shown]
        place.submit("ada", given, {"ranks": best_first if i < right else [3 - r for r in best_first]})
    after = place.next("ada")
    assert (after.assignment is not None, after.why) == ((True, "") if passed else (False, "failed"))
    result = place.rows(onboarding)[0]
    assert (result.passed, result.score) == (passed, right / 4)


def test_a_screening_item_cannot_be_skipped(lite_place: Place) -> None:
    lite_place.begin().add(ranked("known", 2, [1, 2]), purpose="screening")
    given = lite_place.next("ada").assignment
    assert given is not None
    with pytest.raises(Refused, match="cannot be skipped"):
        _write(lite_place, assignment.skip, lite_place.person("ada"), given, "Other")


def test_gold_items_come_at_their_rate_and_once_each(lite_place: Place) -> None:
    place = lite_place.begin(gold_rate=0.25, overlap=1)
    place.add(*(ranked(f"known {i}", 2, [1, 2]) for i in range(80)), purpose="gold")
    place.add(*(ranked(f"item {i}", 2) for i in range(120)))
    place.label("ada", 120)
    with place.store.read() as connection:
        gold = connection.execute(
            select(func.count()).select_from(labels).join(tasks).where(tasks.c.purpose == "gold")
        ).scalar_one()
    assert 16 <= gold <= 44  # 120 draws of 0.25: 30 +- 2.9 standard deviations


def test_the_queue_has_the_mix_in_every_beginning(lite_place: Place) -> None:
    place = lite_place.begin(overlap=1, mix={"chat": 0.75, "extract": 0.25})
    place.add(
        *(ranked(f"e {i}", 2, use_case="extract") for i in range(20)),
        *(ranked(f"c {i}", 2, use_case="chat") for i in range(20)),
    )
    with place.store.read() as connection:
        cases = [r.use_case for r in connection.execute(select(tasks).order_by(tasks.c.position))]
    for n in range(4, 26):
        assert abs(cases[:n].count("chat") - 0.75 * n) <= 1
    _write(place, order_queue, place.project)  # doing it again changes nothing
    with place.store.read() as connection:
        assert [r.use_case for r in connection.execute(select(tasks).order_by(tasks.c.position))] == cases


def test_a_lower_overlap_and_a_closed_task_free_no_slot_that_is_taken(place: Place) -> None:
    place.begin(overlap=3).add(ranked("bees", 4))
    place.label("ada")
    given = place.next("bob").assignment
    assert given is not None
    _write(place, set_overlap, [1], 1)
    assert place.rows(tasks)[0].slots == 0
    _write(place, assignment.skip, place.person("bob"), given, "Other")
    assert place.rows(tasks)[0].slots == 0  # one label, overlap one
    _write(place, set_overlap, [1], 3)
    assert place.rows(tasks)[0].slots == 2
    _write(place, close_task, 1, True)
    assert place.next("cyd").why == "nothing"
    _write(place, close_task, 1, False)
    assert place.next("cyd").assignment is not None


def test_active_seconds_are_at_most_the_time_that_passed(place: Place) -> None:
    place.begin().add(ranked("bees", 4), ranked("ants", 4))
    now = time.time()
    for claimed, seconds in ((30.0, 30.0), (10_000.0, 60.0)):
        given = place.next("ada", now).assignment
        assert given is not None
        place.submit("ada", given, seconds=claimed, now=now + 60)
        assert place.rows(labels)[-1].seconds == pytest.approx(seconds, abs=0.1)


def test_nobody_passes_the_screening_by_its_last_item_being_closed(place: Place) -> None:
    """Two known pairs; one ordered wrongly, the other closed before it is done: the score is 0, and is written down."""
    place.begin(pass_score=0.75).add(*(ranked(f"known {i}", 2, [1, 2]) for i in range(2)), purpose="screening")
    place.add(ranked("bees", 4))
    given = place.next("ada").assignment
    assert given is not None
    place.submit("ada", given, {"ranks": [2 if index == 0 else 1 for index in place.row(given).shown]})
    _write(place, close_task, 2, True)
    assert place.next("ada").why == "failed"
    assert [(r.passed, r.score) for r in place.rows(onboarding)] == [(False, 0.0)]


def test_what_was_skipped_or_done_as_an_ordinary_task_counts_in_the_screening(place: Place) -> None:
    """Two tasks become items later: ada did one and skipped the other, which she has to do now; bob did both."""
    place.begin(overlap=2, pass_score=0.75).add(ranked("one", 2, [1, 2]), ranked("two", 2, [1, 2]), ranked("bees", 4))
    place.label("ada")
    given = place.next("ada").assignment
    assert given is not None
    _write(place, assignment.skip, place.person("ada"), given, "Other")
    place.label("bob", 2, value={"ranks": [1, 1]})
    known = {"ranks": [1, 2], "flags": None}
    with place.store.write() as connection:
        connection.execute(update(tasks).where(tasks.c.id < 3).values(purpose="screening", known=known, slots=0))
    assert place.next("ada").assignment == given and place.rows(onboarding) == []
    place.submit("ada", given)
    assert [(r.passed, r.score) for r in place.rows(onboarding)] == [(True, 1.0)]
    with pytest.raises(Refused, match="passed the project's onboarding"), place.store.write() as connection:
        assignment.admit(connection, place.project, place.person("bob"))  # though nothing is written down of him yet
    assert place.next("bob").why == "failed"  # two ties: half of what is known


def test_nobody_is_sent_away_because_another_one_is_just_taking_the_task(place: Place) -> None:
    """PostgreSQL: the one open task is locked by somebody who takes one of its two slots; the next one waits for the other."""
    if place.store.sqlite:
        pytest.skip("SQLite has one writer at a time")
    place.begin(overlap=2).add(ranked("bees", 2))
    people, project = [place.person("ada"), place.person("bob")], place.project
    found: list[assignment.Next] = []
    asking = threading.Thread(target=lambda: found.append(place.next("bob")))
    with place.store.write() as connection:
        assignment.claim(connection, project, people[0])
        asking.start()
        asking.join(0.5)
    asking.join()
    assert found[0].assignment is not None
    assert place.next("cyd").why == "nothing"
