"""One pass over a file: a seeded, even draw; repetitions, contradictions and test prompts that no draw could miss."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from doctor_cases import comparison, demonstration, healthy_comparisons
from tiny_models import write_lines

from trimtab.common.errors import UserError
from trimtab.doctor.check import NotApplicable
from trimtab.doctor.preferences import GROUP as COMPARISONS
from trimtab.doctor.records import GROUP as DATA
from trimtab.doctor.settings import Config
from trimtab.doctor.subject import Subject
from trimtab.doctor.survey import Survey, survey
from trimtab.records import parse_demonstration


def read(folder: Path, written: list[Any], **settings: Any) -> Survey:
    return survey(Config(model="none", data=str(write_lines(folder / "data.jsonl", written)), **settings))


class DataOnly(Subject):
    """Data without a model."""

    def __init__(self, found: Survey, **settings: Any) -> None:
        self.config, self.data = Config(model="none", **settings), found  # type: ignore[misc]


def said(found: Survey, name: str, **settings: Any) -> Any:
    check = next(c for group in (DATA, COMPARISONS) for c in group.checks if c.name == name)
    return check.run(DataOnly(found, **settings))


def test_the_draw_depends_on_the_seed_alone_and_every_record_has_the_same_chance() -> None:
    rows = [parse_demonstration(demonstration(i, f"answer {i}"), "row") for i in range(40)]
    counts: Counter[str] = Counter()
    for seed in range(300):
        found = Survey("file", 10, seed)
        for row in rows:
            found.add(row)
        assert len(found.records) == 10 and found.total == 40
        counts.update(found.demonstrations[i].completion for i in range(10))
    # 300 draws of 10 of 40: 75 each, standard deviation 7.5
    assert len(counts) == 40 and all(45 < n < 105 for n in counts.values())
    twice = [Survey("file", 10, 5), Survey("file", 10, 5)]
    for one in twice:
        for row in rows:
            one.add(row)
    assert twice[0].records == twice[1].records


def test_one_ranking_of_many_answers_is_one_opinion(tmp_path: Path) -> None:
    """Nine answers whose ratings go against their ranks make 36 pairs, which are one person's word; ten people's are enough."""
    row = {"completions": [{"text": f"answer {k}"} for k in range(9)], "ranks": [*range(1, 10)], "ratings": [1, 2, 3, 4, 5, 6, 7, 8, 9]}
    rows = [{**comparison(i, "", ""), **row} for i in range(10)]
    assert said(read(tmp_path, rows[:1]), "rank direction").status == "ok"
    assert said(read(tmp_path, rows), "rank direction").status == "fail"


def test_fewer_records_are_drawn_than_there_are_but_repetitions_are_counted_in_all(tmp_path: Path) -> None:
    rows = [demonstration(i, f"answer {i}") for i in range(24)] * 2
    found = read(tmp_path, rows, rows=5)
    assert (len(found.records), found.total, found.drawn) == (5, 48, "5 of 48 records")
    assert said(found, "duplicate records").numbers == {"count": 24, "records": 48}
    assert said(found, "repeated prompts").numbers == {"distinct": 24, "records": 48}
    assert len(found.few(3)) == 3 and found.few(3) == found.few(3)


def test_prompts_are_the_same_whatever_their_case_and_spaces(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": text} for i, text in enumerate(["Where is it?", " where  IS it?\n", "Where is she?"])]
    assert said(read(tmp_path, rows), "repeated prompts").numbers["distinct"] == 2


def test_a_pair_judged_both_ways_by_two_people_is_no_fault_and_by_one_it_is(tmp_path: Path) -> None:
    row = comparison(0, "a", "b")
    turned = {**row, "ranks": [2, 1]}
    filler = healthy_comparisons(20)
    two = read(tmp_path, [{**row, "labeler": "x"}, {**turned, "labeler": "y"}, *filler])
    assert said(two, "contradictions").status == "ok" and said(two, "contradictions").numbers == {"again": 1, "both": 1}
    one = read(tmp_path, [{**row, "labeler": "x"}, {**turned, "labeler": "x"}, *filler])
    assert said(one, "contradictions").status == "warning"
    assert "by one and the same labeler 1 of 1" in said(one, "contradictions").found
    often = [{**comparison(i, "a", "b"), "labeler": "x", "ranks": ranks} for i in range(3) for ranks in ([1, 2], [2, 1])]
    assert said(read(tmp_path, often), "contradictions").status == "fail"
    swapped = {**turned, "completions": row["completions"][::-1]}  # the same judgement, written the other way round
    assert said(read(tmp_path, [row, swapped]), "contradictions").numbers == {"again": 1, "both": 0}


def test_answers_that_nobody_ranked_yet_are_no_fault(tmp_path: Path) -> None:
    found = read(tmp_path, [{**comparison(i, "a", "b"), "ranks": [None, None]} for i in range(5)])
    with pytest.raises(NotApplicable, match="nobody has ranked"):
        said(found, "pairs to learn from")


def test_one_text_ranked_twice_in_a_ranking_contradicts_itself(tmp_path: Path) -> None:
    answers = [{"text": "a"}, {"text": "b"}, {"text": "a"}]
    row = {"messages": [{"role": "user", "content": "?"}], "completions": answers, "ranks": [1, 2, 3]}
    assert said(read(tmp_path, [row]), "contradictions").numbers == {"again": 1, "both": 1}
    agreeing = {**row, "ranks": [1, 2, 1]}  # a text that was sampled twice says nothing twice
    assert said(read(tmp_path, [agreeing]), "contradictions").numbers == {"again": 0, "both": 0}


def test_test_prompts_are_found_by_words_and_by_thirteen_in_a_row(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    test = write_lines(tmp_path / "test.jsonl", [{"prompt": long}, {"prompt": "Where is it?"}])
    other = [{"prompt": f"A prompt of its own, number {i}"} for i in range(5)]
    exact = read(tmp_path, [*other, {"prompt": "where is IT?"}], test=str(test))
    assert said(exact, "test prompts", test=str(test)).numbers == {"exact": 1, "records": 6}
    near = read(tmp_path, [*other, {"prompt": f"{long} sixteen"}], test=str(test))
    assert said(near, "test prompts", test=str(test)).status == "warning"
    shared = f"{long} and then a story of its own that goes on for much longer than what the two have in common"
    for text in (" ".join(long.split()[:12]), shared):
        far = read(tmp_path, [*other, {"prompt": text}], test=str(test))
        assert said(far, "test prompts", test=str(test)).status == "ok"


def test_an_empty_answer_may_be_rejected_and_may_beat_a_worse_one(tmp_path: Path) -> None:
    rejected = [comparison(i, "Yes.", "") for i in range(12)]
    assert said(read(tmp_path, rejected), "empty answers").status == "ok"
    middle = [{**comparison(0, "Yes.", ""), "completions": [{"text": t} for t in ("Yes.", "", "x x x")], "ranks": [1, 2, 3]}]
    assert said(read(tmp_path, middle), "empty answers").status == "ok"
    assert said(read(tmp_path, [comparison(0, "", "Yes.")]), "empty answers").status == "warning"  # one may be a slip
    assert said(read(tmp_path, [comparison(i, "", "Yes.") for i in range(3)]), "empty answers").status == "fail"


def test_length_bias_is_the_mean_over_rankings_with_its_interval(tmp_path: Path) -> None:
    longer, shorter = ("a longer answer", "short"), ("short", "a longer answer")
    found = read(tmp_path, [comparison(i, *(longer if i % 4 else shorter)) for i in range(40)])
    result = said(found, "length bias")
    # 30 of 40, z = 1.95996: Wilson's interval (0.75 + z^2/80 +- z sqrt(0.1875/40 + z^2/6400)) / (1 + z^2/40)
    assert result.numbers["value"] == pytest.approx(0.75) and result.numbers["n"] == 40
    assert result.numbers["low"] == pytest.approx(0.59807, abs=1e-4) and result.numbers["high"] == pytest.approx(0.85813, abs=1e-4)
    assert result.status == "ok"


def test_one_row_and_no_row_are_told_as_such(tmp_path: Path) -> None:
    assert said(read(tmp_path, [{"prompt": "Where is it?"}]), "rows").found == "1 row, 1 prompt (format trl-prompt)"
    empty = said(read(tmp_path, []), "rows")
    assert empty.status == "fail" and empty.found == "the file holds no rows"


def test_no_share_is_above_all_of_them(tmp_path: Path) -> None:
    """54 of 55: with Student's t the interval ended at 101.8 %."""
    rows = [{**comparison(i, "a longer answer", "short"), "shown_order": [0, 1]} for i in range(55)]
    rows[7] |= comparison(7, "short", "a longer answer") | {"shown_order": [1, 0]}
    found = read(tmp_path, rows)
    for check in ("length bias", "order shown"):
        numbers = said(found, check).numbers
        assert numbers["value"] == pytest.approx(54 / 55) and 0.9 < numbers["low"] < 54 / 55 < numbers["high"] <= 1


def test_broken_characters_count_where_they_are_learnt(tmp_path: Path) -> None:
    rejected = [comparison(i, "Yes.", "caf\ufffd") for i in range(12)]
    assert said(read(tmp_path, rejected), "broken characters").status == "ok"
    assert said(read(tmp_path, [comparison(i, "it\u00e2\u20ac\u2122s", "no") for i in range(3)]), "broken characters").status == "fail"
    fine = ["naïve café", "Ångström", "日本語", "😀", "tab\tand\nnewline", "“quotes” – dash", "São Paulo, À la carte"]
    assert said(read(tmp_path, [demonstration(i, text) for i, text in enumerate(fine)]), "broken characters").status == "ok"


def test_a_file_that_breaks_off_is_told_and_what_was_read_counts(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"prompt": "a"}, {"prompt": "b"}, {"prompt": ')
    found = survey(Config(model="none", data=str(path)))
    assert (found.total, found.bad_rows) == (2, 1)
    with pytest.raises(UserError, match="no such file"):
        survey(Config(model="none", data=str(tmp_path / "missing.jsonl")))
