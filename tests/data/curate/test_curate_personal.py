"""Personal data: what is found, what is left alone, that the cheap conditions lose nothing, and that nobody is asked over the network."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("presidio_analyzer", reason="the extra 'curate' is not installed")

from trimtab.common.errors import UserError
from trimtab.data.curate.personal import (
    PATTERN_TYPES,
    Finding,
    Placeholders,
    Rules,
    clean,
    find,
    pseudonym,
    redact,
    replace,
)

EXAMPLES = [  # (type, text before, value, text after)
    ("EMAIL", "write to ", "anna.lind+news@mail.example.co.uk", ", please"),
    ("EMAIL", "Mail ", "o'brien@uni-bonn.de", "."),
    ("EMAIL", "", "jörg@münchen.example", " is mine"),
    ("PHONE", "Call ", "(212) 736-5000", " now"),
    ("PHONE", "ring ", "+44 20 7946 0018", "."),
    ("PHONE", "", "+372 5123 4567", " in Tallinn"),
    ("PHONE", "call ", "9498777106", " today"),
    ("PHONE", "", "02079460018", " is the office"),
    ("PHONE", "my number is ", "555-0142", ""),
    ("PHONE", "", "0490 75 40 81", " is my phone"),
    ("CARD", "pay with ", "4111 1111 1111 1111", "!"),
    ("CARD", "pay with ", "378282246310005", "!"),
    ("CARD", "2-series: ", "2223003122003222", ""),
    ("CARD", "my card is ", "630495060000000000", ""),
    ("IBAN", "to ", "DE89 3704 0044 0532 0130 00", " today"),
    ("IBAN", "to ", "gb82west12345698765432", " today"),
    ("SSN", "it is ", "536-90-4399", "."),
    ("TAX_ID", "it is ", "912-70-1234", "."),
    ("NATIONAL_INSURANCE", "it is ", "AB 12 34 56 C", "."),
    ("PASSPORT", "my passport is ", "912803456", " and"),
    ("DRIVER_LICENSE", "driver license ", "F162823540116", " expired"),
    ("DRIVER_LICENSE", "", "MORGA657054SM9IJ", " expired"),
    ("BANK_ACCOUNT", "account number ", "0532013000", " at the bank"),
    ("IP", "ping ", "192.0.2.146", " twice"),
    ("IP", "ping ", "2001:db8::8a2e:370:7334", " twice"),
    ("IP", "ping ", "dead:beef:cafe:babe:dead:beef:cafe:babe", " twice"),
    ("MAC", "the card ", "aa-bb-cc-dd-ee-ff", ""),
    ("MAC", "the card ", "00:1a:2b:3c:4d:5e", ""),
    ("URL", "see ", "https://example.com/u/17?ref=a#top", "."),
    ("URL", "see (", "www.example-shop.org/a", ")"),
    ("URL", "my page ", "annas-cakes.com", ", since May"),
    ("URL", "short: ", "bit.ly/3xYz12", ""),
    ("CRYPTO", "send to ", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", ""),
    ("CRYPTO", "send to ", "0x52908400098527886E0F7030069857D2E4169EE7", ""),
]
CLEAN = [
    "np.array(x).sum() and self.name = os.path.join(a, b)", "std::vector<int> a::b face::detect", "the years 2019-2020 and 1998/1999",
    "version 1.2.3 of the tool", "at 10:30:45 on 2024-05-17", "Multiply 987,654,321 by 12.", "3.14159265358979323846", "ping 127.0.0.1",
    "netmask 255.255.255.0", "Solve 123456789 + 987654321", "call me at nine", "the timestamp 1716213344123",
    "Write 100 words.I mean it.Now",
    "see file.py, main.rs and README.md", "an order of 1234567 pieces", "@anna said: e-mail me", "order 4111111111111112 is no card",
    "software license key AB12345, 3 seats", "Which number comes next: 1 2 3 5 8 13 21?", "Is 2147483647 prime?", "sleep until 1716213344",
    "12 eggs, 250 g flour, 180 °C", "a - b - c: 1 - 2 - 3", "$200-1000 per call",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "value", "after"), EXAMPLES, ids=[f"{e[0]} {e[2]}" for e in EXAMPLES])
def test_each_type_is_found_whole_and_nothing_beside_it(kind: str, before: str, value: str, after: str) -> None:
    assert find(before + value + after) == [Finding(kind, len(before), len(before) + len(value))]


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_none_is_left_alone(text: str) -> None:
    assert find(text) == []


def test_a_weak_pattern_counts_only_near_its_word() -> None:
    assert find("it is 912803456 and nothing else") == []
    assert find("the passport that was lost by them is 912803456") == []  # more than five words away
    assert [f.type for f in find("912803456 is my passport")] == ["PASSPORT"]
    assert [f.type for f in find("The passport: 912803456")] == ["PASSPORT"]


pieces = st.sampled_from(
    [*(value for _, _, value, _ in EXAMPLES), *"passport driver license account call number tax my is x @ ::".split()]
)
noise = st.text(st.sampled_from("0123456789 .-:/@()+abfxzABF\n\t,'\"#_٣éß"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(pieces, noise, st.integers(0, 40), st.integers(0, 3)), max_size=4))
def test_asking_only_who_may_know_loses_nothing(parts: list[tuple[str, str, int, int]]) -> None:
    """Real values, whole or damaged, among noise: the same with every recognizer asked."""
    text = " ".join(piece[:at] + rest + piece[at + cut :] for piece, rest, at, cut in parts)
    assert find(text) == find(text, ask_all=True)


def test_real_texts_lose_nothing_either() -> None:
    data = Path(__file__).resolve().parents[4] / "shared" / "data" / "pii" / "generated_small.json"
    if not data.exists():
        pytest.skip(f"no public test data at {data}")
    texts = [row["full_text"] for row in json.loads(data.read_text(encoding="utf-8"))]
    assert [find(text) for text in texts] == [find(text, ask_all=True) for text in texts]


@pytest.mark.parametrize("run", ["a", "1", "a.", "1 ", "1-", "a@", "0:", "1.", "é", "AB12"])
def test_long_runs_end(run: str) -> None:
    """A pattern that backtracks would take for ever."""
    find(f"call me {run * 2_000} passport 4", ask_all=True)


def test_overlapping_pieces_are_one() -> None:
    text = "see https://example.com/?mail=anna@example.org now"
    assert find(text) == [Finding("URL", 4, len(text) - 4)]
    assert find(text, ["EMAIL"]) == [Finding("EMAIL", text.index("anna"), len(text) - 4)]


def test_the_same_value_has_the_same_placeholder_in_a_prompt() -> None:
    record = {
        "id": "1", "user": "anna@example.org",
        "messages": [
            {"role": "user", "content": "I am a@example.org, not b@example.org"},
            {"role": "assistant", "content": "Hello A@Example.org"},
            {"role": "user", "content": "Call +44 20 7946 0018 or +442079460018"},
        ],
        "note": {"from": ["a@example.org", 7, None]}, "use_case": "chat",
    }  # fmt: skip
    got = clean(record, Rules())
    assert got.record is not None and [m["content"] for m in got.record["messages"]] == [
        "I am <EMAIL_1>, not <EMAIL_2>", "Hello <EMAIL_1>", "Call <PHONE_1> or <PHONE_1>",
    ]  # fmt: skip
    assert got.record["note"] == {"from": ["<EMAIL_1>", 7, None]}
    assert got.found == {"EMAIL": 4, "PHONE": 2}
    assert record["messages"][0]["content"].startswith("I am a@")  # the given record is as it was


def test_a_clean_record_is_the_same_record() -> None:
    record = {"id": "1", "messages": [{"role": "user", "content": "Write a poem."}]}
    assert clean(record, Rules()).record is record


def test_rules_by_type() -> None:
    record = {"id": "1", "messages": [{"role": "user", "content": "a@example.org sees https://example.com"}]}
    kept = clean(record, Rules("replace", {"URL": "keep"}))
    assert kept.record is not None and kept.record["messages"][0]["content"] == "<EMAIL_1> sees https://example.com"
    assert clean(record, Rules("replace", {"EMAIL": "drop"})).record is None
    assert clean(record, Rules("drop")).record is None
    assert clean(record, Rules("keep", {"URL": "replace"})).found == {"URL": 1}
    assert clean(record, Rules("keep")).record is record
    with pytest.raises(UserError, match="personal.types names 'MAIL'; the types are EMAIL, PHONE"):
        Rules(types={"MAIL": "keep"})
    with pytest.raises(UserError, match="PERSON, which needs a model"):
        Rules(types={"PERSON": "drop"})


def test_replaced_text_holds_nothing_any_more() -> None:
    text = " ; ".join(before + value + after for _, before, value, after in EXAMPLES)
    once = redact(text)
    assert find(once) == [] and not any(value in once for _, _, value, _ in EXAMPLES)
    assert replace("abc", [], Placeholders()) == "abc"


def test_names_that_are_addresses_get_a_pseudonym() -> None:
    hidden = pseudonym("user", "anna@example.org", Rules())
    assert hidden == pseudonym("user", "anna@example.org", Rules()) and hidden.startswith("user-") and "anna" not in hidden
    assert pseudonym("user", "bob@example.org", Rules()) != hidden
    assert pseudonym("user", "+1 212 736 5000", Rules()) != "+1 212 736 5000"
    for name in ("user-17", "2127365000", "file.jsonl:12", "a b"):
        assert pseudonym("user", name, Rules()) == name


def test_the_network_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"the network is asked: {args}")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for _, before, value, after in EXAMPLES:
        assert find(before + value + after, ask_all=True)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A spaCy pipeline that knows one person and one town."""
    import spacy

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Anna Lind"}, {"label": "GPE", "pattern": "Taganrog"}])  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("names")
    nlp.to_disk(folder)
    return str(folder)


def test_names_and_places_where_a_model_is_given(names: str) -> None:
    text = "Anna Lind of Taganrog, anna@example.org; ask Anna Lind"
    assert redact(text) == "Anna Lind of Taganrog, <EMAIL_1>; ask Anna Lind"
    assert redact(text, Rules(model=names)) == "<PERSON_1> of <PLACE_1>, <EMAIL_1>; ask <PERSON_1>"
    assert redact(text, Rules("replace", {"PLACE": "keep"}, names)) == "<PERSON_1> of Taganrog, <EMAIL_1>; ask <PERSON_1>"


def test_a_model_that_is_not_there_or_finds_no_names(tmp_path: Path) -> None:
    import spacy

    with pytest.raises(UserError, match="no such spaCy pipeline is installed"):
        find("x", ["PERSON"], "en_no_such_model")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="finds no names"):
        find("x", ["PERSON"], str(tmp_path / "blank"))


def test_every_pattern_type_has_an_example() -> None:
    assert {kind for kind, *_ in EXAMPLES} == set(PATTERN_TYPES)
