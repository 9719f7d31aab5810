"""Lengths and languages."""

import pytest

from trimtab.common.errors import UserError
from trimtab.data.curate.filters import check_languages, language, length_fault
from trimtab.data.curate.settings import LanguageSettings, LengthSettings

SENTENCES = {
    "en": "Could you please write a short letter to my neighbours about the noise?",
    "de": "Bitte schreibe einen kurzen Brief an meine Nachbarn wegen des Lärms.",
    "fr": "Pourriez-vous écrire une courte lettre à mes voisins au sujet du bruit ?",
    "es": "Por favor, escribe una carta corta a mis vecinos sobre el ruido.",
    "ru": "Пожалуйста, напиши короткое письмо моим соседям о шуме.",
    "zh": "请给我的邻居写一封关于噪音的短信。",
    "ja": "隣人に騒音についての短い手紙を書いてください。",
}


def test_lengths() -> None:
    assert length_fault(" \n", LengthSettings()) == "empty"
    assert length_fault("a b", LengthSettings(least_words=3)) == "shorter than 3 words"
    assert length_fault("a b, c", LengthSettings(least_words=3)) is None
    assert length_fault("x" * 11, LengthSettings(most_characters=10)) == "longer than 10 characters"
    assert length_fault("x" * 10, LengthSettings(most_characters=10)) is None


@pytest.mark.parametrize("code", SENTENCES)
def test_languages(code: str) -> None:
    pytest.importorskip("py3langid", reason="the extra 'curate' is not installed")
    assert language(SENTENCES[code]) == code


@pytest.mark.parametrize("text", ["Name 5 invasive species.", "Solve 8 x 8.", "12 + 30", "", "Translate \"Il fait beau\" into English."])
def test_what_cannot_be_told_is_not_guessed(text: str) -> None:
    pytest.importorskip("py3langid", reason="the extra 'curate' is not installed")
    assert language(text) in ("en", "und")


def test_an_unknown_code_is_refused() -> None:
    pytest.importorskip("py3langid", reason="the extra 'curate' is not installed")
    check_languages(LanguageSettings(keep=["en", "de"]))
    with pytest.raises(UserError, match="names 'english'; write ISO 639-1 codes"):
        check_languages(LanguageSettings(keep=["english"]))
