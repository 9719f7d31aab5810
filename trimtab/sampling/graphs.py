"""Decoding steps recorded as CUDA graphs: a step of a 1B model is a thousand small kernels, which take longer to launch than to run.

A graph replays what it recorded on the memory that it recorded it with: every shape of the inputs has one of its own, the caller keeps
shapes few, and the memory that a step reads and writes stays where it is.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
Step = Callable[[Sequence[Tensor]], Outputs]


class Recorder(Protocol):
    """Records calls without running them. One for an engine, so that what it learns and the memory that it sets aside serve every call."""

    usable: bool  # False once a step could not be recorded

    def watching(self) -> AbstractContextManager[None]:
        """Inside, what cannot be recorded raises RuntimeError."""

    def record(self, call: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """What runs ``call`` again, and the tensors that each run fills."""


@dataclass
class Recording:
    """One shape's: its own inputs, what replays it, its outputs, and the arrays that its inputs hold now."""

    inputs: list[Tensor]
    replay: Callable[[], None]
    outputs: Outputs
    held: list[np.ndarray]


class Graphs:
    """``step`` on arrays: run as it is when a shape is first met (libraries set themselves up, weights are cast), run and watched the
    second time, then recorded and replayed. A model that cannot be recorded (it asks the GPU for a number on the way) runs as it is."""

    def __init__(self, step: Step, device: torch.device, recorder: Recorder) -> None:
        self.step, self.device, self.recorder = step, device, recorder
        self.replays = 0
        self._met: dict[tuple[tuple[int, ...], ...], int] = {}
        self._kept: dict[tuple[tuple[int, ...], ...], Recording] = {}

    def __call__(self, arrays: Sequence[np.ndarray]) -> Outputs:
        """Outputs are overwritten by the next call. An array that is given again, the same object, is taken to be unchanged."""
        shapes = tuple(array.shape for array in arrays)
        self._met[shapes] = met = self._met.get(shapes, 0) + 1
        if shapes not in self._kept:
            inputs = [self._tensor(array) for array in arrays]
            if met == 1 or not self.recorder.usable:
                return self.step(inputs)
            if met == 2:
                return self._watched(inputs)
            step = self.step  # the recording must not hold this object, which holds it
            self._kept[shapes] = Recording(inputs, *self.recorder.record(lambda: step(inputs)), list(arrays))
        kept = self._kept[shapes]
        for i, array in enumerate(arrays):
            if array is not kept.held[i]:
                kept.inputs[i].copy_(torch.from_numpy(array))
                kept.held[i] = array
        kept.replay()
        self.replays += 1
        return kept.outputs

    def _watched(self, inputs: Sequence[Tensor]) -> Outputs:
        """A step, after which it is known whether it can be recorded: a recording that fails would leave the allocator in disorder."""
        try:
            with self.recorder.watching():
                return self.step(inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.recorder.usable = False
            print(f"sampling: steps of this model cannot be recorded as CUDA graphs and run one by one ({str(error).splitlines()[0]})")
            return self.step(inputs)  # what it wrote of keys and values it writes again

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


class CudaRecorder:
    """``Recorder`` of CUDA graphs, all in one pool of memory: outputs are read before anything else is replayed."""

    def __init__(self, device: torch.device) -> None:
        self.usable, self.device = True, device
        self._pool = torch.cuda.graph_pool_handle()
        # Holds the pool between calls, so that the next call's graphs take the memory of the last one's.
        self._holder = self._captured(lambda: (torch.zeros(1, device=device),))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See ``Recorder``: an operation that waits for the GPU is an error."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls this a prototype
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, call: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """See ``Recorder``."""
        graph, outputs = self._captured(call)
        return graph.replay, outputs

    def _captured(self, call: Callable[[], Outputs]) -> tuple[torch.cuda.CUDAGraph, Outputs]:
        # Not by torch.cuda.graph: it would hand the allocator's free memory back to the driver each time.
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)
        torch.cuda.synchronize(self.device)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = call()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return graph, outputs


def recorder_for(device: torch.device) -> Recorder | None:
    """What records steps on ``device``; None where nothing does, and nothing need."""
    return CudaRecorder(device) if device.type == "cuda" else None


def bucket(count: int, most: int) -> int:
    """The least of ``most``, a quarter, a sixteenth ... of it (multiples of 8) that is at least ``count``: a new shape costs as much as
    ten to thirty steps of a small model, and a step of a quarter of the rows hardly less than one of all."""
    size = most
    while size > 8 and (smaller := -(-size // 32) * 8) >= count and smaller < size:
        size = smaller
    return size
