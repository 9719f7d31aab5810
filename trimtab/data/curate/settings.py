"""The options of curation, a group for each step."""

from typing import Literal

from pydantic import Field, model_validator

from trimtab.common.config import Settings
from trimtab.data.formats import LookSettings

# Shares of the use cases in per cent (Ouyang 2022, table 1).
INSTRUCTGPT = {
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6, "summarization": 4.2,
    "classification": 3.5, "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
Action = Literal["replace", "drop", "keep"]


class LengthSettings(Settings):
    """Which lengths are kept."""

    least_words: int = Field(1, ge=0, description="fewest words of a prompt")
    most_characters: int = Field(4000, ge=1, description="most characters of a prompt; about 1,000 tokens, InstructGPT's limit")


class LanguageSettings(Settings):
    """Which languages are kept."""

    keep: list[str] = Field([], description="languages to keep, as ISO 639-1 codes such as [en, de]; empty = all")
    sure: float = Field(0.7, gt=0, le=1, description="a prompt is left out when another language has at least this probability")


class PersonalSettings(Settings):
    """What is done with personal data."""

    action: Action = Field("replace", description="what to do: replace by <EMAIL_1>, drop the prompt, or keep")
    types: dict[str, Action] = Field({}, description="another action for single types, such as {URL: keep, SSN: drop}")
    key_file: str = Field("", description="file with a secret, without which nobody can compute users' pseudonyms; empty = no key")
    model: str = Field("", description="an installed spaCy pipeline that finds names and places, such as en_core_web_sm; empty = none")


class DuplicateSettings(Settings):
    """What counts as a duplicate."""

    prefix: int = Field(100, ge=0, description="characters of a long common prefix; 0 = prefixes are not compared")
    prefix_share: float = Field(0.8, gt=0, le=1, description="part of the shorter prompt that the common prefix must be")
    near: float = Field(0.6, ge=0, le=1, description="Jaccard similarity of near-duplicates' words and word pairs; 0 = not looked for")
    near_words: int = Field(20, ge=1, description="words that the longer of two near-duplicates must have")
    permutations: int = Field(128, ge=4, description="length of a MinHash signature")
    bands: int = Field(32, ge=1, description="parts of a signature, of which one in common makes a candidate")

    @model_validator(mode="after")
    def _whole_bands(self) -> "DuplicateSettings":
        if self.permutations % self.bands:
            raise ValueError(f"bands={self.bands} does not divide permutations={self.permutations}")
        return self


class EvaluationSettings(Settings):
    """Which evaluation sets must not be met in training."""

    files: list[str] = Field([], description="files of evaluation prompts; what repeats one of them is left out")
    ngram: int = Field(13, ge=1, description="words in a row that a prompt may not share with an evaluation prompt")


class UserSettings(Settings):
    """How many prompts a user may have."""

    most: int = Field(200, ge=0, description="most prompts of a user, a seeded sample; 0 = no limit")
    exempt: list[str] = Field([], description="sources whose users have no limit, such as the labelers'")
    missing: Literal["each", "source", "drop"] = Field(
        "each", description="a prompt without a user: is a user of its own, shares one user with its source, or is dropped"
    )
    separator: str | None = Field(",", description="what separates several users of one prompt; null = the field is one user")


class SplitSettings(Settings):
    """Target shares of the prompts."""

    train: float = Field(0.9, ge=0, description="share of the train split")
    validation: float = Field(0.05, ge=0, description="share of the validation split")
    test: float = Field(0.05, ge=0, description="share of the test split")

    @model_validator(mode="after")
    def _something(self) -> "SplitSettings":
        if self.train + self.validation + self.test <= 0:
            raise ValueError("all shares are 0")
        return self


class UseCaseSettings(Settings):
    """How use cases are known, and in which shares they are wanted."""

    examples: list[str] = Field([], description="more files with labelled prompts to learn from; they are not curated")
    predict: bool = Field(True, description="predict the use case of prompts without one, where there are labelled ones")
    target: dict[str, float] = Field(INSTRUCTGPT, description="shares to compare with, in any unit; InstructGPT's")
    mix: Literal["report", "weight", "sample"] = Field(
        "report", description="report the mix, add a field weight to every prompt, or leave out what is too much of a use case"
    )


class CurateSettings(LookSettings):
    """All options of curation."""

    sources: dict[str, str] = Field({}, description="source tags of files, such as {labelers.jsonl: labeler}; a record's own goes first")
    length: LengthSettings = Field(LengthSettings(), description="length filter")
    language: LanguageSettings = Field(LanguageSettings(), description="language filter")
    personal: PersonalSettings = Field(PersonalSettings(), description="personal data")
    duplicates: DuplicateSettings = Field(DuplicateSettings(), description="duplicates")
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="evaluation sets")
    users: UserSettings = Field(UserSettings(), description="prompts per user")
    use_cases: UseCaseSettings = Field(UseCaseSettings(), description="use cases")
    split: SplitSettings = Field(SplitSettings(), description="splits by user")
    seed: int = Field(0, description="seed of every draw")
