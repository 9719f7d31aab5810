"""The loop: a run that is stopped at any moment and goes on is the run that was never stopped, bit for bit."""

import copy
import importlib
import json
import math
import os
import pkgutil
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    SETTINGS,
    STEPS,
    Killed,
    counting,
    killing,
    metrics,
    offline,
    outcome,
    pressing,
    run,
    sft,
    trees,
)
from tiny_models import FAMILIES, online_parts, pair, read_lines, save_tiny_policy
from torch import Tensor, nn
from torch._dynamo.utils import counters

import trimtab.methods
from trimtab.common import precision
from trimtab.common.errors import RunFailed, UserError
from trimtab.feedback.protocol import Rule
from trimtab.methods import bon, grpo, ppo, rloo, scst, trpo
from trimtab.methods.control import KLControl, Penalty
from trimtab.methods.dpo import DPO
from trimtab.methods.kto import KTO
from trimtab.methods.mix import Mix, Ptx
from trimtab.methods.orpo import ORPO
from trimtab.methods.reward import Reward
from trimtab.methods.sft import SFT
from trimtab.methods.simpo import SimPO
from trimtab.methods.slic import SLiC
from trimtab.methods.triplet import Triplet
from trimtab.models.load import load_scorer
from trimtab.models.lora import Lora, add_adapters, without_adapters
from trimtab.models.nf4 import quantise
from trimtab.models.score import ValueHead
from trimtab.training import checkpoint
from trimtab.training.compile import compile_layers, compiles
from trimtab.training.loop import Interrupted
from trimtab.training.method import Method, Metrics, MicroBatch, State, tree_names
from trimtab.training.settings import TrainingSettings
from trimtab.trees import TreeBatch


def reward(budget: int = SETTINGS.micro_batch_tokens) -> Method:
    return offline(Reward, pair(FAMILIES["gpt2"](), scorer=True)[0], budget=budget)


def dpo(budget: int = SETTINGS.micro_batch_tokens) -> Method:
    policy = pair(FAMILIES["gemma2"]())[0]
    return offline(DPO, policy, copy.deepcopy(policy), beta=0.3, budget=budget)


def kto() -> Method:
    policy = pair(FAMILIES["llama"]())[0]
    return offline(KTO, policy, copy.deepcopy(policy), beta=0.3, longest=96)


def without_reference(kind: Any, **options: Any) -> Callable[[], Method]:
    return lambda: offline(kind, pair(FAMILIES["llama"]())[0], **options)


# What differs from the methods of ``make`` in nothing that the loop sees but its loss, and in KTO a forward pass before the step.
ON_RANKINGS: dict[str, Callable[[], Method]] = {
    "kto": kto, "triplet": without_reference(Triplet, delta=3.0), "slic": without_reference(SLiC, delta=3.0, sft_weight=0.5),
    "orpo": without_reference(ORPO, odds_weight=0.5), "simpo": without_reference(SimPO, beta=2.0, gamma=0.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("start") / "policy")


def online(name: str, folder: Path) -> Method:
    config = ppo.Config(
        batch_size=3, num_completions=2, max_tokens=6, minibatch_size=2, epochs_per_batch=2, micro_batch_tokens=60, stop_kl=1e9,
        kl=KLControl(target=0.5, horizon=60), seed=5,
    )  # fmt: skip
    # answers of one prompt are hardly ever equally good: where all are, there is nothing but rounding for Adam to follow
    parts = online_parts(folder, Rule(lambda prompt, text: text.count("a") - 0.1 * len(text) + sum(map(ord, text)) % 97 / 97))
    if name == "ppo-penalty":  # with everything that is carried between iterations
        options = {"variant": "penalty", "penalty": Penalty(target=0.01), "normalise": "running", "ptx": Ptx(weight=0.5)}
        mix = Mix(trees(5, 7).__getitem__, 5, 2, 60, 5)
        return ppo.PPO(config.model_copy(update=options), parts, load_scorer(folder), mix=mix)
    if name == "ppo-trunk":
        return ppo.PPO(config.model_copy(update={"value": "trunk"}), parts, ValueHead(parts.policy))
    if name in SINGLE:
        kind, settings = SINGLE[name]
        shared = config.model_dump(include=set(settings.model_fields) & set(config.model_fields_set))
        return kind(settings(**{**shared, "micro_batch_tokens": 30}), parts)  # type: ignore[no-any-return]
    return ppo.PPO(config, parts, load_scorer(folder))


# Online methods that train the policy alone.
SINGLE: dict[str, tuple[Any, Any]] = {
    "rloo": (rloo.RLOO, rloo.Config), "scst": (scst.SCST, scst.Config), "grpo": (grpo.GRPO, grpo.Config), "bon": (bon.BestOfN, bon.Config),
    "trpo": (trpo.TRPO, trpo.Config),
}  # fmt: skip
ONLINE = ("ppo", "ppo-penalty", "ppo-trunk", *SINGLE)


def test_every_method_that_samples_is_run_here() -> None:
    """A method that is added has to resume as exactly as the others: it goes into the list above."""
    names = (m.name for m in pkgutil.iter_modules(trimtab.methods.__path__) if m.name not in trimtab.methods.NOT_METHODS)
    settings = {name: importlib.import_module(f"trimtab.methods.{name}").Config for name in names}
    assert {name for name, config in settings.items() if "num_completions" in config.model_fields} == {n.partition("-")[0] for n in ONLINE}


@pytest.fixture(params=["sft", "reward", "dpo", *ONLINE])
def make(request: pytest.FixtureRequest) -> Callable[[], Method]:
    """A fresh method with its start weights, as a new process would build it."""
    if request.param in ONLINE:
        folder = request.getfixturevalue("policy_folder")
        return lambda: online(request.param, folder)
    return {"sft": sft, "reward": reward, "dpo": dpo}[request.param]


def test_a_run_changes_every_weight_and_logs_every_step(make: Callable[[], Method], tmp_path: Path) -> None:
    """Otherwise equality below would mean little: weights move, the loss is finite, evaluation stands at steps 0, 3 and 6."""
    method = make()
    start = outcome(method, tmp_path)
    end = run(method, tmp_path)
    moved = [end[name] != value for name, value in start.items()]
    assert sum(moved) >= 0.9 * len(moved) > 0
    found = metrics(tmp_path)
    assert {step for step, name in found if name == "grad_norm"} == set(range(1, STEPS + 1))
    assert {step for step, name in found if name.startswith("eval/")} in ({0, 3, 6}, set())
    assert {row["step"] for row in read_lines(tmp_path / "timing.jsonl")} == set(range(1, STEPS + 1))


def test_the_same_seed_twice_gives_the_same_bytes(make: Callable[[], Method], tmp_path: Path) -> None:
    assert run(make(), tmp_path / "a") == run(make(), tmp_path / "b")


def test_a_run_killed_anywhere_goes_on_bit_for_bit(make: Callable[[], Method], tmp_path: Path) -> None:
    """Killed in a loss of each step, with a torn line at the end of the metrics, then the same command."""
    expected = run(make(), tmp_path / "whole")
    calls: list[int] = []
    run(counting(make(), calls), tmp_path / "count")
    total = len(calls)
    assert total >= 2 * STEPS  # steps have several micro-batches: some kills fall between them
    for at in sorted({*range(0, total, max(1, total // 7)), total - 1}):
        path = tmp_path / f"kill-{at}"
        with pytest.raises(Killed):
            run(killing(make(), at), path)
        with open(path / "metrics.jsonl", "a") as f:
            f.write('{"step": 5, "name": "loss", "va')
        assert run(make(), path) == expected, at


def test_ctrl_c_finishes_the_step_and_leaves_a_run_that_goes_on(make: Callable[[], Method], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    expected = run(make(), tmp_path / "whole")
    for step in range(STEPS - 1):
        path = tmp_path / f"stop-{step}"
        with pytest.raises(Interrupted, match=rf"interrupted after step {step + 1} of 6; the same command goes on"):
            run(pressing(make(), step), path)
        assert signal.getsignal(signal.SIGINT) is before
        assert [p.name for p in (path / "checkpoints").iterdir()] == [f"step-{step + 1}"]
        assert run(make(), path) == expected


def test_ctrl_c_in_the_last_step_stops_too_so_that_no_recipe_goes_on_to_its_next_stage(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="interrupted after step 6 of 6"):
        run(pressing(sft(), STEPS - 1), tmp_path / "a")
    assert run(sft(), tmp_path / "a") == run(sft(), tmp_path / "b")


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    expected = run(sft(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(pressing(sft(), 3, times=2), tmp_path / "b")
    assert run(sft(), tmp_path / "b") == expected


def test_an_evaluation_that_is_no_number_ends_the_run_at_its_last_checkpoint(tmp_path: Path) -> None:
    """The third step's: what is left is as after the second step, every line of it JSON."""
    method = sft()
    evaluate = method.evaluate
    method.evaluate = lambda state: {  # type: ignore[method-assign]
        name: value if state.step < 3 else math.nan for name, value in evaluate(state).items()
    }
    with pytest.raises(RunFailed, match=r"^step 3: the metric eval/\w+ is nan; the last checkpoint is left"):
        run(method, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-2"]
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in lines} == {0, 1, 2}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_not_finite_names_the_trees_and_leaves_the_checkpoint(where: str, tmp_path: Path) -> None:
    """The fifth step goes wrong: the message says which step and trees, the checkpoint of step 4 is there, the weights are its."""
    method = sft()
    true, calls, names = method.loss, [0], []

    def broken(batch: MicroBatch) -> tuple[Tensor, Metrics]:
        loss, found = true(batch)
        calls[0] += 1
        if (tmp_path / "checkpoints" / "step-4").exists():
            names.append([tree.key for tree in batch.trees.trees])
            return (loss * float("nan") if where == "loss" else (loss - loss.detach()).abs().sqrt() + loss), found
        return loss, found

    method.loss = broken  # type: ignore[method-assign]
    with pytest.raises(UserError) as caught:
        run(method, tmp_path)
    message = str(caught.value)
    assert len(names[0]) > 1 and len(names) == (1 if where == "loss" else 2)
    said = ", ".join(repr(key) for batch in names for key in batch)
    assert message.startswith(f"step 5: the {where} is nan on trees {said}; nothing was stepped on it") and "\n" not in message
    kept = checkpoint.latest(tmp_path / "checkpoints")
    assert kept is not None and kept.name == "step-4"
    fresh = sft()
    names_of = {f"policy.{n}": p for n, p in fresh.modules["policy"].named_parameters()}
    checkpoint.load(kept, names_of, torch.optim.AdamW(names_of.values()))
    for a, b in zip(fresh.modules["policy"].parameters(), method.modules["policy"].parameters(), strict=True):
        assert torch.equal(a, b)
    assert run(sft(), tmp_path) == run(sft(), tmp_path / "whole")


def test_of_many_trees_twenty_are_named_and_the_rest_counted() -> None:
    """27 in three micro-batches, one of them in two (its answers were computed apart)."""
    made = [replace(tree, key=f"k{i}") for i, tree in enumerate(trees(27, 0))]
    batches = [MicroBatch(TreeBatch.pack(made[a:b]), 1.0) for a, b in ((0, 3), (2, 20), (20, 27))]
    first = ", ".join(f"'k{i}'" for i in range(20))
    assert tree_names(batches) == f"{first} and 7 more"
    assert tree_names(batches[:2]) == first and tree_names(batches[:1]) == "'k0', 'k1', 'k2'"


@pytest.mark.parametrize("kind", [sft, reward, dpo])
def test_the_micro_batch_split_changes_nothing(kind: Callable[[int], Method], tmp_path: Path) -> None:
    """A tree at a time, a few, all at once: the same loss, gradient norm and other metrics at every step to float32's rounding."""
    found = []
    for budget in (1, 60, 10_000):
        settings = SETTINGS.model_copy(update={"micro_batch_tokens": budget})
        run(kind(budget), tmp_path / str(budget), settings)
        found.append(metrics(tmp_path / str(budget)))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert other == pytest.approx(found[0], rel=2e-4, abs=2e-5)
    first = {key: value for key, value in found[0].items() if key[0] <= 1}
    assert {key: found[2][key] for key in first} == pytest.approx(first, rel=1e-5, abs=1e-6)


def test_checkpointing_computes_layers_twice_and_changes_no_bit(make: Callable[[], Method], tmp_path: Path) -> None:
    def counted(folder: str, **settings: Any) -> tuple[int, dict[str, bytes]]:
        method, calls = make(), [0]
        for module in method.modules.values():
            if isinstance(module, ValueHead):
                continue
            layer = next(m for name, m in module.named_modules() if name.endswith((".0.mlp", "h.0.mlp")))
            layer.register_forward_pre_hook(lambda *a: calls.__setitem__(0, calls[0] + torch.is_grad_enabled()))
        found = run(method, tmp_path / folder, SETTINGS.model_copy(update=settings), steps=2)
        return calls[0], found

    once, expected = counted("plain")
    twice, found = counted("checkpointed", checkpointing=True)
    assert once > 0 and twice == 2 * once and found == expected


def adapted(kind: str, folder: Path) -> Method:
    """A method of that kind whose models have adapters; SFT's drop, DPO's and PPO's reference is the policy without them."""
    model = pair(FAMILIES["gpt2" if kind == "reward" else "gemma2"](), scorer=kind == "reward")[0]
    if kind == "qlora":
        quantise(model, torch.device("cpu"))
    options = Lora(rank=3, dropout=0.2 if kind == "sft" else 0.0, dora=kind == "dpo")
    if kind != "ppo":
        add_adapters(model, options, seed=5)
    if kind == "reward":
        return offline(Reward, model)
    if kind == "sft":
        return offline(SFT, model)
    if kind in ("dpo", "qlora"):
        return offline(DPO, model, without_adapters(model), beta=0.3)
    method = online("ppo", folder)
    assert isinstance(method, ppo.PPO)
    for inner in (method.policy, method.value):
        add_adapters(inner, options, seed=5)
    method.reference = without_adapters(method.policy).requires_grad_(False)
    return method


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "qlora", "ppo"])
def test_a_killed_run_with_adapters_goes_on_bit_for_bit(kind: str, policy_folder: Path, tmp_path: Path) -> None:
    """Everything that is not an adapter or a head stays as it was; what adapters drop depends on the step, not on what ran before."""
    start = outcome(adapted(kind, policy_folder), tmp_path)
    expected = run(adapted(kind, policy_folder), tmp_path / "whole")
    moved = {name for name, value in start.items() if expected[name] != value}
    assert moved == {name for name in start if "lora_" in name or name.endswith("score.weight")}
    for at in (0, 9):
        path = tmp_path / str(at)
        with pytest.raises(Killed):
            run(killing(adapted(kind, policy_folder), at), path)
        assert run(adapted(kind, policy_folder), path) == expected, at


@pytest.mark.parametrize("kind", ["dpo", "qlora"])
def test_checkpointing_changes_no_bit_beside_adapters(kind: str, policy_folder: Path, tmp_path: Path) -> None:
    expected = run(adapted(kind, policy_folder), tmp_path / "plain", steps=2)
    recomputed = SETTINGS.model_copy(update={"checkpointing": True})
    assert run(adapted(kind, policy_folder), tmp_path / "recomputed", recomputed, steps=2) == expected


def test_a_run_with_8_bit_moments_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Matrices of 32 x 128 and more are quantised, smaller ones are not: both kinds of state are taken up again."""

    def big() -> Method:
        config = FAMILIES["llama"]()
        config.hidden_size, config.intermediate_size = 64, 128
        return offline(SFT, pair(config)[0])

    settings = SETTINGS.model_copy(update={"optimizer": "adamw8bit"})
    expected = run(big(), tmp_path / "whole", settings)
    assert expected != run(big(), tmp_path / "plain", SETTINGS)
    for at in (0, 5, 9):
        with pytest.raises(Killed):
            run(killing(big(), at), tmp_path / str(at), settings)
        assert run(big(), tmp_path / str(at), settings) == expected


def test_a_killed_run_with_dropout_goes_on_with_the_same_dropout(tmp_path: Path) -> None:
    def dropping() -> Method:
        return offline(SFT, pair(FAMILIES["llama"]())[0], dropout=0.2)

    expected = run(dropping(), tmp_path / "whole")
    assert expected != run(sft(), tmp_path / "plain")
    recomputed = SETTINGS.model_copy(update={"checkpointing": True})  # the backward pass drops what the forward pass dropped
    again = run(dropping(), tmp_path / "checkpointing", recomputed)
    assert np.allclose(np.frombuffer(again["policy.lm_head.weight"]), np.frombuffer(expected["policy.lm_head.weight"]), atol=1e-6)
    for at in (0, 5, 9):
        with pytest.raises(Killed):
            run(killing(dropping(), at), tmp_path / str(at))
        assert run(dropping(), tmp_path / str(at)) == expected


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on CPU")
@pytest.mark.parametrize(("name", "last"), [("ppo", 1), ("trpo", 1)])
def test_compiled_layers_give_the_same_run_and_sampling_leaves_them_alone(
    name: str, last: int, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Metrics of the first steps to float32's rounding; PPO samples between updates, in any number of rows; TRPO's forward-mode pass is not
    compiled, its others are."""
    monkeypatch.setattr(precision, "fast_in_bf16", lambda kind: False)
    steps, found = 2, []
    for compiled in (False, True):
        settings = SETTINGS.model_copy(update={"compile": "true" if compiled else "false"})
        run(online(name, policy_folder), tmp_path / str(compiled), settings, steps)
        found.append(metrics(tmp_path / str(compiled)))
    assert found[0].keys() == found[1].keys()
    first = {key: value for key, value in found[0].items() if key[0] <= last}
    if name == "trpo":
        residual = (1, "trust/residual")  # what conjugate gradient has left: differences of products that nearly cancel
        assert found[1][residual] == pytest.approx(first.pop(residual), rel=1e-2)
    assert {key: found[1][key] for key in first} == pytest.approx(first, rel=1e-3, abs=1e-4)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler on CPU")
def test_layers_that_keep_few_activations_are_compiled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are counted: transformers' own checkpointing inside a layer would leave none. Weights agree to float32's rounding."""
    weights = []
    for how in ({"compile": "false"}, {"compile": "true", "checkpointing": True}):
        torch._dynamo.reset()
        counters.clear()
        made = run(sft(), tmp_path / how["compile"], SETTINGS.model_copy(update=how), 2)
        weights.append(np.frombuffer(made["policy.lm_head.weight"], dtype=np.float32))
        assert (counters["stats"]["unique_graphs"] > 0) == (how["compile"] == "true")
    assert np.allclose(*weights, atol=1e-3)


@pytest.mark.parametrize(("setting", "kind", "expected"), [("auto", "cpu", False), ("false", "cpu", False), ("true", "cpu", True)])
def test_what_compile_means(setting: str, kind: str, expected: bool) -> None:
    assert compiles(setting, torch.device(kind)) is expected
    assert SETTINGS.model_copy(update={}).compile == "auto" and TrainingSettings(compile=False).compile == "false"


def test_a_module_without_layers_is_not_compiled(tmp_path: Path) -> None:
    compile_layers({"policy": nn.Linear(2, 2)}, must=False)
    head = nn.Linear(2, 2)
    head.bare_head = True
    compile_layers({"head": head})
    with pytest.raises(UserError, match=r"compile=true: Linear \(policy\) does not say what its layers are"):
        compile_layers({"policy": nn.Linear(2, 2)})


def test_a_module_that_cannot_recompute_is_refused(tmp_path: Path) -> None:
    method = sft()
    method.modules["policy"].supports_gradient_checkpointing = False  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"checkpointing=true: LlamaForCausalLM \(policy\) cannot"):
        run(method, tmp_path, SETTINGS.model_copy(update={"checkpointing": True}))


def test_an_update_that_the_method_refuses_is_not_taken_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    """Three optimizer steps in each of two loop steps, the second one refused: the weights are those of a run that has the first alone,
    after the second loop step too, where a gradient that was left would count."""

    def several(count: int) -> Method:
        method = sft()
        each = method.batches
        method.batches = lambda state: [  # type: ignore[method-assign]
            step for i in range(count) for step in each(State(3 * state.step + i, 3 * state.steps))
        ]
        return method

    asked: list[float] = []

    def before_step(found: Metrics) -> bool:
        asked.append(found["loss"][0])
        return len(asked) % 2 == 1

    refusing = several(3)
    refusing.before_step = before_step  # type: ignore[method-assign]
    found, expected = run(refusing, tmp_path / "refusing", steps=2), run(several(1), tmp_path / "one", steps=2)
    policy = [name for name in expected if name.startswith("policy")]
    assert len(set(asked)) == 4 and policy and all(found[name] == expected[name] for name in policy)


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    """The metric is the norm before clipping; with a bound of 1e-30 Adam's epsilon swallows the step and nothing moves."""
    method = sft()
    start = outcome(method, tmp_path)
    settings = SETTINGS.model_copy(update={"max_grad_norm": 1e-30, "weight_decay": 0.0})
    end = run(method, tmp_path, settings, steps=1)
    assert metrics(tmp_path)[1, "grad_norm"] > 0.1
    policy = [name for name in start if name.startswith("policy")]
    assert policy and all(start[name] == end[name] for name in policy)


def test_the_loop_does_not_touch_the_global_generator(make: Callable[[], Method], tmp_path: Path) -> None:
    method = make()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    run(method, tmp_path, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_autocast_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    method = sft()
    settings = SETTINGS.model_copy(update={"dtype": "bfloat16"})
    run(method, tmp_path / "a", settings)
    assert {p.dtype for p in method.modules["policy"].parameters()} == {torch.float32}
    run(sft(), tmp_path / "b")
    a, b = metrics(tmp_path / "a"), metrics(tmp_path / "b")
    assert a != b and a[1, "loss"] == pytest.approx(b[1, "loss"], rel=2e-2)


def documented() -> set[str]:
    return set(re.findall(r"`([a-z0-9_/]+)`", (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text()))


def test_docs_say_what_every_logged_number_is(make: Callable[[], Method], tmp_path: Path) -> None:
    run(make(), tmp_path / "run", steps=1)
    logged = {row["name"].removeprefix("eval/") for row in read_lines(tmp_path / "run/metrics.jsonl")}
    assert logged - documented() == set()


@pytest.mark.parametrize("name", ON_RANKINGS)
def test_the_other_methods_on_rankings_go_on_bit_for_bit_and_log_what_docs_say(name: str, tmp_path: Path) -> None:
    """Killed between two micro-batches of the fourth step, with a checkpoint of the second."""
    make = ON_RANKINGS[name]
    expected = run(make(), tmp_path / "whole")
    calls: list[int] = []
    run(counting(make(), calls), tmp_path / "count", steps=3)
    with pytest.raises(Killed):
        run(killing(make(), len(calls)), tmp_path / "killed")
    assert run(make(), tmp_path / "killed") == expected
    logged = {row["name"].removeprefix("eval/") for row in read_lines(tmp_path / "whole/metrics.jsonl")}
    assert logged - documented() == set()
