"""Prompts to curate, made up, with what a curation must find in them planted and written down.

    python bench/curate_data.py COUNT FILE.jsonl [SEED]     prompts as users might send them, and FILE.truth.jsonl beside it

Of every hundred prompts about five repeat an earlier one (case and spaces changed), six are an earlier one of 20 words or more with one
to three words replaced, put in, left out or exchanged, two begin with a long part of an earlier one, and four hold personal data in its
real form. Users write by Zipf's law; a few write thousands; one prompt in twenty has no user. A third have a use case.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.common.rng import generator

Row = dict[str, Any]
FUNCTION_WORDS = (
    "the a of and to in for is that with it as on by this from at an or be are was not which but have has will can its their more about "
    "into than when who what how if they we you our one all some any each other most after before between over under while where why"
).split()
OPENERS = {
    "generation": ("Write a story about", "Write an email to", "Compose a poem on", "Draft a letter for"),
    "open_qa": ("What is", "Who was", "How does", "Why did"),
    "brainstorming": ("List ten ideas for", "Give me names for", "Suggest ways of"),
    "chat": ("Hello, I wonder about", "Let us talk about"),
    "rewrite": ("Rewrite this in simple words:", "Make it polite:"),
    "summarization": ("Summarize the following text:", "Give the main points of"),
    "classification": ("Is this review good or bad:", "Which topic has"),
    "extract": ("Extract all places from", "Find the names in"),
}
SYLLABLES = "ba ber cal dan dor el fen gar hol in jas kel lor mar nel or pin quil ros sel tan ul ver wes yor zan".split()


class Maker:
    """Draws prompts from one stream."""

    def __init__(self, seed: int) -> None:
        self.rng = generator(seed, "curation data")
        rng = self.rng
        parts = rng.integers(0, len(SYLLABLES), (12_000, 3))
        lengths = rng.integers(2, 4, 12_000)
        self.content = sorted({"".join(SYLLABLES[k] for k in row[:n]) for row, n in zip(parts.tolist(), lengths.tolist(), strict=True)})
        self.content = [self.content[i] for i in rng.permutation(len(self.content))]
        self.content_edges = np.cumsum(1 / (np.arange(len(self.content)) + 20.0))
        self.function_edges = np.cumsum(1 / (np.arange(len(FUNCTION_WORDS)) + 2.0))
        self.cases = tuple(OPENERS)

    def words(self, count: int) -> list[str]:
        """Function and content words by turns of chance, each kind by Zipf's law; now and then a number or a full stop."""
        rng = self.rng
        kind = rng.random(count)
        f = np.searchsorted(self.function_edges, rng.random(count) * self.function_edges[-1])
        c = np.searchsorted(self.content_edges, rng.random(count) * self.content_edges[-1])
        out = []
        for k, i, j in zip(kind.tolist(), f.tolist(), c.tolist(), strict=True):
            if k < 0.43:
                out.append(FUNCTION_WORDS[i])
            elif k < 0.985:
                out.append(self.content[j] + ("." if k > 0.95 else ""))
            else:
                out.append(str(rng.choice(("1998", "10:30", "3.5", "7", "250", "40%", "$1,200", "2024-05-17", "v2.1"))))
        return out

    def fresh(self) -> tuple[str, str]:
        """(text, use case) of a new prompt, 5 to 300 words, half of them under 30."""
        case = self.cases[int(self.rng.integers(len(self.cases)))]
        openers = OPENERS[case]
        count = int(np.clip(np.exp(self.rng.normal(3.4, 0.6)), 5, 300))
        return f"{openers[int(self.rng.integers(len(openers)))]} {' '.join(self.words(count))}", case

    def edited(self, text: str) -> str:
        """One to three words replaced, put in, left out or exchanged with the next one."""
        words = text.split(" ")
        for _ in range(1 + int(self.rng.integers(3))):
            at, change = int(self.rng.integers(1, len(words) - 1)), int(self.rng.integers(4))
            if change == 0:
                words[at] = self.words(1)[0]
            elif change == 1:
                words.insert(at, self.words(1)[0])
            elif change == 2:
                del words[at]
            else:
                words[at], words[at + 1] = words[at + 1], words[at]
        return " ".join(words)


# ---- personal data in its real form --------------------------------------------------------------------------------

Draw = np.random.Generator


def digits(rng: Draw, count: int) -> str:
    return "".join(map(str, rng.integers(0, 10, count)))


def pick(rng: Draw, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def luhn(body: str) -> str:
    """The digit that makes the sum fit."""
    total = sum(d if i % 2 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(map(int, reversed(body))))
    return str(-total % 10)


def email(rng: Draw) -> str:
    name = pick(rng, "anna", "j.smith", "maria_lopez", "o'brien", "Li.Wei", "tom+news", "k-" + digits(rng, 3))
    return f"{name}@{pick(rng, 'example.com', 'mail.example.org', 'uni-bonn.de', 'post.co.uk', 'corp.example.io', 'EXAMPLE.NET')}"


def phone(rng: Draw) -> str:
    area, a, b = f"{rng.integers(201, 989)}", f"{rng.integers(200, 999)}", digits(rng, 4)
    if area[1:] == "11" or a[1:] == "11":
        area, a = "212", "736"
    return pick(
        rng, f"(212) {a}-{b}", f"415-{a}-{b}", f"+1 650 {a} {b}", f"+44 20 7{digits(rng, 3)} {b}", f"+49 30 {a}{b}",
        f"+33 6 12 {b[:2]} {b[2:]} 78", f"+91 98{digits(rng, 3)} {digits(rng, 5)}", f"+55 11 9{b}-{digits(rng, 4)}", f"555-{b}",
    )  # fmt: skip


def card(rng: Draw) -> str:
    body = pick(rng, "4", "51", "55", "2221", "6011", "37") + digits(rng, 13)
    body = body[:14] if body.startswith("37") else body[:15]
    number = body + luhn(body)
    spaced = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return pick(rng, number, spaced, spaced.replace(" ", "-")) if len(number) == 16 else number


def iban(rng: Draw) -> str:
    country, body = (("DE", digits(rng, 18)), ("GB", "NWBK" + digits(rng, 14)), ("FR", digits(rng, 23)))[int(rng.integers(3))]
    number = "".join(str(int(c, 36)) for c in f"{body}{country}00")
    whole = f"{country}{98 - int(number) % 97:02d}{body}"
    return pick(rng, whole, " ".join(whole[i : i + 4] for i in range(0, len(whole), 4)))


def ssn(rng: Draw) -> str:
    return f"{rng.integers(100, 660)}-{rng.integers(10, 99)}-{rng.integers(1000, 9999)}"


def ip(rng: Draw) -> str:
    groups = [f"{g:x}" for g in rng.integers(0x1000, 0xFFFF, 8).tolist()]
    public = ".".join(map(str, [rng.integers(128, 224), *rng.integers(1, 255, 3)]))  # 127 is this machine: nobody's
    return pick(rng, public, ":".join(groups), f"2001:db8::{groups[0]}:{groups[1]}")


def url(rng: Draw) -> str:
    name = pick(rng, "blog", "shop", "my-site") + digits(rng, 2)
    page = f"https://{name}.example.com/u/{digits(rng, 4)}?ref=1"
    return pick(rng, page, f"www.{name}.org", f"http://{name}.de", f"{name}.com/about", f"{name}.net")


def bitcoin(rng: Draw) -> str:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    body = b"\0" + rng.bytes(20)
    number = int.from_bytes(body + hashlib.sha256(hashlib.sha256(body).digest()).digest()[:4], "big")
    out = ""
    while number:
        number, rest = divmod(number, 58)
        out = alphabet[rest] + out
    zeros = len(body) - len(body.lstrip(b"\0"))
    return "1" * zeros + out


PERSONAL: dict[str, tuple[Callable[[Draw], str], tuple[str, ...]]] = {
    "EMAIL": (email, ("My e-mail is {}.", "write to {}", "Reply to {}, thanks")),
    "PHONE": (phone, ("Call me at {}.", "My number is {}", "{} is my phone")),
    "CARD": (card, ("Pay with my card {}.", "card number: {}", "the payment {} failed")),
    "IBAN": (iban, ("Send it to {}.", "My account is {} at the bank", "IBAN {}")),
    "SSN": (ssn, ("My SSN is {}.", "social security number {}", "({})")),
    "IP": (ip, ("The server is {}.", "ping {} first", "from {} port 22")),
    "URL": (url, ("See {} for more.", "My page is {}", "({})")),
    "CRYPTO": (lambda rng: bitcoin(rng) if rng.random() < 0.5 else "0x" + rng.bytes(20).hex(), ("Send coins to {}.", "wallet {}")),
    "MAC": (lambda rng: ":".join(f"{b:02x}" for b in rng.bytes(6)), ("The device {} is new.", "mac address {}")),
    "PASSPORT": (lambda rng: pick(rng, digits(rng, 9), "C" + digits(rng, 8)), ("My passport is {}.", "passport number {} expires")),
    "DRIVER_LICENSE": (lambda rng: pick(rng, "F", "S") + digits(rng, 12), ("My driver license is {}.", "driving licence {}")),
    "BANK_ACCOUNT": (lambda rng: digits(rng, 10), ("Pay to account {}.", "account number {} please")),
    "NATIONAL_INSURANCE": (lambda rng: f"AB {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} C", ("My NI number is {}.", "NINO {}")),
}


def planted(rng: Draw, kind: str) -> tuple[str, str]:
    """(value, sentence that holds it)."""
    make, sentences = PERSONAL[kind]
    value = make(rng)
    return value, pick(rng, *sentences).format(value)


# ---- the file ------------------------------------------------------------------------------------------------------


def rows(count: int, seed: int = 0) -> Iterator[tuple[Row, Row]]:
    """(prompt, what was planted in it)."""
    maker = Maker(seed)
    rng, kinds = maker.rng, tuple(PERSONAL)
    heads: list[tuple[int, str, str]] = []  # some earlier prompts, to be repeated
    user_edges = np.cumsum(1 / (np.arange(max(count // 20, 10)) + 3.0))
    for i in range(count):
        chance = rng.random()
        text, case = maker.fresh()
        truth: Row = {}
        if heads and chance < 0.13:
            at, earlier, case = heads[int(rng.integers(len(heads)))]
            long = len(earlier.split(" ")) >= 20
            if chance < 0.05:
                text, truth = pick(rng, earlier, earlier.upper(), f"  {earlier} ", earlier + "."), {"exact": at}
            elif chance < 0.11 and long:
                text, truth = maker.edited(earlier), {"near": at}
            elif chance >= 0.11 and len(earlier) >= 150:
                text, truth = f"{earlier} {' '.join(maker.words(60))}", {"prefix": at}
        elif chance > 0.96:
            kind = kinds[int(rng.integers(len(kinds)))]
            value, sentence = planted(rng, kind)
            text, truth = f"{text} {sentence}", {"personal": kind, "value": value}
        row: Row = {"id": f"p{i:07d}", "messages": [{"role": "user", "content": text}]}
        if rng.random() > 0.05:
            row["user"] = f"user-{int(np.searchsorted(user_edges, rng.random() * user_edges[-1])):06d}"
        if rng.random() < 0.33:
            row["use_case"] = case
        if not truth:
            if len(heads) < 50_000:
                heads.append((i, text, case))
            else:
                heads[int(rng.integers(50_000))] = (i, text, case)
        yield row, {"id": row["id"], **truth}


def write(count: int, path: Path, seed: int = 0) -> Path:
    """The prompts in ``path``; what was planted in ``path`` with the ending ``.truth.jsonl``, which is returned."""
    truth_path = path.with_suffix(".truth.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as f, open(truth_path, "w", encoding="utf-8") as g:
        for row, truth in rows(count, seed):
            f.write(json.dumps(row) + "\n")
            if len(truth) > 1:
                g.write(json.dumps(truth) + "\n")
    return truth_path


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
