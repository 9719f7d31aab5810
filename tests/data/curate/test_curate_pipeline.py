"""The whole curation on files: every row is accounted for, nothing that was planted comes out, the same bytes however it ran."""

import gzip
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("presidio_analyzer", reason="the extra 'curate' is not installed")
pytest.importorskip("datasketch", reason="the extra 'curate' is not installed")
pytest.importorskip("py3langid", reason="the extra 'curate' is not installed")

from trimtab.common.config import load_config
from trimtab.common.errors import UserError
from trimtab.data.curate.hashing import hash64
from trimtab.data.curate.names import short_names
from trimtab.data.curate.pipeline import curate
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.shards import STEPS
from trimtab.data.curate.splits import SPLITS
from trimtab.data.files import rows as readers, write_records
from trimtab.village import raw_prompts

Row = dict[str, Any]
FILES = ("train.jsonl", "validation.jsonl", "test.jsonl", "left_out.jsonl", "card.json", "card.md")


def rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def options(*words: str) -> CurateSettings:
    return load_config(CurateSettings, None, words)


def prompt(identity: str, text: str, **more: Any) -> Row:
    return {"id": identity, "messages": [{"role": "user", "content": text}], **more}


def write(path: Path, *found: Row | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in found), encoding="utf-8")
    return path


def run(files: list[Path], out: Path, *words: str) -> tuple[dict[str, list[Row]], Row]:
    """The rows of every output, and the card."""
    card = curate(files, out, options(*words))
    return {name: rows(out / f"{name}.jsonl") for name in (*SPLITS, "left_out")}, card


def why(found: dict[str, list[Row]]) -> dict[str, str]:
    return {row["id"]: row["step"] for row in found["left_out"]}


def kept(found: dict[str, list[Row]]) -> dict[str, Row]:
    return {row["id"]: row for name in SPLITS for row in found[name]}


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path, Row]:
    """1,500 raw prompts of the village's users in two shards and a bit, some rows that cannot be read, and labelers' prompts."""
    folder = tmp_path_factory.mktemp("village")
    write_records(folder / "users.jsonl", raw_prompts()[:1500])
    with open(folder / "users.jsonl", "a", encoding="utf-8") as f:
        f.write('{"id": "broken"\n{"messages": [{"role": "user", "content": "x"}], "source": ["anna@example.org"]}\n')
    styles = ("plain", "few-shot", "use-case")
    write(folder / "labelers.jsonl", *(
        prompt(f"l{i}", f"Describe object {i} of the collection in {n} words", user=f"labeler-{i % 3}", source=f"labeler-{styles[i % 3]}")
        for i, n in enumerate(["ten", "twenty", "thirty", "forty"] * 5)
    ))  # fmt: skip
    files = [folder / "labelers.jsonl", folder / "users.jsonl"]
    card = curate(files, folder / "out", options("users.most=40"), rows=600)
    return files, folder / "out", card


def test_every_row_is_accounted_for(village: tuple[list[Path], Path, Row]) -> None:
    _, out, card = village
    left, all_kept = rows(out / "left_out.jsonl"), [row for name in SPLITS for row in rows(out / f"{name}.jsonl")]
    assert card["rows"] == 1522 == card["kept"] + card["left_out"] and card["kept"] == len(all_kept) and card["left_out"] == len(left)
    ids = Counter(row["id"] for row in (*left, *all_kept) if row["id"])
    assert set(ids.values()) == {1} and len(ids) == 1520
    assert {row["step"] for row in left} <= set(STEPS) and all(row["reason"] for row in left)
    order = [(row["where"].split(":")[0], int(row["where"].split(":")[1])) for row in left]
    assert order == sorted(order)  # labelers.jsonl was given first
    assert [row["where"] for row in left if row["step"] == "unreadable"] == ["users.jsonl:1501", "users.jsonl:1502"]


def test_the_card_s_numbers_are_those_of_the_files(village: tuple[list[Path], Path, Row]) -> None:
    files, out, card = village
    left = rows(out / "left_out.jsonl")
    assert json.loads((out / "card.json").read_text(encoding="utf-8")) == card
    assert {step["step"]: step["left_out"] for step in card["steps"]} == {step: sum(r["step"] == step for r in left) for step in STEPS}
    for before, after in zip(card["steps"], card["steps"][1:], strict=False):
        assert before["out"] == after["in"] == before["in"] - before["left_out"]
    assert card["steps"][0]["in"] == card["rows"] and card["steps"][-1]["out"] == card["kept"]
    for name in SPLITS:
        mine = rows(out / f"{name}.jsonl")
        entry = card["splits"][name]
        assert entry["prompts"] == len(mine) and entry["users"] == len({r["user"] for r in mine})
        assert entry["by_source"] == Counter(r["source"] for r in mine)
        assert entry["use_cases"] == Counter(r["use_case"] for r in mine if "use_case" in r)
    assert card["sources"].keys() == {"labeler-few-shot", "labeler-plain", "labeler-use-case", "users", "village"}
    assert [entry["sha256"] for entry in card["inputs"]] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    for name, value in card["outputs"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == value


def test_what_was_planted_does_not_come_out(village: tuple[list[Path], Path, Row]) -> None:
    _, out, card = village
    raw = {p.id: p for p in raw_prompts()[:1500]}
    written = "".join((out / name).read_text(encoding="utf-8") for name in FILES)
    assert "anna@example.org" not in written  # of the row that cannot be read
    found = {row["id"]: row for name in SPLITS for row in rows(out / f"{name}.jsonl")}
    left = {row["id"]: row for row in rows(out / "left_out.jsonl")}
    planted: Counter[str] = Counter()
    for p in raw.values():
        what = str(p.extra.get("planted", ""))
        while what.startswith("exact:"):  # a repeat holds what the repeated one does
            what = str(raw[what[6:]].extra.get("planted", ""))
        planted[what] += 1
    assert {k: e["prompts"] for k, e in card["personal"]["types"].items() if e["prompts"]} == {
        "EMAIL": planted["email"], "PHONE": planted["phone"], "CARD": planted["card"],
    }  # fmt: skip
    for identity, row in found.items():
        what = raw[identity].extra.get("planted", "") if identity in raw else ""
        text = row["messages"][-1]["content"]
        if what in ("email", "phone", "card"):
            assert f"<{what.upper()}_1>" in text
        elif identity in raw:
            assert text == raw[identity].text  # nothing else is changed
    for identity, p in raw.items():
        kind, _, original = p.extra.get("planted", "").partition(":")
        if kind == "exact":
            assert left[identity]["step"] in ("exact", "near", "prefix") or original in left
        elif kind == "near" and identity in found and original in raw:
            assert original in left


def test_nobody_is_in_two_splits_and_nobody_has_too_many(village: tuple[list[Path], Path, Row]) -> None:
    _, out, card = village
    users = {name: Counter(row["user"] for row in rows(out / f"{name}.jsonl")) for name in SPLITS}
    assert not users["train"].keys() & users["test"].keys() and not users["train"].keys() & users["validation"].keys()
    assert max(max(counts.values()) for counts in users.values()) == 40 and card["users"]["over_the_limit"] == 3
    texts = {name: {json.dumps(row["messages"]).lower() for row in rows(out / f"{name}.jsonl")} for name in SPLITS}
    assert not texts["train"] & (texts["validation"] | texts["test"])


def test_the_same_bytes_however_the_work_was_cut(village: tuple[list[Path], Path, Row], tmp_path: Path) -> None:
    files, out, _ = village
    curate(files, tmp_path / "again", options("users.most=40"))
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(FILES)  # no work folder is left
    curate(files, tmp_path / "other", options("users.most=40", "seed=1"))
    assert (tmp_path / "other/train.jsonl").read_bytes() != (out / "train.jsonl").read_bytes()


def test_the_card_is_a_page(village: tuple[list[Path], Path, Row]) -> None:
    _, out, card = village
    page = (out / "card.md").read_text(encoding="utf-8")
    assert page.startswith(f"# Data card\n\n1,522 rows came in, {card['kept']:,} prompts are kept")
    assert "| near | nearly the words of an earlier prompt |" in page and "| EMAIL | replace |" in page and "users.most=40" in page
    assert "Names of people and places were not looked for" in page
    for section in ("Step by step", "Personal data", "Duplicates", "Users", "Use cases", "Splits", "Languages", "How to make it again"):
        assert f"\n## {section}\n" in page


def test_personal_data_that_drops_a_prompt(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl",
        prompt("mail", "Write to anna@example.org please"), prompt("card", "Pay with 4111 1111 1111 1111 now"),
        prompt("fine", "Write a poem"), prompt("both@example.org", "Ring 212-736-5000 or pay with 4111111111111111", user="jo@example.org"),
    )  # fmt: skip
    found, card = run([file], tmp_path / "out", "personal.types={CARD: drop, PHONE: keep}")
    assert why(found)["card"] == "personal" and {row["reason"] for row in found["left_out"]} == {"CARD 1"}
    assert kept(found)["mail"]["messages"][0]["content"] == "Write to <EMAIL_1> please" and "fine" in kept(found)
    assert card["personal"]["left_as_it_is"] == ["PHONE"] and card["personal"]["ids_replaced"] == 1
    assert "example.org" not in (tmp_path / "out/left_out.jsonl").read_text(encoding="utf-8")


def test_users_that_are_addresses_get_pseudonyms_and_stay_one_user(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *(prompt(f"p{i}", f"Write poem number {i}", user="jo@example.org") for i in range(5)))
    found, card = run([file], tmp_path / "out", "users.most=3")
    users = {row["user"] for row in kept(found).values()}
    assert len(kept(found)) == 3 and len(users) == 1 and users.pop().startswith("user-") and card["users"]["users"] == 1


def test_each_rule_s_duplicates_are_named(tmp_path: Path) -> None:
    long = "Write a friendly letter to the people of the old mill by the river and tell them that the bridge will be closed for a week"
    file = write(
        tmp_path / "a.jsonl", prompt("first", long), prompt("exact", f" {long.upper()}!"), prompt("prefix", f"{long} or for two of them"),
        prompt("near", f"Please {long.replace('friendly', 'kind')}"), prompt("fine", "Write a letter"),
    )  # fmt: skip
    found, card = run([file], tmp_path / "out")
    assert why(found) == {"exact": "exact", "prefix": "prefix", "near": "near"} and set(kept(found)) == {"first", "fine"}
    assert {row["duplicate_of"] for row in found["left_out"]} == {"first"}
    assert [card["duplicates"][kind] for kind in ("exact", "prefix", "near")] == [1, 1, 1]


def test_lengths_languages_and_users_that_are_missing(tmp_path: Path) -> None:
    german = "Bitte schreibe einen kurzen Brief an meine Nachbarn wegen des Lärms."
    file = write(
        tmp_path / "a.jsonl",
        prompt("long", "x" * 60, user="a"), prompt("empty", "  ", user="a"), prompt("german", german[:45], user="a"),
        prompt("nobody", "Please write me a poem"), prompt("fine", "Please write a short letter", user="a"),
    )  # fmt: skip
    words = ("length.most_characters=50", "language.keep=[en]", "users.missing=drop")
    found, card = run([file], tmp_path / "out", *words)
    assert why(found) == {"long": "length", "empty": "length", "german": "language", "nobody": "user"} and list(kept(found)) == ["fine"]
    assert card["languages"] == {"en": 1, "de": 1}
    again, _ = run([file], tmp_path / "out2", *words[:2])
    assert set(kept(again)) == {"fine", "nobody"}


def test_prompts_without_a_user_share_one_with_their_source_where_asked(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *(prompt(f"p{i}", f"Write poem number {i}") for i in range(6)))
    assert len(kept(run([file], tmp_path / "each", "users.most=2")[0])) == 6
    found, card = run([file], tmp_path / "source", "users.most=2", "users.missing=source")
    assert len(kept(found)) == 2 and card["users"]["prompts_without_a_user"] == 6 and all("user" not in row for row in kept(found).values())


def test_users_of_sources_without_a_limit_are_not_over_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *(
        prompt(f"p{i}", f"Write poem number {i}", user=user, source=source)
        for i, (user, source) in enumerate([("ann", "labeler")] * 4 + [("bob", "api")] * 5)
    ))  # fmt: skip
    _, card = run([file], tmp_path / "out", "users.most=3", "users.exempt=[labeler]")
    assert (card["users"]["over_the_limit"], card["users"]["left_out"], card["users"]["users"]) == (1, 2, 2)


def test_lists_of_users_count_for_each_of_them_and_share_a_split(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("prompt,who\n" + "".join(f'Write poem number {i},"u{i},u{i + 1}"\n' for i in range(12)), encoding="utf-8")
    found, card = run([table], tmp_path / "out", "fields={user: who}", "split={train: 0.5, validation: 0.25, test: 0.25}")
    assert [len(found[name]) for name in SPLITS] == [12, 0, 0]
    assert card["users"]["users"] == 13 and card["users"]["prompts_of_several_users"] == 12
    assert card["linked"] == {"parts": 1, "largest": 12, "shares_reachable": False}
    assert "cannot be reached" in (tmp_path / "out/card.md").read_text(encoding="utf-8")
    words = ("fields={user: who}", "users.separator=", "split={train: 0.5, validation: 0.25, test: 0.25}")
    apart, _ = run([table], tmp_path / "apart", *words)
    assert [len(apart[name]) for name in SPLITS] == [6, 3, 3]


def test_a_column_of_users_is_read_as_all_of_them(tmp_path: Path) -> None:
    """``fields.users`` keeps the first in ``user`` and all in ``users``: none of them may have more or be in two splits."""
    table = tmp_path / "a.csv"
    table.write_text("prompt,who\n" + "".join(f'Write poem number {i},"u{i:02d},u{i + 1:02d}"\n' for i in range(12)), encoding="utf-8")
    found, card = run([table], tmp_path / "out", "fields={users: who}", "split={train: 0.5, validation: 0.25, test: 0.25}")
    assert [len(found[name]) for name in SPLITS] == [12, 0, 0] and found["train"][3]["users"] == ["u03", "u04"]
    assert card["users"]["users"] == 13 and card["users"]["prompts_of_several_users"] == 12
    file = write(tmp_path / "b.jsonl", *(prompt(f"p{i}", f"Write ode number {i}", users=[f"v{i}", "jo@example.org"]) for i in range(6)))
    found, card = run([file], tmp_path / "capped", "users.most=4", "personal.types={EMAIL: drop}")
    assert len(kept(found)) == 4 and set(why(found).values()) == {"cap"}
    for row in kept(found).values():
        first, second = row["users"]
        assert row["user"] == first == f"v{row['id'][1:]}" and second.startswith("user-")
    file = write(tmp_path / "c.jsonl", prompt("x", "Write a song", user="ann", users=["bob", "ann"]))
    found, card = run([file], tmp_path / "both")
    assert (kept(found)["x"]["user"], kept(found)["x"]["users"], card["users"]["users"]) == ("ann", ["ann", "bob"], 2)


def test_a_user_that_is_an_ip_address_gets_a_pseudonym(tmp_path: Path) -> None:
    users = ("203.0.113.7", "2001:db8::1f2e:7", "12:30:45", "v1.2.3", "555-123-4567")
    file = write(tmp_path / "a.jsonl", *(prompt(f"p{i}", f"Write poem number {i}", user=user) for i, user in enumerate(users)))
    found = kept(run([file], tmp_path / "out")[0])
    assert [found[f"p{i}"]["user"].startswith("user-") for i in range(5)] == [True, True, False, False, False]
    assert "203.0.113.7" in kept(run([file], tmp_path / "as-it-is", "personal.types={IP: keep}")[0])["p0"]["user"]


def test_no_tag_and_no_other_field_keeps_an_address(tmp_path: Path) -> None:
    address = "jo@example.org"
    fields: list[Row] = [{"source": address}, {"use_case": address}, {"users": address, "user": "u"}, {"users": [address, 7], "user": "u"}]
    file = write(tmp_path / "a.jsonl", *(prompt(f"p{i}", f"Write poem number {i}", **more) for i, more in enumerate(fields)))
    found, card = run([file], tmp_path / "out")
    assert len(kept(found)) == 4 and kept(found)["p0"]["source"].startswith("source-") and kept(found)["p0"]["source"] in card["sources"]
    assert not any(address in (tmp_path / "out" / name).read_text(encoding="utf-8") for name in FILES)


def test_of_a_row_that_cannot_be_read_nothing_is_written(tmp_path: Path) -> None:
    """Values stand in an error cut to some characters: half an address is no address to whoever looks for them."""
    secret = {"prompt": ["Tell Anna that I am ill, or write to anna.schmidt@some.where.example.org"]}
    file = write(tmp_path / "a.jsonl", prompt("fine", "Write a poem"), json.dumps(secret))
    found, _ = run([file], tmp_path / "out")
    assert [(row["step"], row["where"], row["id"]) for row in found["left_out"]] == [("unreadable", "a.jsonl:2", None)]
    assert found["left_out"][0]["reason"] == "wrong field 'prompt'"
    written = "".join((tmp_path / "out" / name).read_text(encoding="utf-8") for name in FILES)
    assert not any(word in written for word in ("Anna", "ill,", "schmidt"))


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "scan_hub", lambda path: ((f"{path}[{i}]", {"prompt": f"Write poem number {i}"}) for i in range(3)))
    name = "hub:acme/prompts:test"
    found, card = run([Path(name)], tmp_path / "out", f"sources={{'{name}': acme}}", f"use_cases.examples=['{name}']")
    assert len(kept(found)) == 3 and {row["source"] for row in kept(found).values()} == {"acme"}
    assert card["inputs"] == [{"file": name, "sha256": None, "source": "acme"}]
    page = (tmp_path / "out/card.md").read_text(encoding="utf-8")
    assert f"trimtab curate {name} -o DIR" in page and f"{name}: no revision is named" in page
    run([Path(name.replace(":test", "@v1:test"))], tmp_path / "pinned")
    assert "no revision is named" not in (tmp_path / "pinned/card.md").read_text(encoding="utf-8")


def test_very_many_sources_are_a_table_that_one_can_read(tmp_path: Path) -> None:
    """As where a file keeps each prompt's web address in ``source``."""
    rows_of = [prompt(f"p{i}", f"Write poem number {i}", source=f"site-{i}") for i in range(40)]
    file = write(tmp_path / "a.jsonl", *rows_of, *(prompt(f"q{i}", f"Write ode number {i}", source="site-7") for i in range(5)))
    _, card = run([file], tmp_path / "out")
    page = (tmp_path / "out/card.md").read_text(encoding="utf-8")
    assert card["sources"]["site-7"] == {"rows": 6, "kept": 6} and len(card["sources"]) == 40
    assert "Of 40 sources the 8 largest" in page and "of site-7" in page and page.count("| of site-") == 8


def test_another_field_of_a_million_characters(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", prompt("x", "Write a poem", page="word " * 210_000 + "anna@example.org"))
    found, card = run([file], tmp_path / "out")
    assert kept(found)["x"]["page"].endswith("word <EMAIL_1>") and card["personal"]["types"]["EMAIL"]["pieces"] == 1


def test_where_no_prompt_has_a_use_case_there_is_no_table_of_them(tmp_path: Path) -> None:
    run([write(tmp_path / "a.jsonl", prompt("x", "Write a poem"))], tmp_path / "out")
    page = (tmp_path / "out/card.md").read_text(encoding="utf-8")
    assert "## Use cases\n\nNo prompt has a use case.\n\n## Splits" in page


def test_a_sample_of_use_cases_that_nobody_has_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", prompt("x", "Write a poem"), prompt("y", "Write a play", use_case="Verse"))
    with pytest.raises(UserError, match="mix=sample would leave nothing: no prompt has a use case of use_cases.target .they have verse"):
        run([file], tmp_path / "out", "use_cases.mix=sample")


def test_evaluation_prompts_are_not_trained_on(tmp_path: Path) -> None:
    tests = write(
        tmp_path / "tests.jsonl",
        prompt("t1", "Explain to a child of six why the sea is salty and why rivers are not salty at all"),
        prompt("t2", "Who was Ada?"),
        prompt("t3", "Write to anna@example.org that the seven boxes of old books in the attic are ready to be fetched on Monday morning"),
    )  # fmt: skip
    file = write(
        tmp_path / "a.jsonl",
        prompt("row", "Please explain to a child of six why the sea is salty and why rivers taste of nothing; use ten words"),
        prompt("same", "who was ada"), prompt("other", "Who was Ida?"),
        prompt("near", "Write to bob@example.org that the seven boxes of new books in the cellar are ready to be fetched on Monday night"),
        prompt("fine", "Explain to a child of six why the sea is blue"),
    )  # fmt: skip
    found, card = run([file], tmp_path / "out", f"evaluation.files=[{tests}]")
    assert why(found) == {"row": "evaluation", "same": "evaluation", "near": "evaluation"} and set(kept(found)) == {"other", "fine"}
    assert [row["duplicate_of"] for row in found["left_out"]] == ["tests.jsonl: t1", "tests.jsonl: t2", "tests.jsonl: t3"]
    assert card["evaluation"]["prompts"] == 3 and card["evaluation"]["left_out"] == 3
    assert "was not checked" not in (tmp_path / "out/card.md").read_text(encoding="utf-8")


def test_use_cases_are_predicted_weighted_and_sampled(tmp_path: Path) -> None:
    openers = {"generation": "Write a story about", "extract": "Find all names in"}
    labelled = [
        prompt(f"l{i}", f"{openers[case]} w{i * 7 % 90} w{i * 3 % 70} w{i}", use_case=case.title(), user=f"u{i}")
        for i, case in enumerate(["generation", "generation", "extract"] * 30)
    ]
    blank = [prompt(f"b{i}", f"{openers['extract']} w{i * 5 % 80} v{i}", user=f"v{i}") for i in range(10)]
    file = write(tmp_path / "a.jsonl", *labelled, *blank)
    target = "use_cases.target={generation: 1, extract: 1}"
    found, card = run([file], tmp_path / "weight", target, "use_cases.mix=weight")
    assert all(kept(found)[f"b{i}"]["use_case"] == "extract" and kept(found)[f"b{i}"]["use_case_predicted"] > 0.5 for i in range(10))
    assert (card["use_cases"]["labelled"], card["use_cases"]["predicted"], card["use_cases"]["unknown"]) == (90, 10, 0)
    assert card["use_cases"]["classifier"]["accuracy"]["value"] > 0.95
    assert "with as many threads, give the same bytes" in (tmp_path / "weight/card.md").read_text(encoding="utf-8")
    assert card["use_cases"]["table"]["generation"]["prompts"] == 60 and card["use_cases"]["table"]["generation"]["share"] == 0.6
    assert {row["use_case"]: row["weight"] for row in kept(found).values()} == {"generation": 0.8333, "extract": 1.25}
    sampled, card = run([file], tmp_path / "sample", target, "use_cases.mix=sample")
    assert Counter(row["use_case"] for row in kept(sampled).values()) == {"generation": 40, "extract": 40}
    assert Counter(why(sampled).values()) == {"mix": 20}
    few, card = run([write(tmp_path / "few.jsonl", *labelled[:3], *blank)], tmp_path / "few", target)
    assert card["use_cases"]["unknown"] == 10 and card["use_cases"]["classifier"] is None
    taught, card = run([write(tmp_path / "b.jsonl", *blank)], tmp_path / "taught", target, f"use_cases.examples=[{file}]")
    assert {row["use_case"] for row in kept(taught).values()} == {"extract"} and card["use_cases"]["predicted"] == 10


def test_ids_that_meet_become_different(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", prompt("x", "Write a poem"), prompt("x", "Write a play"), prompt("y", "Write a song"))
    b = write(tmp_path / "b.jsonl", prompt("x", "Write an ode"), prompt("z", "write a play."))
    found, card = run([a, b], tmp_path / "out", "sources={b.jsonl: extra}")
    texts = {i: row["messages"][0]["content"] for i, row in kept(found).items()}
    assert texts == {"x": "Write a poem", "x~2": "Write a play", "y": "Write a song", "x~3": "Write an ode"}
    assert found["left_out"][0]["id"] == "z" and found["left_out"][0]["duplicate_of"] == "x~2"
    again, _ = run([write(tmp_path / "c.jsonl", prompt("x", "Sing"), prompt("x~2", "Dance"), prompt("x", "Swim"))], tmp_path / "again")
    assert {i: row["messages"][0]["content"] for i, row in kept(again).items()} == {"x": "Sing", "x~2": "Dance", "x~3": "Swim"}
    assert card["duplicates"]["ids_made_unique"] == 2 and {row["source"] for row in kept(found).values()} == {"a", "extra"}


def test_other_formats_and_compressed_files(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "c.jsonl.gz", "wt", encoding="utf-8") as f:
        f.write(json.dumps({"instruction": "Add the numbers", "input": "3 and 4", "output": "7"}) + "\n")
        f.write(json.dumps({"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "mail": "x@example.org"}) + "\n")
    found, card = run([tmp_path / "c.jsonl.gz"], tmp_path / "out")
    texts = {row["messages"][-1]["content"] for row in kept(found).values()}
    assert len(texts) == 2 and "Why?" in texts and card["kept"] == 2
    assert "x@example.org" not in "".join((tmp_path / "out" / name).read_text(encoding="utf-8") for name in FILES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sources={other.jsonl: x}"], "sources names 'other.jsonl', which is none of the files"),
        (["personal.types={MAIL: keep}"], "personal.types names 'MAIL'"),
        (["language.keep=[english]"], "language.keep names 'english'"),
        (["evaluation.files=[nowhere.jsonl]"], "nowhere.jsonl: no such file"),
        (["personal.model=en_no_such"], "no such spaCy pipeline"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(tmp_path: Path, words: list[str], message: str) -> None:
    file = write(tmp_path / "a.jsonl", prompt("x", "Write a poem"))
    with pytest.raises(UserError, match=message):
        curate([file], tmp_path / "out", options(*words))
    assert not list((tmp_path / "out").glob(".work-*"))


def test_files_that_are_missing_empty_or_given_twice(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", prompt("x", "Write a poem"))
    with pytest.raises(UserError, match="is given twice"):
        curate([file, file], tmp_path / "out")
    with pytest.raises(UserError, match="no such file"):
        curate([tmp_path / "b.jsonl"], tmp_path / "out")
    with pytest.raises(UserError, match="no rows; needed files of prompts"):
        curate([write(tmp_path / "c.jsonl")], tmp_path / "out")
    with pytest.raises(UserError, match=r"d.jsonl: none of its 2 rows is a prompt; the first: .*d.jsonl:1: not JSON.*"):
        curate([write(tmp_path / "d.jsonl", "not JSON", "nor this")], tmp_path / "out")
    with pytest.raises(UserError, match=r"a.jsonl: none of its 1 rows is a prompt; .*fields.\* holds for every file"):
        curate([write(tmp_path / "e.jsonl", {"q": "Write"}), file], tmp_path / "out", options("fields.prompt=q"))
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_what_a_reader_must_know_is_said(tmp_path: Path) -> None:
    """Rows that cannot be read, answers that are not kept, splits that stay empty; no table of use cases that nobody named."""
    answered = {"prompt": "Say something of the sea", "completion": "It is wide."}
    file = write(tmp_path / "a.jsonl", prompt("x", "Write a poem"), answered, "not JSON")
    _, card = run([file], tmp_path / "out", "split.validation=0")
    page = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert card["kept"] == 2 and "- 1 rows cannot be read (1 of 3 of a)" in page
    assert "- 1 rows have answers (demonstrations, comparisons): their prompts alone are taken." in page
    assert ("- The split test is empty" in page) == (card["splits"]["test"]["prompts"] == 0)
    assert "The split validation is empty" not in page  # nobody asked for one
    assert "- The split" in page and "| generation |" not in page


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x.jsonl", prompt(folder, f"Write a poem about {folder}"), "not JSON")
    files = [tmp_path / "left/x.jsonl", tmp_path / "right/x.jsonl"]
    _, tagged = run(files, tmp_path / "tagged", f"sources={{{files[0]}: one, {files[1]}: two}}")
    assert tagged["settings"]["sources"] == {"left/x.jsonl": "one", "right/x.jsonl": "two"} and sorted(tagged["sources"]) == ["one", "two"]
    found, card = run(files, tmp_path / "out")
    assert sorted(card["sources"]) == ["left/x", "right/x"] and [i["file"] for i in card["inputs"]] == ["left/x.jsonl", "right/x.jsonl"]
    assert [row["where"] for row in found["left_out"]] == ["left/x.jsonl:2", "right/x.jsonl:2"]
    deep = ["/d/a/b/x.jsonl", "/d/c/b/x.jsonl", "/d/y.jsonl", "x.jsonl", "hub:a/x.jsonl"]
    assert [short_names(deep)[file] for file in deep] == ["a/b/x.jsonl", "c/b/x.jsonl", "y.jsonl", "x.jsonl", "hub:a/x.jsonl"]


def test_pseudonyms_with_a_key_cannot_be_computed_without_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", prompt("x", "Write a poem", user="anna@example.org"))
    users = []
    for name, secret in (("none", None), ("one", "a secret\n"), ("again", "a secret"), ("other", "another")):
        key = tmp_path / f"{name}.key"
        words = [] if secret is None else [f"personal.key_file={key}"]
        key.write_text(secret or "")
        found, card = run([file], tmp_path / name, *words)
        users.append(kept(found)["x"]["user"])
        assert card["settings"]["personal"]["key_file"] == (f"{name}.key" if words else "") and str(tmp_path) not in json.dumps(card)
    assert len(set(users)) == 3 and users[1] == users[2] and users[0] == f"user-{hash64('anna@example.org'):016x}"
    with pytest.raises(UserError, match="none.key: is empty; write a long secret into it"):
        curate([file], tmp_path / "out", options(f"personal.key_file={tmp_path / 'none.key'}"))


def test_the_python_of_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "curation.md").read_text(encoding="utf-8")
    (tour,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    write(tmp_path / "users.jsonl", prompt("x", "Write a poem", user="anna"))
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(compile(tour, "curation.md", "exec"), known)  # noqa: S102 - our own document
    assert known["card"]["kept"] == 1 and known["found"].of.tolist() == [-1, 0]
    assert known["redact"]("write to anna@example.org") == "write to <EMAIL_1>"
