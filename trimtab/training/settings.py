"""The settings that every training verb shares."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trimtab.common.config import Settings
from trimtab.common.precision import DTYPE_SENTENCE, Dtype
from trimtab.training.tracking import TrackerName


def _as_text(value: Any) -> Any:
    """Python's and YAML's true and false as the words that the option takes."""
    return str(value).lower() if isinstance(value, bool) else value


class TrainingSettings(Settings):
    """What the loop and its optimizer need to know. Methods add their own fields."""

    out: str = Field("", description="folder of this run, empty = runs/VERB; the same command goes on where it stopped")
    seed: int = Field(0, description="seed of every random draw of this run")
    steps: int = Field(0, ge=0, description="optimizer steps (online methods: iterations); 0 = epochs decides")
    epochs: float = Field(1.0, gt=0, description="passes over the data when steps is 0")
    batch_size: int = Field(
        32, ge=1, description="trees (prompts) per optimizer step; online methods: prompts per iteration"
    )
    micro_batch_tokens: int = Field(
        8192, ge=1, description="tokens computed at once; bounds memory, changes results by rounding only (with dropout, by its draws)"
    )
    checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: a third more time, far less memory, the same numbers"
    )
    compile: Annotated[Literal["auto", "true", "false"], BeforeValidator(_as_text)] = Field(
        "auto", description="torch.compile of the layers: auto = on GPUs (a minute at the start); on CPU it needs g++ and gained nothing"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="how lr falls after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which lr rises from 0")
    final_lr: float = Field(
        0.1, ge=0, le=1, description="what lr falls to, as a share of the peak (linear, cosine): the step after the last would have it"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices; vectors are never decayed")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit keeps its moments in 8 bits: 2 bytes a weight, not 8 (bitsandbytes; extra qlora)"
    )
    adam_beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's second-moment decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    dtype: Dtype = Field("auto", description=DTYPE_SENTENCE)
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 = all")
    track: TrackerName = Field("none", description="sends the metrics on to a tracker, step by step (extra track)")
    save_every: int = Field(0, ge=0, description="steps between checkpoints; 0 = five in a run")
    eval_every: int = Field(0, ge=0, description="steps between evaluations; 0 = five in a run")
    max_length: int = Field(0, ge=0, description="longest prompt + completion in tokens; 0 = what the model can take")
