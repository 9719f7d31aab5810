"""Feedback from a trained reward model, whatever the policy's tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.common.hf import PreTrainedModel
from trimtab.common.precision import products
from trimtab.data.encode import completion_ids
from trimtab.data.template import Renderer
from trimtab.models.load import is_scorer, load_scorer, load_tokenizer, max_positions, model_folder
from trimtab.models.score import score_rewards
from trimtab.records import Completion, Prompt
from trimtab.trees import PromptTree, TreeBatch, by_completion


@dataclass(frozen=True)
class Calibration:
    """reward = (model output - shift) / scale; ``reward.json`` beside the model. That one answer is preferred to another has the chance
    sigma(``slope`` * difference of their rewards)."""

    shift: float = 0.0
    scale: float = 1.0
    temperature: float = 1.0

    @property
    def slope(self) -> float:
        """Logits per unit of reward."""
        return self.scale / self.temperature


def reward_folder(name: str) -> Path | None:
    """The model folder that a name like ``reward:DIR``, or just an existing ``DIR``, means; None for judges that are programs."""
    folder = model_folder(Path(name.removeprefix("reward:")))
    known = any((folder / file).exists() for file in ("config.json", "adapter_config.json"))
    return folder if name.startswith("reward:") or known else None


class RewardModel:
    """A reward-model folder as ``Feedback``: its scores are shifted so that demonstrations average 0. It multiplies matrices in ``dtype``
    (judges named on the command line: float32, in which their calibration was measured), ``budget`` tokens at a time.

    A prompt and an answer that are longer than it can take are refused, or with ``cuts`` read without the prompt's beginning: the answer is
    whole and stands behind as much of the prompt's end as there is room for (an answer that is too long by itself is read without its own
    beginning; the score is at its end). ``cut`` counts the answers of the last ``score`` that were read so.

    Raises:
        UserError: the folder holds a language model: its head would be random.
    """

    source = "proxy"

    def __init__(self, folder: Path | str, *, budget: int = 8192, dtype: str = "float32", cuts: bool = False) -> None:
        self.folder = model_folder(folder)
        if not is_scorer(self.folder):
            raise UserError(f"{folder}: a language model, not a reward model; trimtab reward model={folder} data=RANKINGS makes one")
        self.model = load_scorer(self.folder)
        self.renderer = Renderer(load_tokenizer(self.folder), answers=False)
        self.budget, self.dtype, self.cuts, self.cut = budget, dtype, cuts, 0
        calibration = self.folder / "reward.json"
        self.calibration = (
            Calibration(**{k: v for k, v in read_json(calibration).items() if k in ("shift", "scale", "temperature")})
            if calibration.exists()
            else Calibration()
        )

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """See ``Feedback.score``. Token ids are used where they are this tokenizer's own, the text otherwise.

        Raises:
            UserError: a prompt and its answer are longer than this model can take, and ``cuts`` is off.
        """
        whole = [self.tree(prompt, answers) for prompt, answers in zip(prompts, completions, strict=True)]
        if not self.cuts:
            return self.score_trees(whole)
        self.cut = sum(len(tree.prompt) + len(c) > self.longest for tree in whole for c in tree.completions)
        read = [[tree] if tree.longest <= self.longest else ends(tree, self.longest) for tree in whole]
        scores = iter(self.score_trees([tree for trees in read for tree in trees]))
        return [[score for _ in trees for score in next(scores)] for trees in read]

    @property
    def longest(self) -> int:
        """The longest prompt + completion the model reads, in tokens."""
        return max_positions(self.model)

    def tree(self, prompt: Prompt, completions: Sequence[Completion]) -> PromptTree:
        """The prompt and its answers in this model's tokens."""
        return PromptTree(tuple(self.renderer.prompt(prompt)), tuple(self._ids(c, prompt) for c in completions), key=prompt.id)

    def score_trees(self, trees: Sequence[PromptTree]) -> list[list[float]]:
        """Rewards of completions that are already in this model's tokens."""
        for tree in trees:
            if tree.longest > self.longest:
                raise UserError(
                    f"prompt {tree.key}: {tree.longest} tokens with its longest answer, {self.folder} reads {self.longest}; leave it out"
                )
        out = score_in_budget(self.model, trees, self.budget, self.dtype)
        return [[(x - self.calibration.shift) / self.calibration.scale for x in row] for row in out]

    def _ids(self, completion: Completion, prompt: Prompt) -> tuple[int, ...]:
        # an answer without a token (cut by length, nothing but another tokenizer's special tokens) scores as an empty one
        return completion_ids(completion, self.renderer, prompt) or (self.renderer.end_id,)


def ends(tree: PromptTree, longest: int) -> list[PromptTree]:
    """A tree for each completion, in order, whose prompt is the end that the completion leaves room for in ``longest`` tokens, but at least
    one token. No answer's reading depends on its siblings."""
    answers = [c[max(0, len(c) - longest + 1) :] for c in tree.completions]
    return [replace(tree, prompt=tree.prompt[len(c) - longest :], completions=(c,)) for c in answers]


@torch.no_grad()
def score_in_budget(
    model: PreTrainedModel, trees: Sequence[PromptTree], budget: int, dtype: str = "float32"
) -> list[list[float]]:
    """The model's plain outputs for every completion, computed ``budget`` tokens at a time."""

    def rewards(batch: TreeBatch) -> Tensor:
        with products(dtype):
            return score_rewards(model, batch)

    return by_completion(trees, budget, rewards)
