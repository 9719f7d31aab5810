"""The option ``engine`` of every verb that samples."""

from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.common.precision import in_bf16
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import Engine
from trimtab.sampling.stops import Decode
from trimtab.sampling.vllm import VLLMEngine

EngineName = Literal["native", "vllm"]
ENGINE_SENTENCE = "what draws the answers: native = the modules themselves, vllm = vLLM's copy of them (GPU; extra gpu)"


def engine_for(
    name: EngineName, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_id: int, *, dtype: str, longest: int,
    decode: Decode | None = None,
) -> Engine:  # fmt: skip
    """The engine called ``name`` over ``model``; ``longest`` is the longest prompt + completion; ``decode`` is needed for stop strings.

    Raises:
        UserError: vLLM is asked for, and is not installed.
    """
    if name == "vllm":
        return VLLMEngine(model, tokenizer, end_id, longest=longest, dtype=dtype)
    return NativeEngine(model, end_id, autocast=in_bf16(dtype, model.device.type), decode=decode)
