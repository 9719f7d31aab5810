"""Names on the command line -> who says what is better."""

from trimtab.common.errors import UserError
from trimtab.feedback.protocol import Feedback
from trimtab.feedback.reward_model import RewardModel, reward_folder


def resolve_feedback(name: str) -> Feedback:
    """``village`` is the village's gold judge; ``reward:DIR``, or just ``DIR``, a reward-model folder.

    Raises:
        UserError: the name is neither.
    """
    if name == "village":
        from trimtab.village import VillageJudge  # builds its tables when first used: only who asks for it pays

        return VillageJudge()
    folder = reward_folder(name)
    if folder is not None:
        return RewardModel(folder)
    raise UserError(f"{name!r} is no judge; write village, or reward:DIR with a reward-model folder")
