"""The numbers that losses are made of: logprobs on packed trees against the model's own forward pass, and against themselves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trimtab.common.hf import PreTrainedModel
from trimtab.doctor.check import Group, Result, judged, small
from trimtab.doctor.subject import Subject
from trimtab.models.attention import tree_attention
from trimtab.models.load import DROPOUTS
from trimtab.models.score import score_tokens
from trimtab.trees import PromptTree, TreeBatch

GROUP = Group("Logprobs")
# Rounding of deep float32 models stays below; a rule of the family that is left out is above (ALiBi: 5e-4 in a model of two layers).
TOLERANCE = 1e-3


@contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, ``model`` is what plain transformers makes of it."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(tree_attention())


def plain_logprobs(model: PreTrainedModel, trees: Sequence[PromptTree]) -> Tensor:
    """(S,) logprobs of every completion's tokens, each prompt + completion alone in transformers' own forward pass."""
    out = []
    with own_attention(model):
        for tree in trees:
            for completion in tree.completions:
                ids = torch.tensor([[*tree.prompt, *completion]], device=model.device)
                logits = model(input_ids=ids, use_cache=False).logits[0, len(tree.prompt) - 1 : -1]
                targets = torch.tensor(completion, device=model.device).unsqueeze(1)
                out.append(torch.log_softmax(logits.float(), -1).gather(1, targets).squeeze(1))
    return torch.cat(out)


def packed_logprobs(model: PreTrainedModel, trees: Sequence[PromptTree]) -> Tensor:
    """(S,) the same on one packed batch."""
    return score_tokens(model, TreeBatch.pack(trees)).logprobs


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference; NaN where one is NaN."""
    return float((a - b).abs().max())


@GROUP.check(
    "packed = alone",
    means="Prompts and answers are packed without padding, many to a batch. If a logprob depended on its neighbours, samples would leak "
    "into each other and every loss would be wrong by a little.",
    do="Report the architecture: trimtab refuses the ones that it knows to differ.",
)
def packed_is_alone(s: Subject) -> Result:
    with torch.no_grad():
        found, expected = packed_logprobs(s.policy, s.trees), plain_logprobs(s.policy, s.trees)
    off = apart(found, expected)
    said = f"{len(found)} tokens differ from transformers' own forward pass by at most {small(off)} nats"
    return judged(said, bad=False, grave=not off <= TOLERANCE, tokens=len(found), apart=off)


@GROUP.check(
    "KL to itself",
    means="Before the first step policy and reference are one model: every log-ratio must be 0, PPO's first ratio 1, DPO's first loss "
    "log 2. Noise in the forward pass looks like learning.",
    do="Find what draws random numbers in the forward pass (dropout, jitter of a router) and set it to 0 in config.json.",
)
def kl_to_itself(s: Subject) -> Result:
    model = s.policy
    with torch.no_grad():
        reference = packed_logprobs(model, s.trees)
        model.train()
        try:
            policy = packed_logprobs(model, s.trees)
        finally:
            model.eval()
    off = apart(policy, reference)
    kl = float((policy.exp() * (policy - reference)).sum())
    return judged(f"log-ratios to itself, in training: at most {small(off)}", bad=False, grave=not off <= 1e-5, apart=off, kl=kl)


@GROUP.check(
    "dropout",
    means="With dropout, two passes over the same tokens disagree: ratios and KL are noise. trimtab loads with every dropout at 0; a "
    "module that is still at work escapes its list.",
    do="Set the dropouts in config.json to 0 before training a policy elsewhere.",
)
def dropout(s: Subject) -> Result:
    stored = {n: getattr(s.settings, n) for n in DROPOUTS if isinstance(getattr(s.settings, n, None), float) and getattr(s.settings, n)}
    active = [name for name, module in s.model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if active:
        return judged(f"{len(active)} modules still drop after loading, such as {active[0]}", bad=True, grave=True, active=len(active))
    said = "; config.json has " + ", ".join(f"{n} {p:g}" for n, p in stored.items()) + ", which trimtab sets to 0" if stored else ""
    return judged(f"none is at work{said}", bad=False, grave=False, active=0)
