"""What DPO spends with a live reference and with its logprobs kept on disk: operations and seconds of a step, peak memory of the process.

    python bench/reference.py live|kept [SIZE] [STEPS]      prints one line of JSON

The benchmark's model (134M parameters unless SIZE says tiny) and pairs, 8 a step; ``kept`` computes the file first, in the same process.
Operations are those of matrix products and attention, counted by torch as they are run.
"""

import json
import statistics
import sys
import tempfile
import time

import work
from torch.utils.flop_counter import FlopCounterMode

from trimtab.common.memory import keep_freed_memory
from trimtab.data.encode import comparison_trees
from trimtab.data.formats import read_comparisons
from trimtab.data.template import Renderer
from trimtab.methods.dpo import DPO
from trimtab.methods.offline import FixedData
from trimtab.methods.reference import kept_logprobs
from trimtab.models.load import load_policy, load_tokenizer
from trimtab.training.loop import Learner
from trimtab.training.method import State
from trimtab.training.settings import TrainingSettings


def main(side: str, size: str = "134M", steps: str = "4") -> None:
    """Trains ``steps`` steps, the first of which is only counted."""
    keep_freed_memory()
    folder, settings = work.prepare(size), TrainingSettings(lr=1e-6, schedule="constant", warmup=0.0)
    pairs = read_comparisons(str(folder / "native-pairs.jsonl"))[: 2 * work.BATCH]
    trees, _ = comparison_trees(pairs, Renderer(load_tokenizer(folder / "model")), 1024)
    data = FixedData(trees, batch_size=work.BATCH, budget=settings.micro_batch_tokens)
    policy = load_policy(folder / "model")
    with tempfile.TemporaryDirectory() as cache:
        if side == "kept":
            reference = kept_logprobs("dpo", cache, policy, data, int(steps), settings.dtype)
            method = DPO(policy, reference, data, beta=work.BETA)
        else:
            method = DPO(policy, load_policy(folder / "model"), data, beta=work.BETA)
    learner, seconds = Learner(method, settings), []
    with FlopCounterMode(display=False) as counter:
        method.update(method.batches(State(0, int(steps))), learner, "step 1")
    for i in range(1, int(steps)):
        began = time.perf_counter()
        method.update(method.batches(State(i, int(steps))), learner, f"step {i + 1}")
        seconds.append(time.perf_counter() - began)
    measured = {"operations": counter.get_total_flops(), "seconds": statistics.median(seconds), "peak_bytes": work.peak_bytes()}
    print("MEASURED " + json.dumps({**measured, "parameters": sum(p.numel() for p in policy.parameters())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
