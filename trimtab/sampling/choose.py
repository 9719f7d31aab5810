"""The option ``engine`` of every verb that samples."""

import math
from typing import Literal

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.common.precision import in_bf16
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.plan import FREE_SHARE
from trimtab.sampling.protocol import Engine
from trimtab.sampling.stops import Decode
from trimtab.sampling.vllm import MEMORY, VLLMEngine

EngineName = Literal["native", "vllm"]
ENGINE_SENTENCE = "what draws the answers: native = the modules themselves, vllm = vLLM's copy of them (GPU; extra gpu)"
KV_SENTENCE = (
    f"memory for keys and values of what is drawn at once, GB; 0 = {FREE_SHARE:.0%} of what is free; sets the speed, never the answers"
)


def engine_for(
    name: EngineName, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_id: int, *, dtype: str, longest: int,
    kv_gb: float = 0.0, decode: Decode | None = None,
) -> Engine:  # fmt: skip
    """The engine called ``name`` over ``model``; ``longest`` is the longest prompt + completion, in tokens; ``kv_gb`` the memory for keys
    and values, GB, or 0; ``decode`` is needed for stop strings.

    Raises:
        UserError: vLLM is asked for, and is not installed, or is told ``kv_gb``; ``kv_gb`` does not hold one sample of ``longest`` tokens.
    """
    if name == "vllm":
        if kv_gb:
            raise UserError(f"kv_gb={kv_gb:g} is for engine=native; vLLM takes {MEMORY:.0%} of the GPU by itself: leave kv_gb out")
        return VLLMEngine(model, tokenizer, end_id, longest=longest, dtype=dtype)
    engine = NativeEngine(model, end_id, kv_bytes=round(kv_gb * 1e9), autocast=in_bf16(dtype, model.device.type), decode=decode)
    if kv_gb and longest and (need := engine.bytes_of_one(longest)) > engine.kv_bytes:
        raise UserError(
            f"kv_gb={kv_gb:g} is too little for one answer: with its prompt it may have {longest:,} tokens, whose keys and values take "
            f"{math.ceil(need / 1e6) / 1e3:g} GB; write kv_gb={math.ceil(need / 1e6) / 1e3:g} or more, or leave it out"
        )
    return engine
