"""What a project decides: how many labelers see a task, gold items, screening, flags, the mix of use cases."""

import functools
import json
import secrets

from pydantic import Field

from trimtab.common.config import Settings, dump, from_mapping
from trimtab.records import JSON

# What labelers may say of an answer beyond its rating: InstructGPT's metadata (Ouyang et al. 2022, table 3).
FLAGS = {
    "fails_instruction": "Fails to follow the instruction",
    "breaks_constraint": "Breaks a constraint in the instruction",
    "made_up": "Made-up fact",
    "inappropriate": "Inappropriate for an assistant",
    "harmful": "Harmful advice",
    "encourages_harm": "Encourages violence, abuse or self-harm",
    "denigrates": "Denigrates a group of people",
    "sexual": "Sexual content",
    "violent": "Violent content",
    "opinion": "Expresses an opinion",
    "moral": "Expresses moral judgement",
}
# InstructGPT's shares of use cases among its prompts (Ouyang et al. 2022, table 1).
MIX = {
    "generation": 0.456, "open_qa": 0.124, "brainstorming": 0.112, "chat": 0.084, "rewrite": 0.066,
    "summarization": 0.042, "classification": 0.035, "other": 0.035, "closed_qa": 0.026, "extract": 0.019,
}  # fmt: skip
BEST_RATING = 7
MOST_OVERLAP = 50
SKIP_REASONS = ("I do not understand it", "Not my field", "Not my language", "Upsetting", "The task is broken", "Other")


class ProjectSettings(Settings):
    """Settings of one labelling project."""

    overlap: int = Field(
        3, ge=1, le=MOST_OVERLAP, description="labelers who see each task (a task may have its own number)"
    )
    gold_rate: float = Field(
        0.05, ge=0, le=0.5, description="share of the tasks a labeler gets whose answer is known already"
    )
    pass_score: float = Field(
        0.75, ge=0, le=1, description="share of the screening's known pairs to order as known, to pass"
    )
    lease_minutes: float = Field(
        60, ge=1, le=10080, description="a task that nobody touched for so long goes to somebody else, minutes"
    )
    rate: bool = Field(True, description="each answer is rated 1-7 and flagged alone before answers are ordered")
    flags: list[str] = Field(list(FLAGS), description="flags that labelers may raise")
    mix: dict[str, float] = Field(
        {}, description="share of each use case among the tasks that are handed out; empty = as imported"
    )
    seed: int = Field(0, ge=0, description="seed of the orders in which answers are shown and of where gold items come")


def new_settings() -> ProjectSettings:
    """Defaults with a seed that nobody can guess, because who knows it knows where gold items come."""
    return ProjectSettings(seed=secrets.randbelow(2**31))


def read_settings(values: JSON, project: str) -> ProjectSettings:
    """Settings from the database."""
    return _parsed(json.dumps(values, sort_keys=True), project)


@functools.lru_cache(maxsize=256)
def _parsed(text: str, project: str) -> ProjectSettings:
    """Every request asks for its project's settings, and they rarely change."""
    return from_mapping(ProjectSettings, json.loads(text), f"project {project}")


def write_settings(settings: ProjectSettings) -> JSON:
    """Settings for the database."""
    return dump(settings)
