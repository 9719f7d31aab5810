"""Run by test_device.py in a process of its own: every method, sampling and a resumed checkpoint on the strict device of away.py.

Prints what agrees with the CPU; fails at the first thing that does not, or that mixes devices.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from away import NAME, away
from test_loop import ON_RANKINGS, ONLINE, SETTINGS, Killed, adapted, dpo, killing, metrics, online, reward, sft
from tiny_models import save_tiny_policy
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common import precision
from trimtab.models import fisher
from trimtab.models.fisher import HeadInputs
from trimtab.models.load import load_policy
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import SamplingOptions
from trimtab.training.folder import RunFolder
from trimtab.training.loop import train
from trimtab.training.method import Method
from trimtab.trees import TreeBatch

STEPS = 3


def run(method: Method, path: Path) -> dict[tuple[int, str], float]:
    folder = RunFolder(path)
    folder.begin(method.name, SETTINGS.model_dump())
    try:
        train(method, SETTINGS, folder, STEPS)
    finally:
        folder.let_go()
    return metrics(path)


def forward_mode_at_home(twin: PreTrainedModel) -> None:
    """The make-believe device has no dual tensors (torch takes their wrapper apart): TRPO's forward-mode pass, and nothing else of it, is
    computed by ``twin`` on the CPU."""
    true = fisher._forward_mode

    def at_home(model: PreTrainedModel, batch: TreeBatch, vector: Mapping[str, Tensor]) -> tuple[HeadInputs, ...]:
        if model.device.type == "cpu":
            return true(model, batch, vector)
        twin.load_state_dict({name: t.cpu() for name, t in model.state_dict().items()})
        found = true(twin, batch.to("cpu"), {name: t.cpu() for name, t in vector.items()})
        return tuple(HeadInputs(*(None if t is None else t.to(model.device) for t in part)) for part in found)

    fisher._forward_mode = at_home


def main(work: Path) -> None:
    precision.fast_in_bf16 = lambda kind: False  # both sides in float32
    start = save_tiny_policy(work / "start")
    makers = {"sft": sft, "dpo": dpo, "reward": reward}
    makers |= {name: ON_RANKINGS[name] for name in ("kto", "slic")}  # the others take no path that these do not
    makers |= {name: partial(online, name, start) for name in ONLINE}
    makers["adapters"] = lambda: adapted("dpo", start)
    prompts, options = [[5, 9, 12, 7], [30, 31]], SamplingOptions(max_tokens=12)
    with away() as device:  # before the first backward of this process
        pass
    forward_mode_at_home(load_policy(start))
    expected = {name: run(make(), work / "cpu" / name) for name, make in makers.items()}
    drawn = NativeEngine(load_policy(start), 1).sample(prompts, 3, options, ["a", "b"])
    with away() as device:
        policy = load_policy(start)
        assert policy.device == device and next(policy.parameters()).device.type == NAME
        again = NativeEngine(policy, 1).sample(prompts, 3, options, ["a", "b"])
        assert [[s.token_ids for s in row] for row in again] == [[s.token_ids for s in row] for row in drawn]
        print("sampling")
        for name, make in makers.items():

            def there() -> Method:
                method = make()  # noqa: B023 - called before the next turn
                for module in vars(method).values():
                    if isinstance(module, nn.Module):
                        module.to(device)
                return method

            try:
                run(killing(there(), 5), work / "away" / name)
            except Killed:
                pass
            found = run(there(), work / "away" / name)
            assert found.keys() == expected[name].keys(), name
            for key, value in expected[name].items():
                # Ten steps of conjugate gradient multiply rounding, in what is left of the gradient first; after a step of such a size a
                # token may be drawn otherwise.
                if name == "trpo" and key[0] > 1:
                    continue
                rtol = 1e-2 if key[1] == "trust/residual" else 1e-3
                assert np.isclose(found[key], value, rtol=rtol, atol=1e-4), (name, key, found[key], value)
            print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
