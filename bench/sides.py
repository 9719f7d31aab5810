"""Who is measured in the benchmark, how each is set, and what is asked of the ratio of their speeds."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from work import ROOT, fast_dtype

GPU = torch.cuda.is_available()
PEERS = Path(os.environ.get("BENCH_PEERS", ROOT / ".venv-peers" / "bin" / "python"))
TRL_1_9 = os.environ.get("BENCH_TRL_1_9", str(ROOT / ".venv-peers" / "trl-1.9"))
TRAINED = ("sft", "reward", "rankings", "dpo", "rloo", "ppo")
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}
RECOMPUTED = "trimtab, checkpointing"  # activations computed again, as TRL is shipped: for its memory
Setting = tuple[Mapping[str, str], Sequence[str]]  # environment, words for peer.py
OWN: dict[str, Setting] = {"trimtab": ({}, ()), RECOMPUTED: ({"BENCH_CHECKPOINTING": "1"}, ())}
SIDES: dict[str, Setting] = {
    "as shipped": ({}, ()), "tuned allocator": (TUNED, ()), "tuned, no checkpointing": (TUNED, ("checkpointing=off",)),
}  # fmt: skip
SAMPLERS: dict[str, Setting] = {
    "bf16": ({}, ()), "float32": ({}, ("float32",)), "bf16, tuned allocator": (TUNED, ()),
    "float32, tuned allocator": (TUNED, ("float32",)),
}  # fmt: skip
GPU_SIDES: dict[str, Setting] = {"as shipped": ({}, ()), "no checkpointing": ({}, ("checkpointing=off",))}
# work -> side -> the ratio of speeds that is asked for
ASKED: dict[str, dict[str, float]] = {
    "sft": {"as shipped": 4, "tuned allocator": 3, "tuned, no checkpointing": 2.5},
    "reward": {"as shipped": 4, "tuned allocator": 4, "tuned, no checkpointing": 3},
    "rankings": {"as shipped": 12},
    "dpo": {"as shipped": 8, "tuned allocator": 5, "tuned, no checkpointing": 5},
    "rloo": {"as shipped": 10, "tuned allocator": 5, "tuned, no checkpointing": 5},
    "ppo": {"as shipped": 10, "tuned allocator": 8, "tuned, no checkpointing": 8},
    "generate": {"bf16": 4, "float32": 8, "bf16, tuned allocator": 3, "float32, tuned allocator": 6},
    "generate32": {"bf16": 4, "float32": 8, "bf16, tuned allocator": 3, "float32, tuned allocator": 6},
}
MEMORY = 0.6  # of what the peer needs beyond weights, gradients and moments, that trimtab may need, checkpointing alike


def sides(work: str, gpu: bool = GPU) -> dict[str, Setting]:
    """The peer's settings for one work."""
    if gpu:
        return GPU_SIDES if work in TRAINED else {"bf16": SAMPLERS["bf16"]}
    if work == "rankings":  # TRL takes three minutes for its 48 pairs: the one setting that is asked about
        return {"as shipped": SIDES["as shipped"]}
    return SIDES if work in TRAINED else SAMPLERS


def measured_here(work: str) -> list[str]:
    """Those that this machine can measure in finite time: where bf16 is emulated, none that computes in it."""
    return [side for side in sides(work) if work in TRAINED or side.startswith("float32") or fast_dtype() == torch.bfloat16]
