"""Recorded steps: the same samples as steps that run as they are, on the memory that they were recorded with, in few shapes.

A recorder for machines without a GPU keeps the call and runs it again at each replay, on whatever its inputs then hold, into the same
outputs: what a CUDA graph does.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, pair, tiny_policy
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.sampling import engine as engine_module, run as run_module
from trimtab.sampling.cache import Rows
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.graphs import Graphs, Outputs, bucket, recorder_for
from trimtab.sampling.protocol import Sample, SamplingOptions

END = 1
CPU = torch.device("cpu")


class Again:
    """A recorder of calls that are run again; ``refuses`` raises while it watches."""

    def __init__(self, refuses: bool = False) -> None:
        self.usable, self.refuses, self.recorded = True, refuses, 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        yield
        if self.refuses:
            raise RuntimeError("called a synchronizing CUDA operation")

    def record(self, call: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        outputs = tuple(torch.empty_like(t) for t in call())
        self.recorded += 1

        def replay() -> None:
            for kept, new in zip(outputs, call(), strict=True):
                kept.copy_(new)

        return replay, outputs


def prompts(count: int, longest: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    lengths = [longest, 1, *rng.integers(1, longest + 1, size=count).tolist()][:count]
    return [rng.integers(2, VOCABULARY, size=n).tolist() for n in lengths]


def long_policy() -> PreTrainedModel:
    """A model of more than two pages of positions, with heads as small as FlexAttention takes them."""
    config = FAMILIES["llama"]()
    config.max_position_embeddings, config.head_dim = 256, 16
    return pair(config)[0]


@dataclass
class Made:
    """Every ``Graphs`` that engines made."""

    all: list[Graphs] = field(default_factory=list)

    def __call__(self, *words: object) -> Graphs:
        self.all.append(Graphs(*words))  # type: ignore[arg-type]
        return self.all[-1]


SCENES = [(8, 3, 12, 40, 1.0), (5, 9, 24, 90, 1.0), (64, 2, 70, 150, 1.0), (16, 1, 40, 1, 1.0), (24, 4, 33, 90, 0.9)]


@pytest.mark.parametrize(("rows", "k", "tokens", "longest", "top_p"), SCENES)
def test_replayed_steps_draw_the_same_samples(
    monkeypatch: pytest.MonkeyPatch, rows: int, k: int, tokens: int, longest: int, top_p: float
) -> None:
    model, options = long_policy(), SamplingOptions(max_tokens=tokens, seed=2, top_p=top_p)
    given = prompts(20, longest)
    keys = [str(i) for i in range(20)]

    def draw() -> tuple[list[list[Sample]], int]:
        engine = NativeEngine(model, END, rows=rows)
        samples = engine.sample(given, k, options, keys)
        assert engine.stats is not None
        return samples, engine.stats.steps

    plain, _ = draw()
    made, grown = Made(), []
    reach = Rows.reach

    def noted(rows: Rows, columns: int) -> None:
        before = rows.blocks
        reach(rows, columns)
        grown.extend([columns] if rows.blocks > before else [])

    monkeypatch.setattr(Rows, "reach", noted)
    monkeypatch.setattr(engine_module, "recorder_for", lambda device: Again())
    monkeypatch.setattr(run_module, "Graphs", made)
    again, steps = draw()
    assert again == plain
    assert steps / 3 < made.all[0].replays < steps  # every shape runs twice before it is recorded
    assert grown == [tokens]  # memory that a graph reads stays where it is: room for all tokens, made once


def test_nothing_of_a_call_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values would otherwise lie beside the training step until Python's collector comes by."""
    alive: list[weakref.ref[Rows]] = []
    made = Rows.__init__

    def noted(rows: Rows, *words: Any) -> None:
        made(rows, *words)
        alive.append(weakref.ref(rows))

    monkeypatch.setattr(Rows, "__init__", noted)
    monkeypatch.setattr(engine_module, "recorder_for", lambda device: Again())
    gc.collect()
    gc.disable()
    try:
        NativeEngine(tiny_policy("llama"), END).sample([[5, 9]], 3, SamplingOptions(max_tokens=12), ["a"])
        assert len(alive) == 1 and alive[0]() is None
    finally:
        gc.enable()


def test_a_model_that_cannot_be_recorded_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model, options = tiny_policy("llama"), SamplingOptions(max_tokens=12, seed=2)
    plain = NativeEngine(model, END).sample([[5, 9]], 3, options, ["a"])
    made, recorder = Made(), Again(refuses=True)
    monkeypatch.setattr(engine_module, "recorder_for", lambda device: recorder)
    monkeypatch.setattr(run_module, "Graphs", made)
    engine = NativeEngine(model, END)
    for _ in range(2):  # the second call knows
        assert engine.sample([[5, 9]], 3, options, ["a"]) == plain
    assert made.all[0].replays == made.all[1].replays == recorder.recorded == 0
    said = "cannot be recorded as CUDA graphs and run one by one (called a synchronizing CUDA operation)"
    assert capsys.readouterr().out.count(said) == 1


def test_out_of_memory_is_not_taken_for_a_step_that_cannot_be_recorded() -> None:
    def step(inputs: Sequence[Tensor]) -> Outputs:
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        calls.append(1)
        return (inputs[0],)

    calls: list[int] = []
    graphs = Graphs(step, CPU, Again())
    graphs([np.array([1])])
    with pytest.raises(torch.OutOfMemoryError):
        graphs([np.array([1])])


def test_each_shape_is_run_then_watched_then_recorded_then_replayed() -> None:
    """Doubling: calls 1 and 2 of a shape run the step, call 3 records it, and from then on it is replayed."""
    watched: list[int] = []

    class Noting(Again):
        @contextmanager
        def watching(self) -> Iterator[None]:
            watched.append(1)
            yield

    recorder = Noting()
    graphs = Graphs(lambda inputs: (inputs[0] * 2 + inputs[1],), CPU, recorder)
    same = np.array([1])
    for value in (3, 4, 5, 6):
        (out,) = graphs([np.array([value, value]), same])
        assert out.tolist() == [2 * value + 1] * 2
    assert (graphs.replays, recorder.recorded, len(watched)) == (2, 1, 1)
    (out,) = graphs([np.array([1, 2, 3]), same])
    assert out.tolist() == [3, 5, 7] and graphs.replays == 2


def test_nothing_is_recorded_on_the_cpu() -> None:
    assert recorder_for(CPU) is None


def test_shapes_are_few() -> None:
    """Of 256 rows: 256, 64, 16, 8; of 24: 24, 8."""
    assert [bucket(n, 256) for n in (1, 8, 9, 16, 17, 64, 65, 256)] == [8, 8, 16, 16, 64, 64, 256, 256]
    assert [bucket(n, 24) for n in (1, 8, 9, 24)] == [8, 8, 24, 24] and bucket(8, 8) == 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: CUDA graphs are not tested")
@pytest.mark.parametrize(("rows", "k", "tokens", "longest", "top_p"), SCENES)
def test_on_a_gpu_recorded_steps_agree_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, rows: int, k: int, tokens: int, longest: int, top_p: float
) -> None:
    made = Made()
    monkeypatch.setattr(run_module, "Graphs", made)
    found = {}
    for device in ("cpu", "cuda"):
        model, options = long_policy().to(device), SamplingOptions(max_tokens=tokens, seed=2, top_p=top_p)
        given = prompts(20, longest)
        found[device] = NativeEngine(model, END, rows=rows).sample(given, k, options, [str(i) for i in range(20)])
    assert made.all[0].replays > 0
    pairs = [(a, b) for x, y in zip(found["cpu"], found["cuda"], strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(a.token_ids == b.token_ids for a, b in pairs) >= 0.95 * len(pairs)  # a uniform may fall between two roundings
    for a, b in pairs:
        if a.token_ids == b.token_ids:
            assert np.allclose(a.policy_logprobs, b.policy_logprobs, atol=1e-4) and np.allclose(a.logprobs, b.logprobs, atol=1e-4)
