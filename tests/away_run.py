"""Run by test_device.py in a process of its own: every method, sampling and a resumed checkpoint on the strict device of away.py.

Prints what agrees with the CPU; fails at the first thing that does not, or that mixes devices.
"""

import sys
from pathlib import Path

import numpy as np
from away import NAME, away
from test_loop import SETTINGS, Killed, adapted, dpo, killing, metrics, online, reward, sft
from tiny_models import save_tiny_policy
from torch import nn

from trimtab.common import precision
from trimtab.models.load import load_policy
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import SamplingOptions
from trimtab.training.folder import RunFolder
from trimtab.training.loop import train
from trimtab.training.method import Method

STEPS = 3


def run(method: Method, path: Path) -> dict[tuple[int, str], float]:
    folder = RunFolder(path)
    folder.begin(method.name, SETTINGS.model_dump())
    try:
        train(method, SETTINGS, folder, STEPS)
    finally:
        folder.let_go()
    return metrics(path)


def main(work: Path) -> None:
    precision.fast_in_bf16 = lambda kind: False  # both sides in float32
    start = save_tiny_policy(work / "start")
    makers = {"sft": sft, "dpo": dpo, "reward": reward, "ppo": lambda: online("ppo", start), "rloo": lambda: online("rloo", start)}
    makers["adapters"] = lambda: adapted("dpo", start)
    prompts, options = [[5, 9, 12, 7], [30, 31]], SamplingOptions(max_tokens=12)
    with away() as device:  # before the first backward of this process
        pass
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
                assert np.isclose(found[key], value, rtol=1e-3, atol=1e-4), (name, key, found[key], value)
            print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
