"""A reward model: one score for one text, whatever stands beside it in the batch and on whichever side padding is."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.common.files import read_json
from trimtab.doctor.check import Group, NotApplicable, Number, Result, fail, ok, small
from trimtab.doctor.logprobs import own_attention
from trimtab.doctor.probes import FIRST, OPENINGS, PASSAGE
from trimtab.doctor.subject import Subject, as_list
from trimtab.models.load import max_positions
from trimtab.models.score import score_rewards
from trimtab.records import Message, Prompt
from trimtab.trees import PromptTree, TreeBatch

GROUP = Group("Reward model")
TOLERANCE = 1e-4  # of 1 + the largest score


def probe_trees(s: Subject) -> list[PromptTree]:
    """Prompts with answers of many lengths, each with its end token."""
    if s.tokenizer_attempt.value is None or (s.tokenizer.chat_template and s.chat_attempt.value is None):
        end = () if s.settings.eos_token_id is None else (as_list(s.settings.eos_token_id)[0],)
        return [replace(t, completions=tuple((*c[: -len(end) or None], *end) for c in t.completions)) for t in s.trees]
    renderer, words, longest = s.renderer, PASSAGE.split(), max_positions(s.scorer)
    trees = []
    for text in (FIRST[0].content, OPENINGS[0]):
        prompt = renderer.prompt(Prompt(text, (Message("user", text),)))
        answers = [renderer.completion(" ".join(words[:n])) for n in (0, 1, 2, 4, 12, 30)]
        fitting = [tuple(a) for a in answers if len(prompt) + len(a) <= longest]
        trees += [PromptTree(tuple(prompt), tuple(fitting))] if fitting else []
    if not trees:
        raise NotApplicable("the model has no room for an answer")
    return trees


def packed_scores(s: Subject, trees: Sequence[PromptTree]) -> Tensor:
    """(C,) as trimtab computes them."""
    with torch.no_grad():
        return score_rewards(s.scorer, TreeBatch.pack(trees)).cpu()


def plain_scores(s: Subject, rows: Sequence[Sequence[int]], side: str = "right") -> Tensor:
    """(C,) by plain transformers in one batch, padded on ``side`` with the tokenizer's pad token (0 where it has none)."""
    model, width = s.scorer, max(map(len, rows))
    pad = s.tokenizer.pad_token_id if s.tokenizer_attempt.value is not None else None
    fill = pad if pad is not None else 0
    before = [width - len(row) if side == "left" else 0 for row in rows]
    ids = torch.tensor([[fill] * b + [*row] + [fill] * (width - b - len(row)) for b, row in zip(before, rows, strict=True)])
    mask = torch.tensor([[0] * b + [1] * len(row) + [0] * (width - b - len(row)) for b, row in zip(before, rows, strict=True)])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad(), own_attention(model):
        tensors = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        out = model(**{name: t.to(model.device) for name, t in tensors.items()}, use_cache=False)
    return out.logits.float().flatten().cpu()


def _off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of 1 + the largest score."""
    return float((found - expected).abs().max() / (1 + expected.abs().max()))


@GROUP.check(
    "reward packing",
    means="A score that depends on what else is in the batch is no property of the answer.",
    do="Report the architecture: trimtab refuses the ones that it knows to differ.",
)
def reward_packing(s: Subject) -> Result:
    trees = probe_trees(s)
    together = packed_scores(s, trees)
    alone = torch.cat([packed_scores(s, [PromptTree(t.prompt, (c,))]) for t in trees for c in t.completions])
    off = _off(together, alone)
    found = f"{len(alone)} answers' scores alone and packed differ by {small(off)} at most (share of 1 + the largest score)"
    return (ok if off <= TOLERANCE else fail)(found, apart=off)


@GROUP.check(
    "reward padding",
    means="Plain transformers reads the score at the last token that is not padding. If padding is the end token, or none is configured, "
    "it reads another token's score, or refuses batches: the same answer gets another reward with another batch size or padding side.",
    do="Give it a pad token of its own in tokenizer and config.json (pad_token_id); trimtab reward saves models so.",
)
def reward_padding(s: Subject) -> Result:
    if s.scorer.config.pad_token_id is None:
        return fail("config.json has no pad_token_id: plain transformers refuses batches of more than one")
    trees = probe_trees(s)
    rows = [[*t.prompt, *c] for t in trees for c in t.completions]
    expected = packed_scores(s, trees)
    tried = {
        "one at a time": torch.cat([plain_scores(s, [row]) for row in rows]),
        "padded on the right": plain_scores(s, rows), "padded on the left": plain_scores(s, rows, "left"),
    }  # fmt: skip
    apart = {how: _off(found, expected) for how, found in tried.items()}
    worst = max(apart, key=lambda how: (math.isnan(apart[how]), apart[how]))
    said = f"plain transformers differs from trimtab by {small(apart[worst])}, {worst} (share of 1 + the largest score)"
    numbers: dict[str, Number] = {how.replace(" ", "_"): off for how, off in apart.items()}
    return (ok if apart[worst] <= TOLERANCE else fail)(said).also(numbers)


@GROUP.check(
    "scores differ",
    means="A reward model that gives every answer the same score teaches nothing.",
    do="Train it (trimtab reward), or look at whether its head was saved: score.weight must not be zero.",
)
def scores_differ(s: Subject) -> Result:
    scores = packed_scores(s, probe_trees(s))
    spread = float(scores.std())
    found = f"{len(scores)} answers between {float(scores.min()):.3f} and {float(scores.max()):.3f}"
    return (ok if spread > 1e-6 else fail)(found, spread=spread)


@GROUP.check(
    "calibration",
    means="reward.json shifts and scales scores so that demonstrations average 0: without it two reward models' scores cannot be compared.",
    do="Train with demonstrations=FILE (trimtab reward), or write shift and scale yourself; scale is above 0.",
)
def calibration(s: Subject) -> Result:
    _ = s.scorer
    path = s.source / "reward.json"
    if not path.exists():
        raise NotApplicable("no reward.json: scores are the model's own")
    said = read_json(path)
    values = [said.get("shift"), said.get("scale")]
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values) or not values[1] > 0:
        return fail(f"reward.json says shift {values[0]}, scale {values[1]}")
    return ok(f"reward = (score - {values[0]:.3g}) / {values[1]:.3g}", shift=values[0], scale=values[1])
