"""Where the time goes: ``python bench/spent.py WORK [WARM [SIZE]]`` profiles one step after WARM others and prints a line of JSON."""

import json
import sys

import ours
import torch
import work

from trimtab.common.memory import keep_freed_memory

# Operators' own time by what they are for; the first that fits. What is in none is "the rest": Python, views, allocation.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise", "mkldnn::_reorder_linear_weight"),
    "attention kernels": ("trimtab_trees", "trimtab_step", "aten::_scaled_dot_product_flash", "aten::bmm", "aten::_softmax"),
    "gathering and scattering": ("aten::index", "aten::gather", "aten::scatter", "aten::_embedding_bag", "aten::_index_put"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero_"),
    "optimizer and clipping": ("aten::_fused_adamw", "aten::linalg_vector_norm", "aten::_foreach"),
    "norms, rotations, activations, sums": (
        "aten::mul", "aten::add", "aten::silu", "aten::pow", "aten::rsqrt", "aten::mean", "aten::exp", "aten::sum", "aten::neg",
        "aten::div", "aten::sub", "aten::amax", "aten::log", "aten::sigmoid", "trimtab_",
    ),
}  # fmt: skip


def kind_of(operator: str) -> str:
    return next((kind for kind, names in KINDS.items() if operator.startswith(names)), "the rest")


def main(name: str, warm: str = "3", size: str = "134M") -> None:
    keep_freed_memory()
    side = ours.side_of(name, work.prepare(size))
    for i in range(int(warm)):
        side.step(i)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        seconds, _ = work.timed(lambda: side.step(int(warm)))
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profile.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    print("PROFILE " + json.dumps({"work": name, "seconds": seconds, "spent": spent}))


if __name__ == "__main__":
    main(*sys.argv[1:])
