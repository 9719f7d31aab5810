"""AdamW over a method's modules, and the learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from trimtab.training.settings import TrainingSettings


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


def adamw(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """Fused AdamW; matrices are decayed, vectors (biases, norms) are not (Loshchilov and Hutter 2019)."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.lr, betas=(0.9, settings.adam_beta2), fused=True
    )


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``."""
    warm = round(settings.warmup * steps)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    if settings.schedule == "constant":
        return settings.lr
    fall = done if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * done))
    return settings.lr * (1 - (1 - settings.final_lr) * fall)
