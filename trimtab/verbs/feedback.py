"""Names on the command line -> who says what is better."""

from trimtab.common.errors import UserError
from trimtab.feedback.ensemble import Ensemble, member_names
from trimtab.feedback.function import named_function
from trimtab.feedback.protocol import Feedback
from trimtab.feedback.reward_model import RewardModel, reward_folder


def resolve_feedback(name: str) -> Feedback:
    """``village`` is the village's gold judge; ``reward:DIR``, or just ``DIR``, a reward-model folder; ``module:function``, ``FILE.py`` or
    ``FILE.py:function`` somebody's own function; ``mean:A,B``, ``min:A,B`` and ``mean-std:A,B`` several of these as one.

    Raises:
        UserError: the name is none of them.
    """
    if name == "village":
        from trimtab.village import VillageJudge  # builds its tables when first used: only who asks for it pays

        return VillageJudge()
    ensemble = member_names(name)
    if ensemble is not None:
        way, members = ensemble
        return Ensemble([resolve_feedback(member) for member in members], way)
    folder = reward_folder(name)
    if folder is not None:
        return RewardModel(folder)
    function = named_function(name)
    if function is not None:
        return function
    raise UserError(f"{name!r} is no judge; write village, or reward:DIR with a reward-model folder, or FILE.py:function")
