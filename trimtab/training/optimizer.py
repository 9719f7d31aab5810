"""AdamW over a method's modules, and the learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.training.settings import TrainingSettings

# What bitsandbytes puts into each parameter's state although it is the same for all: its name there, its name in the optimizer.
QUANTILES = {"qmap1": "dynamic", "qmap2": "udynamic"}


def trained_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """``module.parameter`` -> each trained parameter once (tied weights have one name)."""
    out: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in modules.items():
        for inner, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                out[f"{name}.{inner}"] = parameter
    return out


def adamw(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, fused or with its moments in 8 bits; matrices are decayed, vectors (biases, norms) are not (Loshchilov and Hutter 2019).

    Raises:
        UserError: 8 bits are asked for, and bitsandbytes is not installed.
    """
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups, betas = [g for g in groups if g["params"]], (0.9, settings.adam_beta2)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(f"optimizer=adamw8bit needs bitsandbytes ({error}): pip install 'trimtab[qlora]'") from None
    return AdamW8bit(groups, lr=settings.lr, betas=betas, weight_decay=0.0)


def kept_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What the optimizer has to remember of one parameter: moments, their scales where they are quantised, steps done."""
    kept = optimizer.state.get(parameter, {})
    return {name: torch.as_tensor(value).cpu() for name, value in kept.items() if name not in QUANTILES}


def give_back(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, kept: Mapping[str, Tensor]) -> None:
    """Puts back what ``kept_of`` gave."""
    state: dict[str, Any] = {name: value.to(parameter.device) for name, value in kept.items()}
    if "state1" in state:  # bitsandbytes counts in plain integers, and its quantiles are the same for all parameters
        state["step"] = int(state["step"])
        if state["state1"].dtype == torch.uint8:
            state |= {name: optimizer.name2qmap[of] for name, of in QUANTILES.items()}  # type: ignore[attr-defined]
    optimizer.state[parameter] = state


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``."""
    warm = round(settings.warmup * steps)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "linear":
        return settings.lr * (1 - (1 - settings.final_lr) * done)
    return settings.lr * cosine_fall(done, settings.final_lr)


def cosine_fall(done: float, final: float) -> float:
    """From 1 at ``done`` = 0 to ``final`` at 1, along half a cosine (Loshchilov and Hutter 2017, equation 5, without restarts)."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
