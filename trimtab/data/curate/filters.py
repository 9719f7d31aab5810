"""Which prompts are too short, too long, or in another language."""

from functools import cache
from typing import Any

from trimtab.common.errors import UserError
from trimtab.data.curate.settings import LanguageSettings, LengthSettings
from trimtab.data.curate.text import words

UNKNOWN = "und"
"""ISO 639-2's code for text whose language cannot be told: too short, or no language at all."""


def length_fault(text: str, settings: LengthSettings) -> str | None:
    """Why a prompt's text is left out for its length, or None."""
    if not text.strip():
        return "empty"
    if len(text) > settings.most_characters:
        return f"longer than {settings.most_characters:,} characters"
    if settings.least_words > 1 and len(words(text)) < settings.least_words:
        return f"shorter than {settings.least_words} words"
    return None


def language(text: str, sure: float = LanguageSettings().sure) -> str:
    """The language of a text as an ISO 639 code, ``und`` where the likeliest one has a probability below ``sure``.

    By py3langid (Lui and Baldwin 2012), whose model for 97 languages lies in its package.

    Raises:
        UserError: py3langid is not installed.
    """
    found, probability = _identifier().classify(text)
    return str(found) if probability >= sure else UNKNOWN


def check_languages(settings: LanguageSettings) -> None:
    """Finds out before the work that a code is none.

    Raises:
        UserError: py3langid does not know it.
    """
    for code in settings.keep:
        if code not in _identifier().labels:
            raise UserError(f"language.keep names '{code}'; write ISO 639-1 codes such as en, de, zh")


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError(f"languages need the extra 'curate' ({error.name} is missing): pip install 'trimtab[curate]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
