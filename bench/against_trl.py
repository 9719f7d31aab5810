"""trimtab's losses and gradients against TRL's own: the same weights, the same texts, float32, on the CPU.

    python bench/against_trl.py          prints a line for each method and fails where the two sides differ by more than 1e-4

TRL 1.16 runs in .venv-peers (BENCH_PEERS names another interpreter) through its trainers' own data pipeline, collator and
``compute_loss``; trimtab through the functions of its command line. The model is small and random, its reference another one. Where
a definition differs on purpose the two are not compared: ORPO's cross-entropy (TRL's takes in the prompt), the losses that TRL lacks.
"""

import copy
import json
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

ROWS = 8
BETA, SMOOTHING, GAMMA = 0.3, 0.1, 0.7
DPO = {
    "dpo": {}, "dpo ipo": {"loss": "ipo"}, "dpo hinge": {"loss": "hinge"}, "dpo robust": {"loss": "robust", "label_smoothing": SMOOTHING}
}  # fmt: skip
NAMES = ("sft", "reward", *DPO, "simpo", "kto")
TOLERANCE = 1e-4
Found = dict[str, tuple[float, float]]  # method -> loss, norm of the gradient


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
        model.save_pretrained(folder / target)
    return folder


def measured(loss: torch.Tensor, model: torch.nn.Module) -> tuple[float, float]:
    """Loss and norm of the gradient, which is taken away."""
    loss.backward()
    found = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    return float(loss.detach()), found


def ours(folder: Path) -> Found:
    """trimtab's side."""
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
        out[name] = measured(torch.stack(losses).sum(), model)
    return out


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
        made = trainer(name)
        (batch,) = list(made.get_train_dataloader())
        out[name] = measured(made.compute_loss(made.model, copy.copy(batch)), made.model)
    return out


def main() -> int:
    """Both sides, then the table; 1 where they differ."""
    if len(sys.argv) > 1:
        print("FOUND " + json.dumps(theirs(Path(sys.argv[1]))))
        return 0
    folder = prepare()
    peer = os.environ.get("BENCH_PEERS", str(work.ROOT / ".venv-peers" / "bin" / "python"))
    done = subprocess.run([peer, __file__, str(folder)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        print(done.stderr[-3000:], file=sys.stderr)
        return 1
    expected, found, worst = json.loads(lines[0].removeprefix("FOUND ")), ours(folder), 0.0
    print(f"{'':12} {'loss':>12} {'TRL':>12} {'gradient':>12} {'TRL':>12} {'apart':>9}")
    for name in NAMES:
        (loss, norm), (their_loss, their_norm) = found[name], expected[name]
        apart = max(abs(loss - their_loss) / max(1.0, abs(their_loss)), abs(norm - their_norm) / max(1.0, their_norm))
        worst = max(worst, apart)
        print(f"{name:12} {loss:12.6f} {their_loss:12.6f} {norm:12.6f} {their_norm:12.6f} {apart:9.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
