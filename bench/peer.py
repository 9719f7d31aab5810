"""The other side of the benchmark, run in .venv-peers: TRL 1.16 (SFT, reward, DPO, RLOO), TRL 1.9's last PPO, transformers' generate.

    .venv-peers/bin/python bench/peer.py WORK STEPS [SIZE] [checkpointing=off] [float32]

Trainers run with their own defaults but for what makes it the same work: batch, lr, constant schedule, the data's order, 64 tokens an
answer.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import work
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from work import ADAM_BETA2, BATCH, BETA, KL_BETA, LR, NEW_TOKENS, WORKS, Measured


class Clock(TrainerCallback):
    """Seconds from step to step, everything between them included, and what the trainer logs: losses; where it samples, scores and the KL
    of an answer (RLOO's is of a token: ``kl_of`` times it)."""

    def __init__(self, out: Measured, loss: str = "loss", score: str = "reward", kl: str = "kl", kl_of: int = NEW_TOKENS) -> None:
        self.out, self.last = out, 0.0
        self.noted = ((loss, out.losses, 1), (score, out.scores, 1), (kl, out.kl, kl_of))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        work.wait()
        self.out.seconds.append(time.perf_counter() - self.last)
        self.out.matrix_peak = max(self.out.matrix_peak, work.matrix_peak(work.fast_dtype()))
        self.last = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for name, into, times in self.noted:
            if name in (logs or {}):
                into.append(float(logs[name]) * times)


def policy(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)


def scorer(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder / "scorer", dtype=torch.float32, num_labels=1)


def common(steps: int, batch: int, scale: int, checkpointing: bool, bf16: bool) -> dict[str, Any]:
    """Options of every trainer: ``scale`` batches of ``batch`` a step."""
    out = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch, "max_steps": steps, "learning_rate": LR,
        "lr_scheduler_type": "constant", "adam_beta2": ADAM_BETA2, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "bf16": bf16, "use_cpu": not torch.cuda.is_available(), "gradient_accumulation_steps": scale,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    return out if checkpointing else {**out, "gradient_checkpointing": False}


def as_pairs(folder: Path) -> Dataset:
    """Each ranking of four as the six pairs that TRL reads."""
    made = []
    for row in work.rows(folder, "rankings"):
        texts = [c["text"] for c in row["completions"]]
        prompt = row["messages"][0]["content"]
        made += [{"prompt": prompt, "chosen": texts[a], "rejected": texts[b]} for a in range(4) for b in range(a + 1, 4)]
    return Dataset.from_list(made)


def train(name: str, steps: int, folder: Path, out: Measured, checkpointing: bool, bf16: bool) -> None:
    """One of TRL 1.16's trainers."""
    import trl

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pairs = Dataset.from_list(work.rows(folder, "pairs"))
    scale, what = work.scale_of(folder), WORKS[name]
    batch = {"rankings": 6 * BATCH, "rloo": what.prompts * what.answers}.get(name, BATCH)
    options = common(steps, batch, scale, checkpointing, bf16)
    clock = Clock(out)
    trainer: Any
    if name == "sft":
        data = Dataset.from_list(work.rows(folder, "demonstrations"))
        trainer = trl.SFTTrainer(
            policy(folder), args=trl.SFTConfig(**options), train_dataset=data, processing_class=tokenizer, callbacks=[clock]
        )
    elif name in ("reward", "rankings"):
        data = pairs if name == "reward" else as_pairs(folder)
        trainer = trl.RewardTrainer(
            scorer(folder), args=trl.RewardConfig(**options), train_dataset=data, processing_class=tokenizer, callbacks=[clock]
        )
    elif name == "dpo":
        trainer = trl.DPOTrainer(
            policy(folder), policy(folder), args=trl.DPOConfig(beta=BETA, **options), train_dataset=pairs, processing_class=tokenizer,
            callbacks=[clock],
        )  # fmt: skip
    else:
        args = trl.RLOOConfig(
            **options, num_generations=what.answers, max_completion_length=NEW_TOKENS, beta=KL_BETA, shuffle_dataset=False,
            generation_kwargs={"min_new_tokens": NEW_TOKENS},
        )  # fmt: skip
        prompts = pairs.select_columns(["prompt"]).select(range(work.PROMPTS * scale))
        trainer = trl.RLOOTrainer(
            policy(folder), scorer(folder), args=args, train_dataset=prompts, processing_class=tokenizer,
            reward_processing_classes=tokenizer, callbacks=[clock],
        )  # fmt: skip
    trainer.train()
    out.parameters = sum(p.numel() for p in trainer.model.parameters())


def train_ppo(steps: int, folder: Path, out: Measured, checkpointing: bool, bf16: bool) -> None:
    """TRL 1.9's PPO; TRL 1.16 has none."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    loader = ppo_trainer.DataLoader  # it has no option for the data's own order
    ppo_trainer.DataLoader = lambda *words, **options: loader(*words, **{**options, "shuffle": False})
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    size, scale = WORKS["ppo"].prompts, work.scale_of(folder)
    options = common(steps, size, scale, checkpointing, bf16)
    options.pop("max_steps")
    rows = work.rows(folder, "pairs")[: work.PROMPTS * scale]
    data = Dataset.from_list([{"input_ids": tokenizer(row["prompt"]).input_ids} for row in rows])
    args = PPOConfig(
        **options, total_episodes=size * scale * steps, num_ppo_epochs=1, response_length=NEW_TOKENS, temperature=1.0, kl_coef=KL_BETA,
        num_sample_generations=0,
    )  # fmt: skip
    trainer = PPOTrainer(
        args, tokenizer, policy(folder), policy(folder), scorer(folder), data, scorer(folder), eval_dataset=data,
        callbacks=[Clock(out, "loss/policy_avg", "objective/scores", "objective/kl", 1)],
    )  # fmt: skip
    trainer.train()
    out.parameters = sum(p.numel() for m in (trainer.policy_model, trainer.value_model) for p in m.parameters())


@torch.no_grad()
def generate(name: str, steps: int, folder: Path, out: Measured, bf16: bool) -> None:
    """transformers' ``generate``; its weights are bf16 where that is asked, as people load them to sample."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16 if bf16 else torch.float32).eval()
    model, rows = model.to("cuda" if torch.cuda.is_available() else "cpu"), work.rows(folder, "pairs")
    what = work.works(work.scale_of(folder))[name]
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0}
    for i in range(steps):
        texts = [row["prompt"] for row in rows[i * what.prompts : (i + 1) * what.prompts]]
        inputs = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
        seconds, made = work.timed(
            lambda inputs=inputs: model.generate(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, num_return_sequences=what.answers, **options
            )
        )
        out.seconds.append(seconds)
        out.tokens.append(len(made) * (made.shape[1] - inputs.input_ids.shape[1]))
        out.matrix_peak = max(out.matrix_peak, work.matrix_peak(work.fast_dtype()))
    out.parameters = sum(p.numel() for p in model.parameters())


def main(name: str, steps: str, size: str = "134M", *words: str) -> None:
    folder = work.FOLDER / size  # made by our side
    checkpointing, bf16 = "checkpointing=off" not in words, "float32" not in words and work.fast_dtype() == torch.bfloat16
    out = Measured("peer", name, [], [], [], [], 0.0, 0, 0)
    if name.startswith("generate"):
        generate(name, int(steps) + 1, folder, out, bf16)
    elif name == "ppo":
        train_ppo(int(steps) + 1, folder, out, checkpointing, bf16)
    else:
        train(name, int(steps) + 1, folder, out, checkpointing, bf16)
    out.peak_bytes = work.peak_bytes()
    out.print()


if __name__ == "__main__":
    main(*sys.argv[1:])
