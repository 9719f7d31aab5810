"""What ``VLLMEngine`` uses of vLLM 0.20 and later, computed with transformers: the same names, arguments, results and refusals.

Facts about vLLM: docs.vllm.ai (LLM, SamplingParams, RequestOutput), and the source of 0.33 (``LLM.apply_model``, ``reset_prefix_cache``,
``logprobs_mode``, ``VLLM_ENABLE_V1_MULTIPROCESSING``).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Logprob:
    logprob: float
    rank: int = 0
    decoded_token: str = ""


@dataclass
class SamplingParams:
    n: int = 1
    seed: int | None = None
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        assert self.n == 1 and self.logprobs == 0 and self.ignore_eos and self.seed is not None and -(2**63) <= self.seed < 2**63
        assert self.top_k >= -1 and 0 < self.top_p <= 1 and self.temperature >= 0


@dataclass
class CompletionOutput:
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str
    stop_reason: int | str | None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


@dataclass
class Weights:
    model: Any

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in weights:
                own[name].copy_(value)  # a name that it does not know is an error there too
        return set(own)


@dataclass
class LLM:
    model: str
    dtype: str
    max_model_len: int
    gpu_memory_utilization: float
    enable_prefix_caching: bool
    logprobs_mode: str
    cached: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.logprobs_mode == "processed_logprobs"
        self.network = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.weights = Weights(self.network)

    def apply_model(self, function: Callable[[Weights], Any]) -> list[Any]:
        return [function(self.weights)]

    def reset_prefix_cache(self) -> bool:
        self.cached.clear()
        return True

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[SamplingParams], use_tqdm: bool = True
    ) -> list[RequestOutput]:
        assert len(prompts) == len(sampling_params) and not use_tqdm
        both = zip(prompts, sampling_params, strict=True)
        return [RequestOutput([self._complete(p["prompt_token_ids"], parameters)]) for p, parameters in both]

    @torch.no_grad()
    def _complete(self, prompt: list[int], parameters: SamplingParams) -> CompletionOutput:
        draw = torch.Generator().manual_seed(parameters.seed or 0)
        ids: list[int] = []
        said: list[dict[int, Logprob]] = []
        reason: tuple[str, int | str | None] = ("length", None)
        while len(ids) < parameters.max_tokens and reason[0] == "length":
            logits = self._logits((*prompt, *ids)) / (parameters.temperature or 1.0)
            if 0 < parameters.top_k < len(logits):
                logits = logits.masked_fill(logits < logits.topk(parameters.top_k).values[-1], float("-inf"))
            logprobs = logits.log_softmax(-1)
            token = int(torch.multinomial(logprobs.exp(), 1, generator=draw)) if parameters.temperature else int(logprobs.argmax())
            ids.append(token)
            said.append({token: Logprob(float(logprobs[token]))})
            text = self.tokenizer.decode(ids)
            if token in (parameters.stop_token_ids or ()):
                reason = ("stop", token)
            elif found := [stop for stop in parameters.stop or () if stop in text]:
                reason = ("stop", found[0])
        return CompletionOutput(ids, said, *reason)

    def _logits(self, ids: tuple[int, ...]) -> Tensor:
        """A prefix that was seen is not computed again: whoever changes the weights must reset the cache."""
        if ids not in self.cached:
            self.cached[ids] = self.network(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        return self.cached[ids]
