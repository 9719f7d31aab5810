"""What personal data looks like: presidio's recognizers where they are good, tightened where they are not, and when to ask them at all.

Nothing here touches the network: presidio's e-mail recognizer would fetch a list of domains, ours looks at the address alone.
A weak pattern (nine digits) counts only with one of its context words within five tokens (``my passport is 123456789``).
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from functools import cache

import spacy
from presidio_analyzer import (
    AnalyzerEngine,
    EntityRecognizer,
    Pattern,
    PatternRecognizer,
    RecognizerRegistry,
    RecognizerResult,
)
from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    MacAddressRecognizer,
    PhoneRecognizer,
    SpacyRecognizer,
    UkDrivingLicenceRecognizer,
    UkNinoRecognizer,
    UkPassportRecognizer,
    UsBankRecognizer,
    UsItinRecognizer,
    UsLicenseRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)
from spacy.attrs import IDX, LOWER
from spacy.language import Language

from trimtab.data.files.opening import ROW_BYTES

CONTEXT_TOKENS = 5
# Regions whose national phone numbers are known; numbers with a country code are found for every region.
PHONE_REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")
# Endings of bare names that are taken for web addresses. Others (self.name, np.array) are more often code or a missing space.
BARE_ENDINGS = r"(?:com|org|net|edu|gov|mil|info|biz|(?:co|com|org|ac|gov|net)\.[a-z]{2})"
DATE = r"(?:19|20)\d\d-\d\d-\d\d\b"  # with an hour behind it, it could be a phone number
ADDRESS = r"\d{1,3}(?:\.\d{1,3}){3}$"  # an IP address, a mask
PHONE_WORDS = [
    "phone", "telephone", "tel", "call", "mobile", "cell", "cellphone", "fax", "number", "text", "ring", "dial", "reach", "whatsapp",
    "office",
]  # fmt: skip


class Email(EmailRecognizer):
    """An address by its form; the domain needs a dot and an ending of letters, in no list."""

    def __init__(self) -> None:
        # presidio's own pattern takes quadratic time on long runs of letters; a local part has at most 64 characters (RFC 5321).
        # The characters /, = and ? are allowed in one, but they are nearly always the end of a web address before it
        pattern = r"(?<![\w.+-])[\w.!#$%&'*+^`{|}~-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}\b"
        super().__init__([Pattern("address", pattern, 0.5)], supported_entity="EMAIL")

    def validate_result(self, pattern_text: str) -> bool:
        return True


class Phone(PhoneRecognizer):
    """Valid numbers of at least nine digits before an extension, in groups or with a + or 0 in front.

    Shorter ones, valid in Germany, are mostly years and house numbers; a block of digits alone is mostly a quantity or a time stamp.
    ``WeakPhone`` finds both near a word such as phone.
    """

    def __init__(self) -> None:
        super().__init__(supported_entity="PHONE", supported_regions=PHONE_REGIONS)

    def analyze(self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts | None = None) -> list[RecognizerResult]:
        found = super().analyze(text, entities, nlp_artifacts)
        return [r for r in found if self._is_one(text[r.start : r.end])]

    @staticmethod
    def _is_one(number: str) -> bool:
        main = re.split(r"[^\W\d]", number, maxsplit=1)[0]
        block = main.isdigit() and not main.startswith("0")
        return sum(c.isdigit() for c in main) >= 9 and not block and not re.match(rf"{DATE}|{ADDRESS}", number)


class WeakPhone(PatternRecognizer):
    """Seven to fifteen digits, of whatever country, near a word such as phone or call; not the terms of a series (1 2 3 5 8 13 21)."""

    def __init__(self) -> None:
        digits = rf"(?<![\w.$€£])(?!{DATE})[+(]?\d(?:[ ().-]{{0,2}}\d){{6,14}}(?: ?x ?\d{{1,5}})?(?!\w|[.-]\d)"
        super().__init__("PHONE", patterns=[Pattern("digits", digits, 0.1)], context=PHONE_WORDS)

    def invalidate_result(self, pattern_text: str) -> bool:
        groups = re.findall(r"\d+", pattern_text.split("x")[0])
        return not pattern_text.startswith("+") and (len(groups) > 5 or min(map(len, groups)) < 2)


class Card(CreditCardRecognizer):
    """13 to 19 digits of a known beginning whose Luhn sum fits; 12 digits (Maestro) only with a context word."""

    def __init__(self) -> None:
        pattern = r"(?<![\d.-])(?:[2-6]|1800|2131)(?:[ -]?\d){11,18}(?![\d-]|\.\d)"
        super().__init__([Pattern("digits", pattern, 0.1)], ["card", "visa", "mastercard", "amex", "maestro"], supported_entity="CARD")

    def validate_result(self, pattern_text: str) -> bool | None:
        digits = re.sub(r"\D", "", pattern_text)
        if len(set(digits)) < 2 or not super().validate_result(digits):
            return False
        return None if len(digits) == 12 else True


class Ip(IpRecognizer):
    """Addresses of hosts: not of this very machine, no mask, and no ``a::b`` of a program."""

    def __init__(self) -> None:
        super().__init__(supported_entity="IP")

    def invalidate_result(self, pattern_text: str) -> bool:
        try:
            found = ipaddress.ip_interface(pattern_text).ip
        except ValueError:
            return True
        few = found.version == 6 and len([g for g in re.split("[:.]", pattern_text) if g]) < 3
        return few or found.is_loopback or found.is_unspecified or (found.version == 4 and found.packed[0] in (0, 255))


def _pattern(entity: str, *patterns: tuple[str, float], context: Sequence[str] = ()) -> PatternRecognizer:
    named = [Pattern(f"{entity.lower()} {i}", text, score) for i, (text, score) in enumerate(patterns, 1)]
    return PatternRecognizer(entity, patterns=named, context=list(context))


def _url() -> PatternRecognizer:
    """With a scheme, with www, a bare name with one of the common endings, or with a two-letter ending and a path."""
    rest = r"(?:[/?#][^\s<>\"'`]*)?"
    return _pattern(
        "URL",
        (r"\b(?:https?|ftp)://[^\s<>\"'`]+", 0.6),
        (r"\bwww\d{0,3}\.[\w-]+(?:\.[\w-]+)+(?::\d+)?" + rest, 0.6),
        (r"(?<![\w@.-])(?:[a-z0-9][\w-]*\.)+" + BARE_ENDINGS + r"(?![\w@-]|\.\w)" + rest, 0.5),
        (r"(?<![\w@./-])(?:[a-z0-9][\w-]*\.)+[a-z]{2}/[\w~?#-][^\s<>\"'`]*", 0.5),
    )


@cache
def recognizers() -> dict[str, list[EntityRecognizer]]:
    """Type -> its recognizers. Types of names and places are not here: they need a model."""
    driving = ["driver", "drivers", "driving"]
    made: list[EntityRecognizer] = [
        Email(),
        Phone(),
        WeakPhone(),
        Card(),
        IbanRecognizer(supported_entity="IBAN", regex_flags=re.DOTALL | re.MULTILINE | re.IGNORECASE),
        UsSsnRecognizer(supported_entity="SSN", context=["social", "security", "ssn", "ssns"]),
        UsItinRecognizer(supported_entity="TAX_ID", context=["itin", "taxpayer", "tax"]),
        UkNinoRecognizer(supported_entity="NATIONAL_INSURANCE"),
        Ip(),
        MacAddressRecognizer(supported_entity="MAC"),
        _url(),
        CryptoRecognizer(supported_entity="CRYPTO"),
        _pattern("CRYPTO", (r"\b0x[a-fA-F0-9]{40}\b", 0.6)),
        UsPassportRecognizer(supported_entity="PASSPORT", context=["passport", "passports"]),
        UkPassportRecognizer(supported_entity="PASSPORT", context=["passport", "passports"]),
        UsLicenseRecognizer(supported_entity="DRIVER_LICENSE", context=driving),
        UkDrivingLicenceRecognizer(supported_entity="DRIVER_LICENSE", context=driving),
        UsBankRecognizer(supported_entity="BANK_ACCOUNT", context=["account", "acct"]),
    ]
    out: dict[str, list[EntityRecognizer]] = {}
    for recognizer in made:
        out.setdefault(recognizer.supported_entities[0], []).append(recognizer)
    return out


# ---- when to ask them: conditions that every match fulfils, a hundred times cheaper than the match ------------------

Condition = Callable[[str], object]


def _has(*patterns: str) -> Condition:
    """Whether all of ``patterns`` are somewhere in a text."""
    searches = [re.compile(pattern, re.IGNORECASE).search for pattern in patterns]
    return lambda text: all(search(text) for search in searches)


CONDITIONS: dict[str, Condition] = {
    "EMAIL": lambda text: "@" in text,
    "PHONE": _has(r"\d(?:\W{0,4}\d){6}"),  # phonenumbers, too, takes at most four marks between two digits
    "CARD": _has(r"\d(?:[ -]?\d){11}"),
    "IBAN": _has(r"[a-z]{2}\d{2}"),
    "SSN": _has(r"\d(?:[- .]?\d){8}"),
    "TAX_ID": _has(r"\d(?:[- .]?\d){8}"),
    "NATIONAL_INSURANCE": _has(r"[a-z]{2} ?\d{2} ?\d{2} ?\d{2} ?[a-d]"),
    "IP": _has(r"\d\.\d{1,3}\.\d{1,3}\.\d|[0-9a-f]:[0-9a-f]{0,4}:"),
    "MAC": _has(r"[0-9a-f]{2}[:-][0-9a-f]{2}[:-]|[0-9a-f]{4}\.[0-9a-f]{4}\."),
    "URL": _has(r"://|[\w-]\.[\w-]"),
    "CRYPTO": _has(r"(?:bc1|[13])[a-z0-9]{25}|0x[a-f0-9]{40}"),
    # patterns too weak to count without a context word; only the British driving licence is strong without one
    "PASSPORT": _has(r"\d{7}", "passport"),
    "DRIVER_LICENSE": _has(r"\d", r"driv|[a-z9]{5}\d{6}"),
    "BANK_ACCOUNT": _has(r"\d{8}", "acc"),
}


# Types that a text without a single digit may hold; most prompts are such texts.
WITHOUT_DIGITS = ("EMAIL", "URL", "IP", "MAC")


def possible(text: str, types: Sequence[str]) -> list[str]:
    """Those of ``types`` that ``text`` may hold; what is not among them is certainly not there."""
    digit = re.search(r"\d", text)
    return [kind for kind in types if (digit or kind in WITHOUT_DIGITS) and CONDITIONS[kind](text)]


# ---- the engine ----------------------------------------------------------------------------------------------------


class PlainEngine(SpacyNlpEngine):
    """A pipeline that is there already: blank, or with entities. Its context words are the tokens as they are written, in lower case.

    Presidio takes lemmas for context, which a blank pipeline leaves empty, and no stop words, of which "call" is one.
    """

    def __init__(self, nlp: Language) -> None:
        super().__init__(models=[{"lang_code": "en", "model_name": "given"}])
        nlp.max_length = ROW_BYTES  # spaCy refuses texts of a million characters, which a record's other fields may have
        self.nlp = {"en": nlp}

    def is_stopword(self, word: str, language: str) -> bool:
        return False

    def is_punct(self, word: str, language: str) -> bool:
        return not any(map(str.isalnum, word))

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        nlp = self.nlp[language]
        doc = nlp(text) if nlp.pipe_names else nlp.make_doc(text)
        entities, scores = self._get_updated_entities(self._get_entities(doc), self._get_scores_for_entities(doc))
        table = doc.to_array([LOWER, IDX])  # a Python object for each token would take longer than all recognizers
        words = [nlp.vocab.strings[int(key)] for key in table[:, 0]]
        return NlpArtifacts(entities, words, table[:, 1].tolist(), words, self, language, scores)


def analyzer(types: Sequence[str], nlp: Language | None = None) -> AnalyzerEngine:
    """Presidio on a blank pipeline, with the recognizers of ``types``; with ``nlp``, a spaCy pipeline that finds names, these too."""
    chosen = [r for kind in types if kind in recognizers() for r in recognizers()[kind]]
    if nlp is not None:
        chosen.append(SpacyRecognizer(supported_entities=["PERSON", "LOCATION"]))
    context = LemmaContextAwareEnhancer(
        context_prefix_count=CONTEXT_TOKENS, context_suffix_count=CONTEXT_TOKENS, context_matching_mode="whole_word"
    )
    return AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=chosen, supported_languages=["en"]), nlp_engine=PlainEngine(nlp or spacy.blank("en")),
        supported_languages=["en"], context_aware_enhancer=context,
    )  # fmt: skip
