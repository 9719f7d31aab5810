"""trimtab's losses, gradients and advantages against TRL's own: the same weights, the same texts, float32, on the CPU.

    python bench/against_trl.py [FILE]   prints a line for each method and fails where the two sides differ by more than 1e-4; FILE: as JSON

Gradients are compared by their norm and tensor by tensor. TRL 1.16 runs in .venv-peers (BENCH_PEERS names another interpreter) through
its trainers' own data pipeline, collator and ``compute_loss``; trimtab through the functions of its command line. The model is small and
random, its reference another one, and the scorer's margins are about 1. RLOO and GRPO: TRL samples and scores, and trimtab is given the
very same tokens and rewards; the KL, the advantages and the gradient are each side's own. A random model hardly ever ends an answer, so
the end token is drawn more often than the model says: answers then differ in length, and how they were drawn is nothing to a loss on
them. Where a definition differs on purpose the two are not compared: ORPO's cross-entropy (TRL's takes in the prompt), the value of RLOO's
loss (TRL's is the mean of ratio * A, trimtab's that of A log pi; their gradients are one), the losses that TRL lacks.
"""

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("BENCH_FOLDER", tempfile.mkdtemp())

import torch
import work
from safetensors.torch import load_file, save_file

ROWS = 8
BETA, SMOOTHING, GAMMA = 0.3, 0.1, 0.7
DPO = {
    "dpo": {}, "dpo ipo": {"loss": "ipo"}, "dpo hinge": {"loss": "hinge"}, "dpo robust": {"loss": "robust", "label_smoothing": SMOOTHING},
}  # fmt: skip
ANSWERS, LONGEST, KL_BETA = 4, 12, 0.3  # of each prompt, in tokens at most, and what their KL to the reference costs
END_BIAS = 8.5  # added to the end token's logit where TRL draws, nats
HEAD_SCALE = 30.0  # of the scorer's head: margins of about 1
# of each trimtab's options, and TRL's words for the same
ONLINE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rloo": ({}, {}),
    "grpo": ({}, {"loss_type": "grpo", "scale_rewards": "group", "use_bias_correction_kl": False}),
    "grpo corrected": ({"kl_corrected": True}, {"loss_type": "grpo", "scale_rewards": "group"}),
    "Dr. GRPO": (
        {"divide_by_std": False, "length": "constant"}, {"loss_type": "dr_grpo", "scale_rewards": "none", "use_bias_correction_kl": False}
    ),
}  # fmt: skip
NAMES = ("sft", "reward", *DPO, "simpo", "kto", *ONLINE)
TOLERANCE = 1e-4
Found = dict[str, Any]
"""Of each method: its ``loss`` and the norm of its ``gradient`` (the gradient itself is in ``gradients_file``); online also the
``advantages`` (C,), and TRL's ``samples``."""


def prepare() -> Path:
    """The benchmark's tiny model and texts, weights large enough that nothing is near its start, and a reference that differs."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder = work.prepare("tiny")
    draw = torch.Generator().manual_seed(1)
    for kind, source, target in (
        (AutoModelForCausalLM, "model", "model"), (AutoModelForCausalLM, "model", "reference"),
        (AutoModelForSequenceClassification, "scorer", "scorer"),
    ):  # fmt: skip
        model: Any = kind.from_pretrained(folder / source, dtype=torch.float32)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=draw))
            if target == "scorer":  # where margins are small the loss is log 2, whatever their sign
                model.score.weight.mul_(HEAD_SCALE)
        model.save_pretrained(folder / target)
    return folder


def gradients_file(folder: Path, side: str, name: str) -> Path:
    """Where one side keeps the gradient of one method."""
    return folder / f"{side} {name}.safetensors"


def measured(loss: torch.Tensor, model: torch.nn.Module, file: Path, **more: Any) -> dict[str, Any]:
    """Loss and norm of the gradient, which is taken away and kept in ``file``."""
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    save_file(found, file)
    norm = float(torch.nn.utils.get_total_norm(found.values()))
    model.zero_grad()
    return {"loss": float(loss.detach()), "gradient": norm, **more}


def vowels(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that both sides can compute from the tokens: it differs between answers and now and then is equal."""
    return [sum(i % 7 for i in ids) / 5 for ids in completion_ids]


def ours(folder: Path, expected: Found) -> Found:
    """trimtab's side; RLOO and GRPO on what TRL sampled."""
    from trimtab.data.encode import comparison_trees, demonstration_trees
    from trimtab.data.formats import read_comparisons, read_demonstrations
    from trimtab.data.template import Renderer
    from trimtab.methods import dpo, kto, reward, sft, simpo
    from trimtab.methods.offline import FixedData, Offline
    from trimtab.models.load import load_policy, load_scorer, load_tokenizer
    from trimtab.trees import PromptTree

    renderer = Renderer(load_tokenizer(folder / "model"))
    demonstrations, _ = demonstration_trees(read_demonstrations(str(folder / "native-demonstrations.jsonl"))[:ROWS], renderer, 1024)
    pairs, _ = comparison_trees(read_comparisons(str(folder / "native-pairs.jsonl"))[:ROWS], renderer, 1024)
    # every second answer is a bad one, and each is on its own
    singles = [PromptTree(t.prompt, (t.completions[i % 2],), key=t.key, ranks=(1 + i % 2,)) for i, t in enumerate(pairs)]
    policy, reference, data = load_policy(folder / "model"), load_policy(folder / "reference"), FixedData((), budget=600)
    made: dict[str, tuple[Offline, list[PromptTree]]] = {
        "sft": (sft.SFT(policy, data), demonstrations), "reward": (reward.Reward(load_scorer(folder / "scorer"), data), pairs),
        **{name: (dpo.DPO(policy, reference, data, beta=BETA, **options), pairs) for name, options in DPO.items()},  # type: ignore[arg-type]
        "simpo": (simpo.SimPO(policy, data, beta=BETA, gamma=GAMMA), pairs),
        "kto": (kto.KTO(policy, reference, data, beta=BETA, longest=2048), singles),
    }  # fmt: skip
    out = {}
    for name, (method, trees) in made.items():
        model = next(iter(method.modules.values()))
        losses = [method.loss(batch)[0] for batch in method.split(trees)]
        out[name] = measured(torch.stack(losses).sum(), model, gradients_file(folder, "ours", name))
    return out | {name: online(name, folder, expected[name]["samples"]) for name in ONLINE}


def online(name: str, folder: Path, samples: Any) -> dict[str, Any]:
    """One of trimtab's online methods on answers that it did not sample: {prompts, completions, rewards}, ANSWERS rows to a prompt."""
    from trimtab.data.template import Renderer
    from trimtab.feedback.protocol import Rule
    from trimtab.methods import grpo, rloo
    from trimtab.methods.online import Answers, Parts
    from trimtab.models.load import load_policy, load_tokenizer
    from trimtab.records import Message, Prompt
    from trimtab.sampling.protocol import Sample
    from trimtab.trees import PromptTree

    groups = range(0, len(samples["prompts"]), ANSWERS)
    trees, rows, scores = [], [], []
    for start in groups:
        completions = [tuple(ids) for ids in samples["completions"][start : start + ANSWERS]]
        trees.append(PromptTree(tuple(samples["prompts"][start]), tuple(completions), key=str(start)))
        rows.append([Sample(ids, (0.0,) * len(ids), (0.0,) * len(ids), "end") for ids in completions])
        scores.append(samples["rewards"][start : start + ANSWERS])
    prompts = [Prompt(tree.key, (Message("user", "?"),)) for tree in trees]
    policy, reference = load_policy(folder / "model"), load_policy(folder / "reference")
    renderer = Renderer(load_tokenizer(folder / "model"))
    parts = Parts(policy, reference, None, Rule(lambda prompt, text: 0.0), None, prompts, trees, renderer)  # type: ignore[arg-type]
    answers = Answers(range(len(trees)), prompts, trees, rows, scores)
    shared = {"beta": KL_BETA, "num_completions": ANSWERS, "max_tokens": LONGEST, "dtype": "float32", "micro_batch_tokens": 1 << 20}
    method: Any
    seen: list[torch.Tensor] = []
    if name == "rloo":
        method = rloo.RLOO(rloo.Config(**shared), parts)
        advantages = method.advantages
        method.advantages = lambda returns, batch: seen.append(advantages(returns, batch)) or seen[-1]
        step = method.step(answers)
    else:
        method = grpo.GRPO(grpo.Config(**shared, **ONLINE[name][0]), parts)
        made = method.groups(answers)
        for tree, extra in made:  # each token of an answer has its advantage: the first one's is the answer's
            firsts = [part[0] for part in extra["advantages"].split([len(c) for c in tree.completions])]
            seen.append(torch.stack(firsts))
        step = method.minibatch(made)
    loss = torch.stack([method.loss(batch)[0] for batch in step]).sum()
    return measured(loss, policy, gradients_file(folder, "ours", name), advantages=torch.cat(seen).tolist())


def theirs(folder: Path) -> Found:
    """TRL's side; run by the interpreter of the peers."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    shared = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": ROWS, "max_steps": 1, "report_to": "none", "disable_tqdm": True,
        "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "max_length": 2048,
    }  # fmt: skip
    in_order = {**shared, "train_sampling_strategy": "sequential"}
    demonstrations, pairs = (Dataset.from_list(work.rows(folder, name)[:ROWS]) for name in ("demonstrations", "pairs"))
    singles = [
        {"prompt": row["prompt"], "completion": row[("chosen", "rejected")[i % 2]], "label": i % 2 == 0} for i, row in enumerate(pairs)
    ]

    def policy(name: str = "model") -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)

    def dpo_options(loss: str = "sigmoid", label_smoothing: float = 0.0) -> dict[str, Any]:
        return {"loss_type": [loss], "label_smoothing": label_smoothing, "beta": BETA}

    def sampled(name: str) -> dict[str, Any]:
        """One iteration of an online trainer on four prompts."""
        rows = [{"prompt": row["prompt"]} for row in pairs.select(range(4)) for _ in range(ANSWERS)]
        options = {**shared, "per_device_train_batch_size": len(rows), "beta": KL_BETA}
        options |= {"num_generations": ANSWERS, "max_completion_length": LONGEST}
        options["generation_kwargs"] = {"sequence_bias": [[[tokenizer.eos_token_id], END_BIAS]]}
        options.pop("max_length")
        words = {"train_dataset": Dataset.from_list(rows), "reward_funcs": vowels, "processing_class": tokenizer}
        if name == "rloo":
            made = trl.RLOOTrainer(policy(), args=trl.RLOOConfig(**options), **words)
        else:
            made = trl.GRPOTrainer(policy(), args=trl.GRPOConfig(**options, **ONLINE[name][1]), **words)
        made.ref_model.load_state_dict(policy("reference").state_dict())
        made.current_gradient_accumulation_steps = 1
        torch.manual_seed(0)
        given = made._generate_and_score_completions(rows)
        masks = given["prompt_mask"].bool(), given["completion_mask"].bool()
        prompts, completions = ([ids[mask].tolist() for ids, mask in zip(given[f"{part}_ids"], found, strict=True)]
                                for part, found in zip(("prompt", "completion"), masks, strict=True))  # fmt: skip
        samples = {"prompts": prompts, "completions": completions, "rewards": vowels(completions)}
        loss = made.compute_loss(made.model, given)
        file = gradients_file(folder, "TRL", name)
        return measured(loss, made.model, file, advantages=given["advantages"].tolist(), samples=samples)

    def trainer(name: str) -> Any:
        if name == "sft":
            return trl.SFTTrainer(policy(), args=trl.SFTConfig(**in_order), train_dataset=demonstrations, processing_class=tokenizer)
        if name == "reward":
            scorer = AutoModelForSequenceClassification.from_pretrained(folder / "scorer", dtype=torch.float32, num_labels=1)
            return trl.RewardTrainer(scorer, args=trl.RewardConfig(**in_order), train_dataset=pairs, processing_class=tokenizer)
        if name == "simpo":
            args = CPOConfig(**shared, loss_type="simpo", cpo_alpha=0.0, beta=BETA, simpo_gamma=GAMMA)
            return CPOTrainer(policy(), args=args, train_dataset=pairs, processing_class=tokenizer)
        if name == "kto":  # TRL's mismatched answer is the one before, trimtab's the one after: the other way round they are the same
            data = Dataset.from_list(singles[::-1])
            args = trl.KTOConfig(**in_order, beta=BETA)
            return trl.KTOTrainer(policy(), policy("reference"), args=args, train_dataset=data, processing_class=tokenizer)
        args = trl.DPOConfig(**in_order, **dpo_options(**DPO[name]))
        return trl.DPOTrainer(policy(), policy("reference"), args=args, train_dataset=pairs, processing_class=tokenizer)

    out = {}
    for name in NAMES:
        if name in ONLINE:
            out[name] = sampled(name)
            continue
        made = trainer(name)
        (batch,) = list(made.get_train_dataloader())
        out[name] = measured(made.compute_loss(made.model, copy.copy(batch)), made.model, gradients_file(folder, "TRL", name))
    return out


def tensors_apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The tensor of a gradient that is furthest from TRL's: ||dg|| / max(||g||, 1e-3 ||g of all||), since some true gradients are zero."""
    assert found.keys() == expected.keys()
    everything = float(torch.nn.utils.get_total_norm(expected.values()))
    apart = {n: float((found[n] - g).norm()) / max(float(g.norm()), 1e-3 * everything) for n, g in expected.items()}
    worst = max(apart, key=apart.__getitem__)
    return {"count": len(apart), "worst": worst, "apart": apart[worst]}


def compared(folder: Path, found: Found, expected: Found) -> dict[str, dict[str, Any]]:
    """Of each method and quantity (ours, TRL's) and how far they are apart: in units of the larger of 1 and TRL's value; ``tensors``: of
    the gradient, tensor by tensor."""
    out: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        quantities = [q for q in found[name] if q in expected[name] and (name, q) != ("rloo", "loss")]
        out[name] = {}
        for quantity in quantities:
            mine, theirs = found[name][quantity], expected[name][quantity]
            pairs = zip(mine, theirs, strict=True) if quantity == "advantages" else [(mine, theirs)]
            apart = max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)
            out[name][quantity] = {"ours": mine, "TRL": theirs, "apart": apart}
        out[name]["tensors"] = tensors_apart(*(load_file(gradients_file(folder, side, name)) for side in ("ours", "TRL")))
        if name in ONLINE:
            out[name]["advantages"]["lengths"] = [len(ids) for ids in expected[name]["samples"]["completions"]]
    return out


def assert_it_can_fail(figures: dict[str, dict[str, Any]]) -> None:
    """Margins that the reward model's loss feels; answers of every prompt that differ in length, some of them cut."""
    assert abs(figures["reward"]["loss"]["TRL"] - math.log(2)) > 0.01, figures["reward"]["loss"]
    for name in ONLINE:
        lengths = figures[name]["advantages"]["lengths"]
        groups = [set(lengths[i : i + ANSWERS]) for i in range(0, len(lengths), ANSWERS)]
        assert max(lengths) == LONGEST and min(map(len, groups)) > 1, (name, lengths)


def table(figures: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each method."""
    lines = [f"{'':14} {'loss':>12} {'TRL':>12} {'gradient':>12} {'TRL':>12} {'advantages':>12} {'apart':>9} {'tensors':>9}"]
    for name, row in figures.items():
        cells = [f"{row[q][side]:12.6f}" if q in row else f"{'-':>12}" for q in ("loss", "gradient") for side in ("ours", "TRL")]
        advantages = f"{len(row['advantages']['ours'])} compared" if "advantages" in row else "-"
        apart = max(row[q]["apart"] for q in ("loss", "gradient", "advantages") if q in row)
        lines.append(f"{name:14} {' '.join(cells)} {advantages:>12} {apart:9.1e} {row['tensors']['apart']:9.1e}")
    return lines


def main() -> int:
    """Both sides, then the table; 1 where they differ."""
    if sys.argv[1:2] == ["--theirs"]:
        print("FOUND " + json.dumps(theirs(Path(sys.argv[2]))))
        return 0
    folder = prepare()
    peer = os.environ.get("BENCH_PEERS", str(work.ROOT / ".venv-peers" / "bin" / "python"))
    done = subprocess.run([peer, __file__, "--theirs", str(folder)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        print(done.stderr[-3000:], file=sys.stderr)
        return 1
    expected = json.loads(lines[0].removeprefix("FOUND "))
    figures = compared(folder, ours(folder, expected), expected)
    assert_it_can_fail(figures)
    print("\n".join(table(figures)))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(figures) + "\n")
    return int(not all(q["apart"] <= TOLERANCE for row in figures.values() for q in row.values()))


if __name__ == "__main__":
    sys.exit(main())
