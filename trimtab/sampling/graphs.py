"""Decoding steps recorded as CUDA graphs: a step of a 1B model is a thousand small kernels, which take longer to launch than to run.

A graph replays what it recorded on the memory that it recorded it with: every shape of the inputs has one of its own, the caller keeps
shapes few, and the memory that a step reads and writes stays where it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
Step = Callable[[Sequence[Tensor]], Outputs]
# Records a call without running it; what runs it, and the tensors that each run fills.
Recorder = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]


@dataclass
class Recording:
    """One shape's: its own inputs, what replays it, its outputs, and the arrays that its inputs hold now."""

    inputs: list[Tensor]
    replay: Callable[[], None]
    outputs: Outputs
    held: list[np.ndarray]


class Graphs:
    """``step`` on arrays: run as it is when a shape is first met (libraries set themselves up, weights are cast), recorded at the second
    time, replayed from then on. A model that cannot be recorded (one that asks the GPU for a number on the way) runs as it is."""

    def __init__(self, step: Step, device: torch.device, record: Recorder) -> None:
        self.step, self.device, self.record = step, device, record
        self.replays = 0
        self._kept: dict[tuple[tuple[int, ...], ...], Recording | None] = {}
        self._recordable = True

    def __call__(self, arrays: Sequence[np.ndarray]) -> Outputs:
        """Outputs are overwritten by the next call. An array that is given again, the same object, is taken to be unchanged."""
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._kept or not self._recordable:
            self._kept[shapes] = None
            return self.step([self._tensor(array) for array in arrays])
        kept = self._kept[shapes]
        if kept is None:
            inputs = [self._tensor(array) for array in arrays]
            try:
                replay, outputs = self.record(lambda: self.step(inputs))
            except RuntimeError:
                self._recordable = False
                return self.step(inputs)
            kept = self._kept[shapes] = Recording(inputs, replay, outputs, list(arrays))
        for i, array in enumerate(arrays):
            if array is not kept.held[i]:
                kept.inputs[i].copy_(torch.from_numpy(array))
                kept.held[i] = array
        kept.replay()
        self.replays += 1
        return kept.outputs

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


def recorder_for(device: torch.device) -> Recorder | None:
    """What records steps on ``device``; None where nothing does, and nothing need."""
    if device.type != "cuda":
        return None
    pool = torch.cuda.graph_pool_handle()  # one for all shapes: outputs are read before anything else is replayed

    def record(call: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        # Not by torch.cuda.graph: it would hand the allocator's free memory back to the driver each time.
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        torch.cuda.synchronize(device)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                outputs = call()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)
        return graph.replay, outputs

    return record


def few(count: int, most: int) -> int:
    """The least of ``most``, a quarter, a sixteenth ... of it (multiples of 8) that is at least ``count``: a new shape costs as much as
    ten to thirty steps of a small model, and a step of a quarter of the rows hardly less than one of all."""
    size = most
    while size > 8 and (smaller := -(-size // 32) * 8) >= count and smaller < size:
        size = smaller
    return size
