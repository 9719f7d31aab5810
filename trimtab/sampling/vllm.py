"""vLLM behind the ``Engine`` protocol: for GPUs, where it draws many times faster than plain modules. Needs the extra ``gpu``.

vLLM keeps a copy of the weights of its own, in this process; every ``sample`` hands it the policy's before it draws (whether they have
changed cannot be asked: a fused optimizer leaves no trace on a tensor). Each sample is a request with a seed of its own, so that it
depends on its prompt's key and not on what is drawn beside it, as far as the GPU's products allow; vLLM's prefix cache computes prompts
once.
"""

import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.common.precision import in_bf16, products
from trimtab.common.rng import seed_for
from trimtab.models.load import max_positions, save_model
from trimtab.models.lora import merged
from trimtab.models.score import score_tokens
from trimtab.sampling.protocol import OnProgress, Sample, SamplingOptions, SamplingStats, Stop, check_prompts
from trimtab.trees import PromptTree, TreeBatch, pack_indices

# Tokens that the policy is asked about at once.
BUDGET = 8192
# Of the GPU, for vLLM's weights, keys and values.
MEMORY = 0.4


class VLLMEngine:
    """``Engine`` over vLLM's copy of ``model``. ``end_id`` ends a sample; ``longest`` is the longest prompt + completion, in tokens, that
    it is ever asked for (vLLM sets memory aside for one of them); ``memory`` is the share of the GPU that vLLM takes.

    Raises:
        UserError: vLLM is not installed.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_id: int, *, longest: int = 0, dtype: str = "auto",
        memory: float = MEMORY,
    ) -> None:  # fmt: skip
        # Read when vLLM is imported: its copy must be in this process to be handed weights.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            self._vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise UserError(f"engine=vllm needs vLLM ({error}): pip install 'trimtab[gpu]', or leave engine= out") from None
        self.model, self.end_id, self.dtype = model, end_id, dtype
        self.stats: SamplingStats | None = None  # vLLM keeps its own
        self.longest = min(longest or max_positions(model), max_positions(model))
        # The model as it is now, vocabulary grown and all, not as the folder that it came from has it.
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, tokenizer, Path(folder) / "model")
            self._llm = self._vllm.LLM(
                model=str(Path(folder) / "model"), dtype="bfloat16" if in_bf16(dtype) else "float32",
                max_model_len=self.longest, gpu_memory_utilization=memory,
                enable_prefix_caching=True, logprobs_mode="processed_logprobs",
            )  # fmt: skip

    def sample(
        self, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str], *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Sample]]:  # fmt: skip
        """See ``Engine.sample``."""
        assert len(prompts) == len(keys), f"{len(prompts)} prompts, {len(keys)} keys"
        check_prompts(prompts, options, keys, self.longest, self.model.get_input_embeddings().num_embeddings)
        if not prompts or not k:
            return [[] for _ in prompts]
        self._hand_over()
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts for _ in range(k)]
        parameters = [self._parameters(options, seed_for(options.seed, "sample", key, j)) for key in keys for j in range(k)]
        found = self._llm.generate(requests, sampling_params=parameters, use_tqdm=False)
        drawn = [self._sample(request.outputs[0]) for request in found]
        if on_progress is not None:
            on_progress(len(drawn), sum(len(s.token_ids) for s in drawn))
        samples = [drawn[i : i + k] for i in range(0, len(drawn), k)]
        if options.temperature == 1 and not options.truncated:
            return samples
        return self._with_policy_logprobs(prompts, samples, greedy=options.greedy)

    def _parameters(self, options: SamplingOptions, seed: int) -> Any:
        """vLLM's words for our options."""
        return self._vllm.SamplingParams(
            n=1, seed=seed, max_tokens=options.max_tokens, temperature=0.0 if options.greedy else options.temperature,
            top_p=1.0 if options.greedy else options.top_p, top_k=0 if options.greedy else options.top_k, stop=list(options.stop) or None,
            stop_token_ids=[self.end_id], ignore_eos=True, logprobs=0, skip_special_tokens=False,
        )  # fmt: skip

    def _sample(self, output: Any) -> Sample:
        ids = tuple(output.token_ids)
        logprobs = tuple(float(said[token].logprob) for token, said in zip(ids, output.logprobs, strict=True))
        stop: Stop = "length" if output.finish_reason == "length" else "string" if isinstance(output.stop_reason, str) else "end"
        return Sample(ids, logprobs, logprobs, stop)

    @torch.no_grad()
    def _with_policy_logprobs(
        self, prompts: Sequence[Sequence[int]], samples: Sequence[Sequence[Sample]], *, greedy: bool
    ) -> list[list[Sample]]:  # fmt: skip
        """vLLM tells the logprobs of the distribution that it drew from: where that is not the policy's own, the policy is asked."""
        both = zip(prompts, samples, strict=True)
        trees = [PromptTree(tuple(prompt), tuple(s.token_ids for s in row)) for prompt, row in both]
        out: list[list[Sample]] = [[] for _ in trees]
        for members in pack_indices(trees, BUDGET):
            with products(self.dtype):
                said = score_tokens(self.model, TreeBatch.pack([trees[i] for i in members])).logprobs.tolist()
            for i in members:
                for s in samples[i]:
                    own, said = tuple(said[: len(s.token_ids)]), said[len(s.token_ids) :]
                    out[i].append(Sample(s.token_ids, (0.0,) * len(s.token_ids) if greedy else s.logprobs, own, s.stop))
        return out

    def _hand_over(self) -> None:
        """Gives vLLM the policy's weights; what it kept of prompts is then void."""
        weights: list[tuple[str, Tensor]] = [(name, p.detach()) for name, p in merged(self.model).named_parameters()]
        self._llm.apply_model(lambda theirs: theirs.load_weights(weights))
        self._llm.reset_prefix_cache()
