"""The benchmark's workload, the same for both sides: one model with random weights, one scorer, one file of texts.

Imported by ours.py (trimtab) and peer.py (TRL, transformers), so it knows neither.
"""

import gzip
import json
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("BENCH_FOLDER", ROOT / "runs" / "bench"))
PAIRS = Path(os.environ.get("BENCH_PAIRS", ROOT.parent / "shared" / "data" / "preferences" / "hh_harmless.jsonl.gz"))
END = "<|endoftext|>"
# A chat template that adds nothing but the end token: HH-RLHF's texts hold their turns already.
PLAIN = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
# The 134M model of SmolLM's shape, for GPUs one of Llama 3.2 1B's, and one for a test of this benchmark.
SIZES = {
    "134M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
             "vocab_size": 49152},
    "1B": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
           "vocab_size": 128256},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64,
             "vocab_size": 49152},
}  # fmt: skip
SCALE = {"1B": 16}  # how many times the work of a step; peers accumulate so many batches
BATCH = 8  # pairs, rankings or demonstrations of a step, times SCALE
NEW_TOKENS = 64
PROMPTS = 64  # what PPO and RLOO ask, times SCALE, in the file's order
LONGEST = 512  # of a prompt with an answer; longer pairs are left out
# What both sides are trained with.
LR, BETA, KL_BETA = 1e-6, 0.1, 0.05
ADAM_BETA2 = 0.99


@dataclass(frozen=True)
class Work:
    """One thing that is timed. ``prompts`` x ``answers`` are sampled, where something is."""

    what: str
    prompts: int = 0
    answers: int = 0


def works(scale: int = 1) -> dict[str, Work]:
    """What is timed: ``scale`` times the least of it."""
    return {
        "sft": Work(f"SFT step, {BATCH * scale} demonstrations"),
        "reward": Work(f"reward model step, {BATCH * scale} pairs"),
        "rankings": Work(f"reward model step, {BATCH * scale} rankings of 4"),
        "dpo": Work(f"DPO step, {BATCH * scale} pairs"),
        "rloo": Work(f"RLOO iteration, {4 * scale} prompts x 4 answers of 64 tokens", 4 * scale, 4),
        "ppo": Work(f"PPO iteration, {8 * scale} prompts x 1 answer of 64 tokens", 8 * scale, 1),
        "generate": Work(f"sampling, {8 * scale} prompts x 4 answers of 64 tokens", 8 * scale, 4),
        "generate32": Work(f"sampling, {32 * scale} prompts x 1 answer of 64 tokens", 32 * scale, 1),
    }


WORKS = works()


def scale_of(folder: Path) -> int:
    """How many times the work of a step is done on the model in ``folder``."""
    return SCALE.get(folder.name, 1)


@dataclass
class Measured:
    """What one process measured; the first step is left out of ``seconds`` by whoever takes the median."""

    side: str
    work: str
    seconds: list[float]
    losses: list[float]
    tokens: list[int]  # useful tokens of each step: a prompt once, its answers, no padding
    flops: list[float]  # useful operations of each step (ours only)
    matrix_peak: float  # best bf16 (float32 where bf16 is slow) product of this process, operations a second
    peak_bytes: int
    parameters: int
    scores: list[float] = field(default_factory=list)  # PPO and RLOO: what the reward model says of a step's answers, on average
    kl: list[float] = field(default_factory=list)  # and their summed log ratio to the reference, nats an answer

    def print(self) -> None:
        print("MEASURED " + json.dumps(asdict(self)), flush=True)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """One of the workload's files: pairs, demonstrations or rankings."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def prepare(size: str) -> Path:
    """Makes the folder of one size, where it is not there yet: model, scorer, tokenizer, texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    folder = FOLDER / size
    if (folder / "pairs.jsonl").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(read_pairs(PAIRS)) if PAIRS.exists() else list(made_pairs())
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=[END, "<|pad|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator((text for pair in pairs for text in pair.values()), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token="<|pad|>", padding_side="left")
    tokenizer.chat_template = PLAIN
    config = LlamaConfig(
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **SIZES[size],
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
        scorer = LlamaForSequenceClassification(LlamaConfig(**{**config.to_dict(), "num_labels": 1}))
    scorer.model.load_state_dict(model.model.state_dict())
    for made, name in ((model, "model"), (scorer, "scorer")):
        made.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    kept = [p for p in pairs if max(len(tokenizer(p["prompt"] + p[a]).input_ids) for a in ("chosen", "rejected")) < LONGEST]
    # ours as native records: in TRL's format a prompt that is a transcript would be read as turns
    demonstrations = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in kept]
    files = {"demonstrations": demonstrations, "pairs": kept, "rankings": rankings(kept)}
    files["native-demonstrations"] = [native(i, p["prompt"], completion=p["chosen"]) for i, p in enumerate(kept)]
    files["native-pairs"] = [native_ranking(i, p["prompt"], [p["chosen"], p["rejected"]]) for i, p in enumerate(kept)]
    for name, made in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return folder


def read_pairs(path: Path) -> Iterator[dict[str, str]]:
    """HH-RLHF: what two transcripts share up to the last turn is the prompt."""
    turn = "\n\nAssistant:"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            chosen, rejected = row["chosen"], row["rejected"]
            end = chosen.rfind(turn) + len(turn)
            if chosen[:end] == rejected[:end] and chosen[end:].strip() and rejected[end:].strip():
                yield {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def made_pairs(count: int = 600) -> Iterator[dict[str, str]]:
    """Where HH-RLHF is not at hand: texts of random words, as long as its pairs are (129, 40 and 51 tokens on average)."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(4000)]

    def text(mean: float) -> str:
        return "".join(" " + word for word in draw.choices(words, k=max(4, min(220, round(draw.expovariate(1 / mean))))))

    for _ in range(count):
        yield {"prompt": f"\n\nHuman:{text(115)}\n\nAssistant:", "chosen": text(38), "rejected": text(48)}


def rankings(pairs: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Rankings of four as trimtab's native records: a pair's own two answers, then the next pair's two."""
    both = enumerate(zip(pairs, [*pairs[1:], pairs[0]], strict=True))
    return [native_ranking(i, p["prompt"], [p["chosen"], p["rejected"], q["chosen"], q["rejected"]]) for i, (p, q) in both]


def native(number: int, prompt: str, **more: Any) -> dict[str, Any]:
    """A native record whose one message is the whole prompt."""
    return {"id": str(number), "messages": [{"role": "user", "content": prompt}], **more}


def native_ranking(number: int, prompt: str, texts: Sequence[str]) -> dict[str, Any]:
    """Answers in the order of their ranks."""
    return native(number, prompt, completions=[{"text": t} for t in texts], ranks=[*range(1, len(texts) + 1)])


def matrix_peak(dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations a second of the best of a few large products, on the GPU where there is one."""
    gpu = torch.cuda.is_available()
    size = 8192 if gpu else 2048
    a, b = (torch.randn(size, size, device="cuda" if gpu else "cpu").to(dtype) for _ in range(2))
    out = a @ b
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b, out=out))[0] for _ in range(repeats))


def fast_dtype() -> torch.dtype:
    """The format of matrix products that this machine is fast in."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def peak_bytes() -> int:
    """The most memory that this process held: of the GPU where there is one, otherwise resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one step, and what it returned; a GPU is waited for."""
    wait()
    began = time.perf_counter()
    out = step()
    wait()
    return time.perf_counter() - began, out


Way = Callable[[], tuple[float, ...]]  # its times, seconds: of a forward pass, and of a backward pass if it makes one


def compared(what: str, plain: Way, compiled: Way, rounds: int) -> str:
    """A row of a table in docs/performance.md, "Compiled code": two ways in turn, the medians of ``rounds`` after a first one, ms."""
    taken: tuple[list[tuple[float, ...]], ...] = ([], [])
    for _ in range(rounds + 1):
        for into, way in zip(taken, (plain, compiled), strict=True):
            into.append(way())
    medians = [[1e3 * statistics.median(t) for t in zip(*times[1:], strict=True)] for times in taken]
    cells = [" + ".join(f"{t:.3g}" for t in side) for side in medians]
    ratios = ", ".join(f"{a / b:.1f}" for a, b in zip(*medians, strict=True))
    return f"| {what} | {' | '.join(cells)} | {ratios} |"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
