"""The native engine: samples from the very modules that are being trained.

One forward per distinct prompt on the packed flat layout fills its slot of the cache; then every step runs one token of each
row through the model, draws the next tokens with one uniform each, and gives the rows of finished samples to waiting ones.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.device import has_triton
from trimtab.common.errors import UserError
from trimtab.common.memory import keep_freed_memory
from trimtab.common.rng import seed_for
from trimtab.models.attention import TreeLayout
from trimtab.models.load import max_positions
from trimtab.models.score import Tail, hidden_states, spare_tokens, tail_of
from trimtab.sampling.cache import (
    NOWHERE,
    PAGE,
    Capture,
    Decode,
    Paged,
    Pool,
    Probe,
    Reading,
    Rows,
    Shape,
    pages_for,
    reading_tables,
)
from trimtab.sampling.draws import pick, truncate, uniforms
from trimtab.sampling.graphs import Graphs, Recorder, few, recorder_for
from trimtab.sampling.packed import can_pack, packed_linears
from trimtab.sampling.protocol import OnProgress, Sample, SamplingOptions, Stop, check_prompts
from trimtab.sampling.schedule import ROW_MULTIPLE, Group, Schedule, group_jobs
from trimtab.sampling.stops import Decode as DecodeText, StopStrings
from trimtab.trees import PromptTree, TreeBatch

PREFILL_TOKENS = 2048
# Flash attention on CPU rounds a query differently in a short last block of queries; in multiples of 16 it does not.
PREFILL_MULTIPLE = 16


@dataclass(frozen=True)
class SamplingStats:
    """What the last call of ``sample`` did."""

    samples: int
    tokens: int  # drawn
    prompt_tokens: int  # computed once per distinct prompt
    steps: int
    rows: int  # sequences drawn at once
    kv_bytes: int  # allocated for keys and values
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


class NativeEngine:
    """``Engine`` over a causal language model that ``load_policy`` or ``new_policy`` made.

    ``end_id`` ends a sample. At most ``rows`` sequences are drawn at once, fewer where ``kv_bytes`` would not hold their
    keys and values. ``autocast`` computes in bf16 where torch's autocast does. ``decode`` (token ids to text) is needed for stop
    strings only. ``stats`` tells what the last call did.
    """

    def __init__(
        self, model: PreTrainedModel, end_id: int, *, rows: int = 256, kv_bytes: int = 2 << 30, autocast: bool = False,
        decode: DecodeText | None = None,
    ) -> None:  # fmt: skip
        assert rows >= 1
        keep_freed_memory()
        self.model, self.end_id, self.rows, self.kv_bytes, self.autocast, self.decode = model, end_id, rows, kv_bytes, autocast, decode
        self.stats: SamplingStats | None = None
        self._recorder: Recorder | None = None

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

        In float32 on CPU the same key gives the same ids whatever ``rows`` and the other prompts are.
        """
        assert len(prompts) == len(keys), f"{len(prompts)} prompts, {len(keys)} keys"
        check_prompts(prompts, options, keys, max_positions(self.model))
        if options.stop and self.decode is None:
            raise UserError("stop strings need a tokenizer: give the engine decode=")
        if not prompts or not k:
            return [[] for _ in prompts]
        began = time.perf_counter()
        with _sampling(self.model, self.autocast, rows=_round_up(min(self.rows, len(prompts) * k), ROW_MULTIPLE)):
            run = _Run(self, prompts, k, options, keys)
            try:
                samples = run.all(on_progress)
            finally:
                run.graphs = None  # it holds the run, and with it keys and values, which would lie beside the training step's memory
        self.stats = SamplingStats(
            samples=len(samples), tokens=run.tokens, prompt_tokens=run.prompt_tokens, steps=run.steps, rows=run.schedule.rows,
            kv_bytes=run.kv_bytes, seconds=time.perf_counter() - began,
        )  # fmt: skip
        return [samples[i : i + k] for i in range(0, len(samples), k)]


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
def _sampling(model: PreTrainedModel, autocast: bool, rows: int) -> Iterator[None]:
    """Evaluation mode, no gradients, optionally bf16 with weights packed for ``rows`` rows; everything as it was afterwards."""
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
            with packed_linears(model, rows) if autocast and can_pack(model.device) else nullcontext():
                yield
    finally:
        torch.clear_autocast_cache()
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module in training:
            module.training = True


class _Run:
    """One call of ``sample``: job j is sample j % k of prompt j // k."""

    def __init__(
        self, engine: NativeEngine, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str]
    ) -> None:
        self.model, self.options, self.end_id = engine.model, options, engine.end_id
        self.device = engine.model.device
        self.tail, self.head = tail_of(engine.model), engine.model.get_output_embeddings()
        self.positions = max_positions(engine.model)
        self.stops = StopStrings(options.stop, engine.decode, len(self.tail.weight)) if options.stop and engine.decode else None
        self.tokens = self.prompt_tokens = self.steps = 0

        distinct = {ids: n for n, ids in enumerate(dict.fromkeys(tuple(prompt) for prompt in prompts))}
        self.distinct = list(distinct)
        prompt_of = [distinct[tuple(prompt)] for prompt in prompts for _ in range(k)]
        self.lasts = np.array([self.distinct[p][-1] for p in prompt_of])
        self.streams = [seed_for(options.seed, "sample", key, j) for key in keys for j in range(k)]

        rows, slots, self.width, groups = self._allocate(engine, prompt_of, k)
        self.schedule = Schedule(groups, rows, slots)
        self.prompt_table = np.full((slots, pages_for(groups[0].prefix)), NOWHERE)
        shape = (rows, options.max_tokens)
        self.uniforms, self.logprobs, self.policy_logprobs = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        self.ids = np.zeros(shape, dtype=np.int64)
        self.drawn = np.zeros(rows, dtype=np.int64)
        self.feed = np.zeros(rows, dtype=np.int64)  # the token each row computes next
        # How rows read the prompts' pages: None when a row came or went.
        self.tables: tuple[np.ndarray, ...] | None = None
        self.reading: Reading | Paged | None = None
        recorder = engine.recorder
        self.graphs = Graphs(self._recorded, self.device, recorder) if recorder is not None else None

    def _allocate(self, engine: NativeEngine, prompt_of: Sequence[int], k: int) -> tuple[int, int, int, list[Group]]:
        """Makes the pools for as many rows as the engine's bytes hold; returns rows, slots, width and groups."""
        shapes = self._probe()
        rows = _round_up(min(engine.rows, len(prompt_of)), ROW_MULTIPLE)
        while True:
            width = min(k, rows)
            groups = group_jobs(prompt_of, [len(ids) - 1 for ids in self.distinct], width)
            # Twice the slots that full rows need, for prompts with only some samples left, and a few to compute ahead.
            full = -(-rows // width)
            slots = min(len(groups), (full if width == 1 else 2 * full) + -(-full // 4))
            pages = sum(pages_for(group.prefix) for group in groups[:slots])
            self.kv_bytes = Rows.bytes_needed(shapes, rows, self.options.max_tokens) + Pool.bytes_needed(shapes, pages)
            if self.kv_bytes <= engine.kv_bytes:
                break
            if rows == ROW_MULTIPLE:
                raise UserError(
                    f"keys and values of {rows} samples of {groups[0].prefix} + {self.options.max_tokens} tokens take "
                    f"{self.kv_bytes:,} bytes, kv_bytes allows {engine.kv_bytes:,}: give it more, or shorten the prompts"
                )
            rows = max(ROW_MULTIPLE, rows * engine.kv_bytes // self.kv_bytes // ROW_MULTIPLE * ROW_MULTIPLE)
        self.own, self.prompts = Rows(shapes, rows, self.device), Pool(shapes, pages, self.device)
        return rows, slots, width, groups

    def _probe(self) -> dict[int, Shape]:
        """What each layer keeps.

        Raises:
            UserError: a layer keeps its state elsewhere (recurrent, or it never calls the attention function).
        """
        probe = Probe()
        one = torch.tensor([self.distinct[0][0]], device=self.device)
        hidden_states(self.model, one, torch.zeros_like(one), probe)
        layers = self.model.config.get_text_config().num_hidden_layers
        if len(probe.shapes) != layers:
            raise UserError(
                f"{type(self.model).__name__}: only {len(probe.shapes)} of {layers} layers use attention that can be cached, "
                "so it cannot be sampled from"
            )
        return probe.shapes

    def all(self, on_progress: OnProgress | None) -> list[Sample]:
        """Draws every job; samples in the order of jobs."""
        samples: dict[int, Sample] = {}
        while True:
            while filled := self.schedule.fill_slots(PREFILL_TOKENS):
                self._prefill(filled)
            self._admit()
            if not self.schedule.busy.any():
                return [samples[job] for job in range(len(samples))]
            finished = self._step()
            for row, stop in finished:
                samples[int(self.schedule.job[row])] = self._sample(row, stop)
            if finished:
                self._release(np.array([row for row, _ in finished]))
                if on_progress is not None:
                    on_progress(len(samples), self.tokens)

    def _prefill(self, filled: Sequence[tuple[int, Group]]) -> None:
        """Computes the prompts of ``filled`` but for their last tokens, each distinct one once, into their slots."""
        prompts = [p for p in dict.fromkeys(group.prompt for _, group in filled) if len(self.distinct[p]) > 1]
        if not prompts:
            return
        batch = TreeBatch.pack([PromptTree(_padded(self.distinct[p][:-1]), ()) for p in prompts]).to(self.device)
        starts = {p: span.start for p, span in zip(prompts, batch.layout.spans, strict=True)}
        pages, columns, tokens = [], [], []
        for slot, group in filled:
            count = pages_for(group.prefix)
            self.prompt_table[slot, :count] = self.prompts.take(count)
            column = np.arange(group.prefix)
            pages.append(self.prompt_table[slot, column // PAGE])
            columns.append(column % PAGE)
            tokens.append(starts.get(group.prompt, 0) + column)
        places = (self._tensor(np.concatenate(parts)) for parts in (tokens, pages, columns))
        spare = spare_tokens(batch.tokens, self.device) if self.device.type == "cuda" else 0
        layout = Capture(TreeLayout(batch.layout.filled(spare)), self.prompts, *places)
        ids, positions = (nn.functional.pad(t, (0, spare)) for t in (batch.ids, batch.positions.clamp(max=self.positions - 1)))
        hidden_states(self.model, ids, positions, layout)
        self.prompt_tokens += sum(len(self.distinct[p]) - 1 for p in prompts)

    def _admit(self) -> None:
        """Gives idle rows to waiting samples."""
        rows = self.schedule.admit()
        if len(rows):
            jobs = self.schedule.job[rows]
            self.feed[rows] = self.lasts[jobs]
            self.uniforms[rows] = uniforms([self.streams[job] for job in jobs], self.options.max_tokens)
            self.tables = self.reading = None

    def _release(self, rows: np.ndarray) -> None:
        """Rows whose samples are finished give back their pages."""
        slots = self.schedule.release(rows)
        self.prompts.give_back(self.prompt_table[slots])
        self.prompt_table[slots] = NOWHERE
        self.drawn[rows] = 0
        targets, sources = self.schedule.close_ranks()
        for array in (self.uniforms, self.logprobs, self.policy_logprobs, self.ids, self.drawn, self.feed):
            array[targets] = array[sources]
        self.own.move(targets, sources)
        self.drawn[sources] = 0
        self.prompts.close_ranks(self.prompt_table)
        self.tables = self.reading = None

    def _step(self) -> list[tuple[int, Stop]]:
        """One token for every row in use; returns the rows that finished with it."""
        schedule = self.schedule
        # Where steps are recorded, shapes are few: all rows while samples wait, and room for every token from the start.
        count = schedule.used_rows if self.graphs is None else schedule.rows if schedule.waiting else few(schedule.used_rows, schedule.rows)
        rows, drawn, busy = np.arange(count), self.drawn[:count], schedule.busy[:count]
        self.own.reach(int(drawn.max()) + 1 if self.graphs is None else self.options.max_tokens)
        if self.tables is None and schedule.longest_prefix:
            table = self.prompt_table
            blocks = pages_for(schedule.longest_prefix) if self.graphs is None else table.shape[1]
            pages = table[schedule.slot[:count], :blocks] * busy[:, None]
            if has_triton(self.device):
                self.tables = (pages,)
            else:
                used = self.prompts.used if self.graphs is None else self.prompts.size
                self.tables = reading_tables(pages, schedule.place[:count], self.width, used)
        row = (self.feed[:count], drawn, schedule.prefix[:count], self.uniforms[rows, drawn])
        if self.graphs is not None:
            found = self.graphs([*row, *(self.tables or ())])
        else:
            if self.reading is None and self.tables is not None:
                self.reading = self._reading([self._tensor(table) for table in self.tables])
            feed, columns, prefix, uniform = (self._tensor(array) for array in row)
            found = self._token(feed, columns, prefix, uniform, self.reading)
        tokens, logprobs, policy_logprobs = (t.cpu().numpy() for t in found)

        self.ids[rows, drawn], self.feed[:count] = tokens, tokens
        self.logprobs[rows, drawn], self.policy_logprobs[rows, drawn] = logprobs, policy_logprobs
        drawn += busy
        self.tokens += int(busy.sum())
        self.steps += 1
        return self._finished(tokens, busy, drawn)

    def _token(
        self, feed: Tensor, drawn: Tensor, prefix: Tensor, uniform: Tensor, reading: Reading | Paged | None
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """(n,) each row's token to compute, its place and its prompt's length -> the next token and its logprobs, as ``draw``."""
        hidden = hidden_states(self.model, feed, prefix + drawn, Decode(reading, self.own, drawn, prefix))
        return draw(hidden, self.head(hidden), self.tail, self.options, uniform)

    def _recorded(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """``_token`` of its inputs and the tables, in that order."""
        feed, drawn, prefix, uniform, *tables = inputs
        return self._token(feed, drawn, prefix, uniform, self._reading(tables) if tables else None)

    def _reading(self, tables: Sequence[Tensor]) -> Reading | Paged:
        """How rows read the prompts' pages, from the arrays of ``_step``."""
        return Paged(self.prompts, *tables) if has_triton(self.device) else Reading(self.prompts, *tables)

    def _finished(self, tokens: np.ndarray, busy: np.ndarray, drawn: np.ndarray) -> list[tuple[int, Stop]]:
        ended = tokens == self.end_id
        over = ended | (drawn >= self.options.max_tokens)
        maybe = self.stops.candidates(tokens) & ~ended if self.stops else np.zeros_like(busy)
        finished: list[tuple[int, Stop]] = []
        for row in np.flatnonzero(busy & (over | maybe)).tolist():
            if maybe[row] and self.stops and self.stops.found(self.ids[row, : drawn[row]].tolist()):
                finished.append((row, "string"))
            elif over[row]:
                finished.append((row, "end" if ended[row] else "length"))
        return finished

    def _sample(self, row: int, stop: Stop) -> Sample:
        size = self.drawn[row]
        ids, logprobs, policy = (a[row, :size].tolist() for a in (self.ids, self.logprobs, self.policy_logprobs))
        return Sample(tuple(ids), tuple(logprobs), tuple(policy), stop)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)


def draw(hidden: Tensor, raw: Tensor, tail: Tail, options: SamplingOptions, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (R, H), the head's output for them (R, V) and uniforms (R,) -> tokens (R,), their logprobs as drawn and under the
    policy (R,) float32.

    The drawn token's own logit is computed again in float32, as in ``score_tokens``, so that under autocast too
    the two agree.
    """
    logits = _cap(raw.float(), tail)
    policy_weights = torch.softmax(logits, dim=-1) if options.temperature == 1 or options.greedy else None
    if options.greedy:
        tokens = logits.argmax(-1)
    else:
        weights = policy_weights if policy_weights is not None else torch.softmax(logits / options.temperature, dim=-1)
        kept = truncate(weights, options.top_k, options.top_p)
        tokens, total = pick(kept, uniform)
    with torch.autocast(hidden.device.type, enabled=False):
        exact = (hidden.float() * tail.weight[tokens].float()).sum(-1)
        if tail.bias is not None:
            exact = exact + tail.bias[tokens].float()
        exact = _cap(exact, tail)
    apart = exact - logits.gather(1, tokens.unsqueeze(-1)).squeeze(-1)

    def logprob(of: Tensor, scale: float, total: Tensor) -> Tensor:
        """log of the drawn token's share of the weights ``of``, which sum to ``total`` (R,), with its logit replaced by the exact one."""
        weight = of.gather(1, tokens.unsqueeze(-1)).squeeze(-1)
        mine, others = weight.log() + apart * scale, (total - weight).clamp_min(0).log()
        return mine - torch.logaddexp(others, mine)

    if policy_weights is not None:
        policy = logprob(policy_weights, 1.0, torch.ones_like(exact))
    else:
        policy = exact - torch.logsumexp(logits.scatter(1, tokens.unsqueeze(-1), exact.unsqueeze(-1)), dim=-1)
    if options.greedy:
        return tokens, torch.zeros_like(policy), policy
    if weights is policy_weights and kept is weights:
        return tokens, policy, policy
    return tokens, logprob(weights, 1 / options.temperature, total), policy


def _cap(raw: Tensor, tail: Tail) -> Tensor:
    """Raw products -> the model's logits."""
    scaled = raw if tail.scale == 1.0 else raw * tail.scale
    return scaled if tail.softcap is None else tail.softcap * torch.tanh(scaled / tail.softcap)


def _padded(ids: Sequence[int]) -> tuple[int, ...]:
    """``ids`` with the last one repeated up to a multiple of ``PREFILL_MULTIPLE``; what follows a token changes nothing for it."""
    return (*ids, *[ids[-1]] * (-len(ids) % PREFILL_MULTIPLE))


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
