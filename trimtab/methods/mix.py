"""What is mixed into reinforcement learning so that the policy forgets less: cross-entropy on demonstrations or on text (PPO-ptx).

Ouyang et al. 2022, equation 2: gamma * E[log pi(x)] over the pretraining distribution, added to the objective of every update.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from torch import Tensor

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.data.encode import demonstration_trees
from trimtab.data.files import read_text
from trimtab.data.files.hub import is_hub
from trimtab.data.formats import read_demonstrations
from trimtab.data.template import Renderer
from trimtab.data.tokenizer import CorpusTokens
from trimtab.losses.likelihood import cross_entropy
from trimtab.methods.build import announce, announced
from trimtab.methods.offline import micro_batches, total, trained_tokens
from trimtab.models.score import score_tokens
from trimtab.training.method import Metrics, MicroBatch, OptimizerStep
from trimtab.trees import PromptTree, step_indices


class Ptx(Settings):
    """The mix; ``weight`` switches it on."""

    weight: float = Field(0.0, ge=0, description="weight of the mix's cross-entropy per token beside the policy's loss; 0 = no mix")
    demonstrations: str = Field("", description="demonstrations to mix in, a file or hub:owner/name")
    text: str = Field("", description="or plain text: a .txt or .jsonl file (field text), a folder or a .zip of them, or hub:owner/name")
    batch_size: int = Field(16, ge=1, description="demonstrations or pieces of text beside every optimizer step")


@dataclass(frozen=True)
class Mix:
    """What is mixed in: tree ``i`` of ``count``, ``batch_size`` of them beside every optimizer step, ``budget`` tokens at once."""

    tree: Callable[[int], PromptTree]
    count: int
    batch_size: int
    budget: int
    seed: int


def check_mix(ptx: Ptx) -> None:
    """Refuses a mix that nothing or two things are mixed into, before anything is loaded.

    Raises:
        UserError: weight and files do not fit each other.
    """
    if ptx.weight and bool(ptx.demonstrations) == bool(ptx.text):
        raise UserError(f"ptx.weight={ptx.weight:g} needs one of ptx.demonstrations=FILE and ptx.text=FILE")
    if not ptx.weight and (ptx.demonstrations or ptx.text):
        raise UserError(f"{ptx.demonstrations or ptx.text}: would not be mixed in, ptx.weight is 0; write a weight")
    if not ptx.weight and ptx != Ptx():
        raise UserError(f"ptx.batch_size={ptx.batch_size} means nothing without a mix; write ptx.weight and a file, or leave it out")
    for path in filter(None, (ptx.demonstrations, ptx.text)):
        if not is_hub(path) and not Path(path).exists():
            raise UserError(f"{path}: no such file")


def read_mix(
    name: str, ptx: Ptx, tokenizer: PreTrainedTokenizerBase, renderer: Renderer, limit: int, budget: int, seed: int
) -> Mix | None:  # fmt: skip
    """The trees of the mix, of at most ``limit`` tokens, after one line about them; None where there is none.

    Raises:
        UserError: the file cannot be read, or nothing in it is short enough.
    """
    if not ptx.weight:
        return None
    if ptx.text:
        corpus = CorpusTokens.encode(read_text(ptx.text), tokenizer, limit)
        announce(name, ptx.text, f"{len(corpus):,} documents, {corpus.tokens:,} tokens")
        return Mix(corpus.tree, len(corpus), ptx.batch_size, budget, seed)
    trees = announced(name, ptx.demonstrations, demonstration_trees(read_demonstrations(ptx.demonstrations), renderer, limit))
    if not trees:
        raise UserError(f"{ptx.demonstrations}: no demonstration is short enough to be mixed in; raise max_length")
    return Mix(trees.__getitem__, len(trees), ptx.batch_size, budget, seed)


def mix_step(mix: Mix, step: int) -> OptimizerStep:
    """The micro-batches that go beside optimizer step ``step``, counted over the run; the divisor is their trained tokens."""
    chosen = step_indices(mix.count, mix.batch_size, mix.seed, step)
    return micro_batches([mix.tree(i) for i in chosen], mix.budget, trained_tokens)


def mix_loss(policy: PreTrainedModel, batch: MicroBatch, weight: float) -> tuple[Tensor, Metrics]:
    """weight * mean of -log pi(token), at temperature 1 whatever answers are sampled at."""
    logprobs, weights = score_tokens(policy, batch.trees).logprobs, batch.trees.token_weights
    return weight * cross_entropy(logprobs, weights, tokens=batch.divisor), {"ptx_loss": total(-logprobs, weights)}
