"""Personal data in prompts: found by patterns (names and places by a model, where one is installed), then replaced or left out.

``find`` says what stands where in a text; ``clean`` does with a record what its rules say. Counts are reported, values never.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.common.errors import UserError
from trimtab.data.curate.hashing import hash64
from trimtab.data.curate.settings import Action
from trimtab.records import JSON

PATTERN_TYPES = (
    "EMAIL", "PHONE", "CARD", "IBAN", "SSN", "TAX_ID", "NATIONAL_INSURANCE", "PASSPORT", "DRIVER_LICENSE", "BANK_ACCOUNT",
    "IP", "MAC", "URL", "CRYPTO",
)  # fmt: skip
MODEL_TYPES = ("PERSON", "PLACE")
"""Found by a spaCy pipeline with entities, where one is named."""
TYPES = (*PATTERN_TYPES, *MODEL_TYPES)
# Presidio's score from which a match counts: valid phone numbers have 0.4, weak patterns reach it by a context word.
THRESHOLD = 0.4
NOT_MESSAGES = ("id", "messages", "user", "use_case", "source")
# How names are written that may be personal data: with an @, a +, a bracket or a space; or an IP address and nothing else.
AS_WRITTEN = re.compile(r"[@+(\s]|^\d{1,3}(?:\.\d{1,3}){3}$|^[0-9a-f:.]*:[0-9a-f]*:[0-9a-f:.]*$", re.IGNORECASE)
KEY_ENDS = "\0"  # stands between the key and a name
AT_THE_END = re.compile(r"[.,;:!?)\]}'\"]+$")  # punctuation that ends the sentence, not the address


class Finding(NamedTuple):
    """One piece of personal data: its type, and its place in the text (characters from ``start`` up to ``end``)."""

    type: str
    start: int
    end: int


@dataclass(frozen=True)
class Rules:
    """What to do with each type; types that are not named take ``action``."""

    action: Action = "replace"
    types: Mapping[str, Action] = field(default_factory=dict)
    model: str = ""
    key: str = field(default="", repr=False)  # of pseudonyms

    def __post_init__(self) -> None:
        for name in self.types:
            if name not in TYPES:
                raise UserError(f"personal.types names '{name}'; the types are {', '.join(TYPES)}")
            if name in MODEL_TYPES and not self.model:
                raise UserError(f"personal.types names {name}, which needs a model of names: personal.model=en_core_web_sm")

    def of(self, kind: str) -> Action:
        return self.types.get(kind, self.action)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Types to look for: those that are not kept."""
        return tuple(kind for kind in (TYPES if self.model else PATTERN_TYPES) if self.of(kind) != "keep")


@dataclass(frozen=True)
class Cleaned:
    """A record as it may be used (None: it is left out), and how much of each type was found in it."""

    record: JSON | None
    found: Counter[str]


def find(text: str, types: Sequence[str] = PATTERN_TYPES, model: str = "", *, ask_all: bool = False) -> list[Finding]:
    """Personal data of ``types`` in ``text``, in order, without overlaps: pieces that overlap are one, of the longest one's type.

    ``model`` is an installed spaCy pipeline that finds names (or its folder). ``ask_all`` asks every recognizer, also those whose
    cheap condition says that nothing is there; the result is the same, slower.

    Raises:
        UserError: presidio is not installed, or there is no such model.
    """
    recognizers = _recognizers()
    names = bool(model) and any(kind in MODEL_TYPES for kind in types)
    patterns = [kind for kind in types if kind in PATTERN_TYPES]
    asked = patterns if ask_all else recognizers.possible(text, patterns)
    asked += ["PERSON", "LOCATION"] if names else []
    if not asked or not text.strip():
        return []
    results = _analyzer(model if names else "").analyze(text, "en", entities=asked, score_threshold=THRESHOLD)
    found = []
    for result in results:
        kind = "PLACE" if result.entity_type == "LOCATION" else result.entity_type
        if kind in types:
            end = len(AT_THE_END.sub("", text[: result.end])) if kind == "URL" else result.end
            found.append((Finding(kind, result.start, end), result.score))
    return _without_overlaps(found)


def _without_overlaps(found: list[tuple[Finding, float]]) -> list[Finding]:
    """Clusters of overlapping findings as one each: the whole stretch, typed by the longest of them; of equals, a phone number
    comes last, as its pattern says least, and then the surest is taken."""
    clusters: list[list[tuple[Finding, float]]] = []
    reach = -1
    for item in sorted(found, key=lambda pair: (pair[0].start, pair[0].end)):
        if item[0].start < reach:
            clusters[-1].append(item)
        else:
            clusters.append([item])
        reach = max(reach, item[0].end)
    out = []
    for cluster in clusters:
        best, _ = max(cluster, key=lambda pair: (pair[0].end - pair[0].start, pair[0].type != "PHONE", pair[1], pair[0].type))
        out.append(Finding(best.type, cluster[0][0].start, max(f.end for f, _ in cluster)))
    return out


class Placeholders:
    """``<EMAIL_1>`` for the first address of a prompt, the same wherever it stands again, ``<EMAIL_2>`` for the next."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()

    def name(self, kind: str, value: str) -> str:
        key = (kind, re.sub(r"\W", "", value).casefold())  # however it is spaced and cased
        if key not in self._numbers:
            self._last[kind] += 1
            self._numbers[key] = self._last[kind]
        return f"<{kind}_{self._numbers[key]}>"


def replace(text: str, found: Sequence[Finding], names: Placeholders) -> str:
    """``text`` with each finding's placeholder in its place."""
    out, at = [], 0
    for kind, start, end in found:
        out += [text[at:start], names.name(kind, text[start:end])]
        at = end
    return "".join([*out, text[at:]])


def redact(text: str, rules: Rules = Rules()) -> str:
    """``text`` with placeholders for whatever personal data is found, whether it would be replaced or dropped."""
    return replace(text, find(text, rules.wanted, rules.model), Placeholders())


def clean(record: JSON, rules: Rules) -> Cleaned:
    """A prompt's JSON with personal data replaced in its messages and in every text of its other fields, or left out.

    The fields id, user, use_case and source are not looked at (``pseudonym`` is for names).
    """
    found: Counter[str] = Counter()
    names = Placeholders()

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            here = find(value, rules.wanted, rules.model)
            found.update(finding.type for finding in here)
            return replace(value, here, names) if here else value
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        return {key: cleaned(item) for key, item in value.items()} if isinstance(value, dict) else value

    messages = [{**message, "content": cleaned(message["content"])} for message in record["messages"]]
    others = {name: cleaned(value) for name, value in record.items() if name not in NOT_MESSAGES}
    dropped = any(rules.of(kind) == "drop" for kind in found)
    return Cleaned(None if dropped else {**record, "messages": messages, **others} if found else record, found)


def pseudonym(kind: str, name: str, rules: Rules) -> str:
    """``name`` itself, or ``user-1f2e3d4c5b6a7988`` where it is an address or a number as people write it: always the same for a name.

    Another name of letters, digits, dots, colons, dashes and the like is an id, even if it could be dialled. A pseudonym hides a name from
    readers; who has a list of names can compute their pseudonyms, unless they are made with a key that he does not have.
    """
    plain = not AS_WRITTEN.search(name)
    if plain or not find(name, rules.wanted, rules.model):
        return name
    return f"{kind}-{hash64(f'{rules.key}{KEY_ENDS}{name}' if rules.key else name):016x}"


def read_key(file: str) -> str:
    """The key in ``file``, white space around it left out; none where no file is named.

    Raises:
        UserError: there is no such file, or no key in it.
    """
    if not file:
        return ""
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"personal.key_file={file}: cannot be read ({error})") from None
    if not key:
        raise UserError(f"personal.key_file={file}: is empty; write a long secret into it (openssl rand -hex 32)")
    return key


@cache
def _recognizers() -> Any:
    try:
        from trimtab.data.curate import recognizers
    except ImportError as error:
        raise UserError(f"personal data needs the extra 'curate' ({error.name} is missing): pip install 'trimtab[curate]'") from None
    return recognizers


@cache
def _analyzer(model: str) -> Any:
    if not model:
        return _recognizers().analyzer(PATTERN_TYPES)
    import spacy

    try:
        nlp = spacy.load(model)
    except OSError:
        raise UserError(f"personal.model={model}: no such spaCy pipeline is installed; install it with pip, or give its folder") from None
    if not {"ner", "entity_ruler"} & set(nlp.pipe_names):
        raise UserError(f"personal.model={model}: finds no names (its parts: {', '.join(nlp.pipe_names) or 'none'})")
    return _recognizers().analyzer(PATTERN_TYPES, nlp)
