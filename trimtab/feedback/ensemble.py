"""Several judges as one: their mean, the lowest of them, or the mean less what they disagree by.

A policy that maximises one reward model finds its errors; an error that several models do not share is worth less to it. Coste et
al. 2024 (mean, worst case); Eisenstein et al. 2024 (mean less standard deviation).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trimtab.common.errors import UserError
from trimtab.feedback.protocol import Feedback
from trimtab.feedback.reward_model import RewardModel, reward_folder
from trimtab.records import Completion, Prompt

WAYS = ("mean", "min", "mean-std")


class Ensemble:
    """Scores of the members, combined answer by answer. Reward models are calibrated to one unit, so that they may be compared.

    ``source`` is the members' own where all have the same, else ``proxy``.
    """

    def __init__(self, members: Sequence[Feedback], way: str) -> None:
        assert members and way in WAYS, (members, way)
        self.members, self.way = list(members), way
        sources = {member.source for member in members}
        self.source = sources.pop() if len(sources) == 1 else "proxy"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """See ``Feedback.score``."""
        rows = zip(*(member.score(prompts, completions) for member in self.members), strict=True)
        return [combined(np.array(row, dtype=float), self.way) for row in rows]


def combined(scores: np.ndarray, way: str) -> list[float]:
    """(M, K) scores of K answers by M judges -> (K,): their mean, their minimum, or mean - standard deviation (divisor M)."""
    if way == "min":
        return [float(x) for x in scores.min(0)]
    return [float(x) for x in scores.mean(0) - (scores.std(0) if way == "mean-std" else 0.0)]


def reward_models(*judges: Feedback | None) -> list[RewardModel]:
    """The reward models that judges consist of: themselves, an ensemble's, or none."""
    out: list[RewardModel] = []
    for judge in judges:
        out += reward_models(*judge.members) if isinstance(judge, Ensemble) else [judge] if isinstance(judge, RewardModel) else []
    return out


def of_samples(judge: Feedback, budget: int) -> Feedback:
    """``judge``, set to read what a policy samples: its reward models compute ``budget`` tokens at a time, and refuse no answer for its
    length, which is no reason to end a run."""
    for model in reward_models(judge):
        model.budget, model.cuts = budget, True
    return judge


def member_names(name: str) -> tuple[str, list[str]] | None:
    """``min:A,B`` -> ("min", ["A", "B"]); None where ``name`` is no ensemble's.

    Raises:
        UserError: a member's name is empty, or mean-std has one member, which cannot disagree with itself.
    """
    way, colon, rest = name.partition(":")
    if not colon or way not in WAYS:
        return None
    members = [part.strip() for part in rest.split(",")]
    if not all(members):
        raise UserError(f"{name!r}: an empty name between its commas; write {way}:reward:DIR,reward:OTHER")
    if way == "mean-std" and len(members) < 2:
        raise UserError(f"{name!r}: one judge does not disagree with itself; write mean-std:reward:DIR,reward:OTHER, or {members[0]}")
    return way, members


def named_judges(name: str) -> list[str]:
    """The single judges that a name on the command line means."""
    ensemble = member_names(name)
    return ensemble[1] if ensemble else [name]


def reward_folders(name: str) -> list[Path]:
    """The model folders that a name on the command line means; none for judges that are programs."""
    return [folder for one in named_judges(name) if (folder := reward_folder(one))]
