"""One call of the native engine: rows of samples, one token of each at every step, until every sample is drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimtab.common.device import free_bytes
from trimtab.common.errors import RunFailed, UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.common.rng import seed_for
from trimtab.models.score import hidden_states, tail_of
from trimtab.sampling.cache import Decode, Paged, Pool, Reading, Rows, pages_for, reading_tables, reads_pages
from trimtab.sampling.draws import draw, uniforms
from trimtab.sampling.graphs import Graphs, Recorder, bucket
from trimtab.sampling.plan import FREE_SHARE, plan, probe
from trimtab.sampling.prefill import PREFILL_TOKENS, PromptCache
from trimtab.sampling.protocol import OnProgress, Sample, SamplingOptions, Stop
from trimtab.sampling.schedule import Schedule, group_jobs
from trimtab.sampling.stops import StopStrings


class Run:
    """One call of ``sample``: job j is sample j % k of prompt j // k."""

    def __init__(
        self, model: PreTrainedModel, end_id: int, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str],
        *, rows: int, kv_bytes: int, stops: StopStrings | None, recorder: Recorder | None,
    ) -> None:  # fmt: skip
        self.model, self.device, self.options, self.end_id, self.stops = model, model.device, options, end_id, stops
        self.tail, self.head = tail_of(model), model.get_output_embeddings()
        self.keys, self.k = keys, k
        self.tokens = self.steps = 0

        numbers = {ids: n for n, ids in enumerate(dict.fromkeys(tuple(prompt) for prompt in prompts))}
        distinct, prompt_of = list(numbers), [numbers[tuple(prompt)] for prompt in prompts for _ in range(k)]
        self.lasts = np.array([distinct[p][-1] for p in prompt_of])
        self.streams = [seed_for(options.seed, "sample", key, j) for key in keys for j in range(k)]

        shapes = probe(model, distinct[0][0])
        groups = group_jobs(prompt_of, [len(ids) - 1 for ids in distinct], k)
        self.plan = plan(groups, shapes, options.max_tokens, rows, kv_bytes or int(FREE_SHARE * free_bytes(self.device)))
        if kv_bytes and self.plan.kv_bytes > kv_bytes:
            raise UserError(
                f"keys and values of one sample of {groups[0].prefix + 1} + {options.max_tokens} tokens take {self.plan.kv_bytes:,} bytes, "
                f"kv_bytes allows {kv_bytes:,}: give it more, or 0 for a share of what is free"
            )
        self.own = Rows(shapes, self.plan.rows, self.device)
        self.prompts = PromptCache(model, distinct, Pool(shapes, self.plan.pages, self.device), self.plan.slots)
        self.paged = reads_pages(self.prompts.pool)
        self.schedule = Schedule(groups, self.plan.rows, self.plan.slots)
        rows = self.schedule.size
        shape = (rows, options.max_tokens)
        self.uniforms, self.logprobs, self.policy_logprobs = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        self.ids = np.zeros(shape, dtype=np.int64)
        self.drawn = np.zeros(rows, dtype=np.int64)
        self.feed = np.zeros(rows, dtype=np.int64)  # the token each row computes next
        # How rows read the prompts' pages: None when a row came or went.
        self.tables: tuple[np.ndarray, ...] | None = None
        self.reading: Reading | Paged | None = None
        self.graphs = Graphs(self._recorded, self.device, recorder) if recorder is not None else None

    def all(self, on_progress: OnProgress | None) -> list[Sample]:
        """Draws every job; samples in the order of jobs."""
        samples: dict[int, Sample] = {}
        while True:
            while filled := self.schedule.fill_slots(PREFILL_TOKENS):
                self.prompts.fill(filled)
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
        self.prompts.release(self.schedule.release(rows))
        self.drawn[rows] = 0
        targets, sources = self.schedule.compact()
        for array in (self.uniforms, self.logprobs, self.policy_logprobs, self.ids, self.drawn, self.feed):
            array[targets] = array[sources]
        self.own.move(targets, sources)
        self.drawn[sources] = 0
        self.tables = self.reading = None

    def _step(self) -> list[tuple[int, Stop]]:
        """One token for every row in use; returns the rows that finished with it."""
        schedule = self.schedule
        count = schedule.used_rows
        if self.graphs is not None:  # shapes are few: all rows while samples wait, and room for every token from the start
            count = schedule.size if schedule.waiting else bucket(count, schedule.size)
        rows, drawn, busy = np.arange(count), self.drawn[:count], schedule.busy[:count]
        self.own.reach(int(drawn.max()) + 1 if self.graphs is None else self.options.max_tokens)
        if self.tables is None and schedule.longest_prefix:
            table, pool = self.prompts.table, self.prompts.pool
            blocks = pages_for(schedule.longest_prefix) if self.graphs is None else table.shape[1]
            live = min(count, schedule.rows)
            pages = table[schedule.slot[:live], :blocks] * busy[:live, None]
            if self.paged:
                self.tables = (pages,)
            else:
                used = pool.used if self.graphs is None else pool.size
                self.tables = reading_tables(pages, schedule.place[:live], schedule.width, used)
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
        live = self.own.rows  # more rows are computed where a product wants them, but keep nothing
        hidden = hidden_states(self.model, feed, prefix + drawn, Decode(reading, self.own, drawn[:live], prefix[:live]))
        return draw(hidden, self.head(hidden), self.tail, self.options, uniform)

    def _recorded(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """``_token`` of its inputs and the tables, in that order."""
        feed, drawn, prefix, uniform, *tables = inputs
        return self._token(feed, drawn, prefix, uniform, self._reading(tables) if tables else None)

    def _reading(self, tables: Sequence[Tensor]) -> Reading | Paged:
        """How rows read the prompts' pages, from the arrays of ``_step``."""
        return (Paged if self.paged else Reading)(self.prompts.pool, *tables)

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
        """What was drawn in a row.

        Raises:
            RunFailed: from logits that are no numbers.
        """
        size = self.drawn[row]
        ids, logprobs, policy = (a[row, :size] for a in (self.ids, self.logprobs, self.policy_logprobs))
        if not np.isfinite(policy).all() or not np.isfinite(logprobs).all():
            raise RunFailed(
                f"prompt {self.keys[self.schedule.job[row] // self.k]!r}: the model's logits are not finite (NaN or infinity) after it; "
                "trimtab doctor MODEL looks at its weights"
            )
        return Sample(tuple(ids.tolist()), tuple(logprobs.tolist()), tuple(policy.tolist()), stop)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)
