"""``trimtab score`` and ``trimtab logprobs``: one number for each completion, in the order of the file."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from trimtab.common.errors import UserError
from trimtab.common.files import check_writable, write_text
from trimtab.common.progress import Progress
from trimtab.data.encode import comparison_trees
from trimtab.data.formats import read_answers
from trimtab.data.formats.account import many
from trimtab.data.template import Renderer
from trimtab.feedback.ensemble import reward_models
from trimtab.feedback.protocol import Feedback
from trimtab.feedback.reward_model import RewardModel
from trimtab.models.load import load_policy, load_tokenizer, max_positions
from trimtab.models.score import score_tokens
from trimtab.records import Comparison
from trimtab.trees import PromptTree, by_completion

# Prompts between two steps of a progress bar.
AT_ONCE = 256


def run_score(model: str, data: str, out: str, *, overwrite: bool = False) -> Path:
    """Rewards of every completion of a file of comparisons or demonstrations: (plain score - shift) / scale of ``reward.json``.

    Raises:
        UserError: ``out`` is there and ``overwrite`` is not set; the model or the file is wrong.
    """
    check_writable(out, overwrite=overwrite)
    judge = RewardModel(model.removeprefix("reward:"))  # as it is called where a judge is asked for
    items = readable(read_answers(data), f"score: {data}", judge)
    rewards = scored(judge, items, "score")
    every = [reward for row in rewards for reward in row]
    if every:
        print(f"score: {many(len(every), 'answer')}, {sum(every) / len(every):.4g} on average")
    return _write(out, [{"id": c.prompt.id, "rewards": row} for c, row in zip(items, rewards, strict=True)])


def readable(items: Sequence[Comparison], what: str, *judges: Feedback | None) -> list[Comparison]:
    """``items`` without those that a reward model among the judges is too short for, which are counted in a line that names them.

    Raises:
        UserError: none is left.
    """
    fits, found = fitting(items, *judges)
    if all(fits):
        return list(items)
    if not any(fits):
        raise UserError(f"{what}: {found}")
    print(f"{what}: {found} left out")
    return list(itertools.compress(items, fits))


def fitting(items: Sequence[Comparison], *judges: Feedback | None) -> tuple[list[bool], str]:
    """Of every item whether the judges' reward models can read all of it, and a phrase about those that they cannot."""
    models = reward_models(*judges)
    fits = [all(model.tree(item.prompt, item.completions).longest <= model.longest for model in models) for item in items]
    long = [item.prompt.id for item, fit in zip(items, fits, strict=True) if not fit]
    longest = min((model.longest for model in models), default=0)
    names = ", ".join(long[:5]) + (", ..." if len(long) > 5 else "")
    return fits, f"{len(long):,} of {len(items):,} longer than the {longest:,} tokens that the reward model reads ({names})"


def scored(feedback: Feedback, items: Sequence[Comparison], title: str) -> list[list[float]]:
    """``feedback``'s score of every answer, with a progress bar."""
    out: list[list[float]] = []
    with Progress(title, len(items), "prompts") as bar:
        for start in range(0, len(items), AT_ONCE):
            part = items[start : start + AT_ONCE]
            out += feedback.score([c.prompt for c in part], [c.completions for c in part])
            bar.advance(len(part))
    return out


@torch.no_grad()
def run_logprobs(model: str, data: str, out: str, *, overwrite: bool = False, budget: int = 8192) -> Path:
    """Sum of token logprobs (float32, end token included) and number of tokens of every completion of a file of comparisons or
    demonstrations; of a conversation, of its last answer given all before it.

    Raises:
        UserError: ``out`` is there and ``overwrite`` is not set; the model or the file is wrong.
    """
    check_writable(out, overwrite=overwrite)
    items = read_answers(data)
    policy, tokenizer = load_policy(model), load_tokenizer(model)
    trees, report = comparison_trees(items, Renderer(tokenizer, answers=False), max_positions(policy))
    print(f"logprobs: {data} {report}")
    rows: list[dict[str, object]] = []
    with Progress("logprobs", len(trees), "prompts") as bar:
        for start in range(0, len(trees), AT_ONCE):
            part = trees[start : start + AT_ONCE]
            for tree, logprobs in zip(part, sums(policy, part, budget), strict=True):
                rows.append({"id": tree.key, "logprobs": logprobs, "tokens": [len(c) for c in tree.completions]})
            bar.advance(len(part))
    return _write(out, rows)


@torch.no_grad()
def sums(policy: torch.nn.Module, trees: list[PromptTree], budget: int) -> list[list[float]]:
    """log P(y|x) of every completion of every tree."""
    return by_completion(trees, budget, lambda batch: batch.sum_by_completion(score_tokens(policy, batch).logprobs))


def _write(out: str, rows: Sequence[Mapping[str, object]]) -> Path:
    write_text(out, "".join(json.dumps(row) + "\n" for row in rows))
    return Path(out)
