"""trimtab's side of the benchmark: ``python bench/ours.py WORK STEPS [SIZE]`` prints one line of what it measured.

Texts become trees and steps by the same functions that the command line uses; only the order of the data is fixed.
"""

import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import work
from transformers import PreTrainedModel
from work import ADAM_BETA2, BATCH, BETA, KL_BETA, LR, NEW_TOKENS, Measured

from trimtab.common.memory import keep_freed_memory
from trimtab.common.precision import in_bf16
from trimtab.data.encode import comparison_trees, demonstration_trees, prompt_trees
from trimtab.data.formats import read_comparisons, read_demonstrations
from trimtab.data.template import Renderer
from trimtab.feedback.reward_model import RewardModel
from trimtab.methods import ppo, rloo
from trimtab.methods.dpo import DPO
from trimtab.methods.offline import FixedData, Offline, micro_batches
from trimtab.methods.online import Online, Parts
from trimtab.methods.reward import Reward
from trimtab.methods.sft import SFT
from trimtab.models.load import load_policy, load_scorer, load_tokenizer
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import SamplingOptions
from trimtab.training.loop import Learner
from trimtab.training.method import OptimizerStep, State
from trimtab.training.settings import TrainingSettings
from trimtab.trees import PromptTree, epoch_order

SETTINGS = TrainingSettings(
    lr=LR, adam_beta2=ADAM_BETA2, schedule="constant", warmup=0.0, compile=os.environ.get("BENCH_COMPILE", "auto"),
    micro_batch_tokens=32768 if torch.cuda.is_available() else 8192, checkpointing=bool(os.environ.get("BENCH_CHECKPOINTING")),
)  # fmt: skip
# Forward-equivalents of a step, of language models and of scorers: a forward is 1, a backward 2. RLOO: sampling 1, update 3, reference 1;
# reward 1. PPO: sampling 1, old logprobs 1, reference 1, update 3; reward 1, old values 1, update 3.
PASSES = {"sft": (3, 0), "reward": (0, 3), "rankings": (0, 3), "dpo": (4, 0), "rloo": (5, 1), "ppo": (6, 5)}


@dataclass(frozen=True)
class Side:
    """One kind of work, ready to be timed: ``step(i)`` does step i and returns its loss, useful tokens and operations; where answers are
    sampled, their mean score and KL are noted."""

    step: Callable[[int], tuple[float, int, float]]
    parameters: int
    scores: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)


def offline(name: str, folder: Path) -> Side:
    """SFT, reward model or DPO on the workload's files, in their order."""
    renderer, batch = Renderer(load_tokenizer(folder / "model")), BATCH * work.scale_of(folder)
    data = FixedData((), batch_size=batch, budget=SETTINGS.micro_batch_tokens)
    method: Offline
    if name == "sft":
        trees, _ = demonstration_trees(read_demonstrations(str(folder / "native-demonstrations.jsonl")), renderer, 1024)
        method = SFT(load_policy(folder / "model"), data)
    else:
        file = "rankings.jsonl" if name == "rankings" else "native-pairs.jsonl"
        trees, _ = comparison_trees(read_comparisons(str(folder / file)), renderer, 1024)
        if name == "dpo":
            method = DPO(load_policy(folder / "model"), load_policy(folder / "model"), data, beta=BETA)
        else:
            method = Reward(load_scorer(folder / "scorer"), data)
    learner = Learner(method, SETTINGS)
    model = next(iter(method.modules.values()))

    def step(i: int) -> tuple[float, int, float]:
        chosen = trees[i * batch : (i + 1) * batch]
        learner.descend([micro_batches(chosen, data.budget, method.size)], f"step {i}")
        loss = learner.read_meter()["loss"]
        tokens = sum(t.tokens for t in chosen)
        return loss, tokens, sum(PASSES[name]) * forward_operations(model, chosen)

    return Side(step, count(model))


def online(name: str, folder: Path) -> Side:
    """PPO or RLOO: sample, score, update. The prompts are asked in the file's order, as the peers ask them."""
    scale = work.scale_of(folder)
    what, renderer = work.works(scale)[name], Renderer(load_tokenizer(folder / "model"))
    prompts = [c.prompt for c in read_comparisons(str(folder / "native-pairs.jsonl"))][: work.PROMPTS * scale]
    place = epoch_order(len(prompts), SETTINGS.seed, 0).argsort()  # methods ask prompts in this order of their places
    prompts = [prompts[i] for i in place]
    trees, _ = prompt_trees(prompts, renderer, 1024)
    shared = {**SETTINGS.model_dump(exclude={"batch_size"}), "batch_size": what.prompts, "num_completions": what.answers}
    shared |= {"max_tokens": NEW_TOKENS, "beta": KL_BETA}
    policy, reward = load_policy(folder / "model"), RewardModel(folder / "scorer", budget=SETTINGS.micro_batch_tokens)
    engine = NativeEngine(policy, NEVER, autocast=in_bf16(SETTINGS.dtype))
    parts = Parts(policy, load_policy(folder / "model"), engine, reward, None, prompts, trees, renderer)
    method: Online
    if name == "rloo":
        method = rloo.RLOO(rloo.Config(**shared), parts)
    else:
        config = ppo.Config(**shared, minibatch_size=what.prompts, epochs_per_batch=1, value_coef=0.1, stop_kl=1e9)
        method = ppo.PPO(config, parts, load_scorer(folder / "scorer"))
    learner = Learner(method, method.config)
    scores: list[float] = []
    kl: list[float] = []

    def step(i: int) -> tuple[float, int, float]:
        assert (i + 1) * what.prompts <= len(prompts), "every step has prompts of its own"
        made: list[PromptTree] = []
        method.update(watched(method.batches(State(i, 1 << 30)), made), learner, f"step {i}")
        policy_passes, others = PASSES[name]
        work_done = policy_passes * forward_operations(policy, made) + others * forward_operations(reward.model, made)
        meter = learner.read_meter()
        scores.append(method.logged["reward/proxy"])
        kl.append(meter.get("kl/reference", method.kl))
        return meter["policy_loss"], sum(t.tokens for t in made), work_done

    return Side(step, sum(count(m) for m in method.modules.values()), scores, kl)


def watched(steps: Iterable[OptimizerStep], made: list[PromptTree]) -> Iterator[OptimizerStep]:
    """The same steps; their trees are noted in ``made``."""
    for step in steps:
        made += [tree for batch in step for tree in batch.trees.trees]
        yield step


NEVER = -1  # no token is the end token: every answer has its 64 tokens, on both sides


def generate(name: str, folder: Path) -> Side:
    """Sampling alone."""
    what, renderer = work.works(work.scale_of(folder))[name], Renderer(load_tokenizer(folder / "model"))
    prompts = [c.prompt for c in read_comparisons(str(folder / "native-pairs.jsonl"))]
    trees, _ = prompt_trees(prompts, renderer, 1024)
    policy = load_policy(folder / "model")
    engine = NativeEngine(policy, NEVER, autocast=in_bf16("auto"))

    def step(i: int) -> tuple[float, int, float]:
        chosen = trees[i * what.prompts : (i + 1) * what.prompts]
        samples = engine.sample([t.prompt for t in chosen], what.answers, SamplingOptions(NEW_TOKENS), [t.key for t in chosen])
        made = [t.with_completions([s.token_ids for s in row]) for t, row in zip(chosen, samples, strict=True)]
        return 0.0, sum(len(s.token_ids) for row in samples for s in row), forward_operations(policy, made)

    return Side(step, count(policy))


SWEEP_PROMPTS, SWEEP_ANSWERS, SWEEP_TREES = (64, 256, 1024), (1, 2, 4, 8), (1, 2, 4)


def sweep(folder: Path, repeats: int) -> list[dict[str, float]]:
    """Training steps (scores, backward, update) of trees of random tokens, answers of 64: seconds over prompt lengths, answers to a prompt
    and trees of a batch."""
    policy = load_policy(folder / "model")
    method = SFT(policy, FixedData((), budget=1 << 30))
    learner = Learner(method, SETTINGS)
    draw = random.Random(0)

    def tree(prompt: int, answers: int) -> PromptTree:
        ids = [draw.randrange(policy.config.vocab_size) for _ in range(prompt + answers * NEW_TOKENS)]
        ends = range(prompt, len(ids), NEW_TOKENS)
        return PromptTree(tuple(ids[:prompt]), tuple(tuple(ids[e : e + NEW_TOKENS]) for e in ends))

    shapes = [(prompt, answers, 2) for prompt in SWEEP_PROMPTS for answers in SWEEP_ANSWERS]
    shapes += [(256, 2, trees) for trees in SWEEP_TREES if trees != 2]
    out = []
    for prompt, answers, trees in shapes:
        seconds = []
        for _ in range(repeats + 1):
            batch = [tree(prompt, answers) for _ in range(trees)]
            step = micro_batches(batch, 1 << 30, method.size)
            seconds.append(work.timed(lambda step=step: learner.descend([step], "sweep"))[0])
        tokens = sum(t.tokens for t in batch)
        out.append({"prompt": prompt, "answers": answers, "trees": trees, "tokens": tokens, "seconds": statistics.median(seconds[1:])})
    return out


def forward_operations(model: torch.nn.Module, trees: list[PromptTree]) -> float:
    """2 N operations a token for the trunk's N weights, 2 N a scored position for the head's; attention is not counted."""
    assert isinstance(model, PreTrainedModel)
    embeddings = model.get_input_embeddings().weight.numel()
    head = embeddings if model.get_output_embeddings() is not None else 0
    trunk = count(model) - embeddings
    scored = sum(len(c) for t in trees for c in t.completions)
    return 2.0 * trunk * sum(t.tokens for t in trees) + 2.0 * head * scored


def count(model: torch.nn.Module) -> int:
    """Weights, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def side_of(name: str, folder: Path) -> Side:
    """The work called ``name``, ready to be timed."""
    make = online if name in ("ppo", "rloo") else offline if name in PASSES else generate
    return make(name, folder)


def main(name: str, steps: str, size: str = "134M") -> None:
    keep_freed_memory()
    folder = work.prepare(size)
    if name == "sweep":
        print("SWEEP " + json.dumps(sweep(folder, int(steps))))
        return
    side = side_of(name, folder)
    out = Measured("trimtab", name, [], [], [], [], 0.0, 0, side.parameters)
    for i in range(int(steps) + 1):
        seconds, (loss, tokens, operations) = work.timed(lambda i=i: side.step(i))
        out.seconds.append(seconds)
        out.losses.append(loss)
        out.tokens.append(tokens)
        out.flops.append(operations)
        out.matrix_peak = max(out.matrix_peak, work.matrix_peak(work.fast_dtype()))
    out.peak_bytes, out.scores, out.kl = work.peak_bytes(), side.scores, side.kl
    out.print()


if __name__ == "__main__":
    main(*sys.argv[1:])
