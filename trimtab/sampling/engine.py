"""The native engine: samples from the very modules that are being trained.

One forward per distinct prompt on the packed flat layout fills its slot of the cache; then every step runs one token of each
row through the model, draws the next tokens with one uniform each, and gives the rows of finished samples to waiting ones.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.common.memory import keep_freed_memory
from trimtab.models.load import max_positions
from trimtab.models.score import tail_of
from trimtab.sampling.graphs import Recorder, recorder_for
from trimtab.sampling.packed import can_pack, packed_linears
from trimtab.sampling.plan import bytes_of_one, probe
from trimtab.sampling.protocol import OnProgress, Sample, SamplingOptions, SamplingStats, check_prompts
from trimtab.sampling.run import Run
from trimtab.sampling.schedule import ROW_MULTIPLE, round_up
from trimtab.sampling.stops import Decode, StopStrings


class NativeEngine:
    """``Engine`` over a causal language model that ``load_policy`` or ``new_policy`` made.

    ``end_id`` ends a sample. At most ``rows`` sequences are drawn at once, fewer where ``kv_bytes`` would not hold their keys and
    values; 0 is 30 % of the memory that is free when a call begins (``plan.FREE_SHARE``), and always enough for one. ``autocast`` computes
    in bf16 where torch's autocast does. ``decode`` (token ids to text, special tokens included) is needed for stop strings only. ``stats``
    tells what the last call did.

    The weights are the model's own: there is no copy that has to be kept up to date. For the time of a call there are copies: on x86 CPUs
    of linear layers, in the order that the processor multiplies in (``packed``; counted in ``stats``), 2 bytes a weight in bf16 and 4 in
    float32, there of large models' large layers, so that sampling takes nearly twice the weights' memory; and under autocast its casts
    of other float32 weights that products use.
    """

    def __init__(
        self, model: PreTrainedModel, end_id: int, *, rows: int = 256, kv_bytes: int = 0, autocast: bool = False,
        decode: Decode | None = None,
    ) -> None:  # fmt: skip
        assert rows >= 1 and kv_bytes >= 0
        keep_freed_memory()
        self.model, self.end_id, self.rows, self.kv_bytes, self.autocast, self.decode = model, end_id, rows, kv_bytes, autocast, decode
        self.stats: SamplingStats | None = None
        self._recorder: Recorder | None = None
        self._watching: StopStrings | None = None

    @property
    def recorder(self) -> Recorder | None:
        """What records decoding steps where the model is now."""
        if self._recorder is None:
            self._recorder = recorder_for(self.model.device)
        return self._recorder

    def sample(
        self, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str], *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Sample]]:  # fmt: skip
        """See ``Engine.sample``.

        On CPU the same key gives the same ids whatever ``rows``, ``kv_bytes``, ``k`` and the other prompts are. Logprobs are the same to
        rounding: bit for bit for models of plain layers at equal ``k`` and at least ``k`` rows. Otherwise products have other shapes (a
        prompt's page meets as many queries as samples read it, an expert as many tokens as chose it): float32 then differs by 1e-6, bf16
        now and then by one of its steps, 1e-3, and an id only where a uniform falls between the two. On GPUs most ids are the same.
        """
        assert len(prompts) == len(keys), f"{len(prompts)} prompts, {len(keys)} keys"
        check_prompts(prompts, options, keys, max_positions(self.model), self.model.get_input_embeddings().num_embeddings)
        if options.stop and self.decode is None:
            raise UserError("stop strings need a tokenizer: give the engine decode=")
        if not prompts or not k:
            return [[] for _ in prompts]
        began = time.perf_counter()
        rows = round_up(min(self.rows, len(prompts) * k), ROW_MULTIPLE)
        with _sampling(self.model, self.autocast), self._packed(rows) as packed_bytes:
            run = Run(
                self.model, self.end_id, prompts, k, options, keys, rows=self.rows, kv_bytes=self.kv_bytes, stops=self._stops(options.stop),
                recorder=self.recorder,
            )  # fmt: skip
            try:
                samples = run.all(on_progress)
            finally:
                run.graphs = None  # it holds the run, and with it keys and values, which would lie beside the training step's memory
        self.stats = SamplingStats(
            samples=len(samples), tokens=run.tokens, prompt_tokens=run.prompts.computed, steps=run.steps, rows=run.plan.rows,
            kv_bytes=run.plan.kv_bytes, packed_bytes=packed_bytes, seconds=time.perf_counter() - began,
        )  # fmt: skip
        return [samples[i : i + k] for i in range(0, len(samples), k)]

    def bytes_of_one(self, longest: int) -> int:
        """What the keys and values of one sample take at most whose prompt and completion have ``longest`` tokens together: ``kv_bytes``
        must hold that."""
        with _sampling(self.model, self.autocast):
            return bytes_of_one(probe(self.model, 0), longest)

    def _packed(self, rows: int) -> AbstractContextManager[int]:
        """Inside, weights are packed for ``rows`` rows where that makes steps faster; the bytes of the copies."""
        dtype = torch.bfloat16 if self.autocast else torch.float32
        return packed_linears(self.model, rows, dtype) if can_pack(self.model.device, dtype) else nullcontext(0)

    def _stops(self, stop: tuple[str, ...]) -> StopStrings | None:
        """What watches for ``stop``: it asks for every token's text, so it is made once."""
        if not stop or self.decode is None:
            return None
        if self._watching is None or self._watching.stop != stop:
            self._watching = StopStrings(stop, self.decode, len(tail_of(self.model).weight))
        return self._watching


@contextmanager
def uncompiled(model: PreTrainedModel) -> Iterator[None]:
    """Inside, layers that were compiled run as plain Python. Not by a stance of torch.compile: the attention kernel would obey it too."""
    compiled = [(module, module._compiled_call_impl) for module in model.modules() if module._compiled_call_impl is not None]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, program in compiled:
            module._compiled_call_impl = program


@contextmanager
def _sampling(model: PreTrainedModel, autocast: bool) -> Iterator[None]:
    """Evaluation mode, no gradients, optionally bf16; everything as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    # Autocast keeps its cast of a weight from step to step only where the weight wants a gradient.
    frozen = [p for p in model.parameters() if autocast and not p.requires_grad and p.dtype == torch.float32]
    model.eval()
    for parameter in frozen:
        parameter.requires_grad_(True)
    kind = model.device.type
    # Casts made here have no gradient, and casts made before may be of older weights: neither may be taken for the other.
    torch.clear_autocast_cache()
    try:
        # On CPU layers that training compiled run as they are: a program for another number of rows would take longer than the samples.
        plain = nullcontext() if kind == "cuda" else uncompiled(model)
        with torch.no_grad(), torch.autocast(kind, dtype=torch.bfloat16, enabled=autocast), plain:
            yield
    finally:
        torch.clear_autocast_cache()
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module in training:
            module.training = True
