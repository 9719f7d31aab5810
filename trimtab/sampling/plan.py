"""What one call of the engine needs, known before anything is drawn: what each layer keeps, how many samples at once, and their memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel
from trimtab.models.score import hidden_states
from trimtab.sampling.cache import BLOCK, Pool, Probe, Rows, Shape, pages_for
from trimtab.sampling.schedule import Group, slots_for

# Of the free memory, where nobody says how much: a training step's tensors come and go beside it.
FREE_SHARE = 0.3


@dataclass(frozen=True)
class Plan:
    """``rows`` samples at once, of prompts in ``slots`` with ``pages`` in all; ``kv_bytes`` are allocated for keys and values."""

    rows: int
    slots: int
    pages: int
    kv_bytes: int


def plan(groups: Sequence[Group], shapes: Mapping[int, Shape], max_tokens: int, rows: int, kv_bytes: int) -> Plan:
    """For as many rows as ``kv_bytes`` hold, at most ``rows``; for one row where they hold none."""
    rows = min(rows, sum(len(group.jobs) for group in groups))
    while True:
        slots = slots_for(groups, rows)
        pages = sum(pages_for(group.prefix) for group in groups[:slots])
        found = Plan(rows, slots, pages, Rows.bytes_needed(shapes, rows, max_tokens) + Pool.bytes_needed(shapes, pages))
        if found.kv_bytes <= kv_bytes or rows == 1:
            return found
        rows = max(1, min(rows - 1, rows * kv_bytes // found.kv_bytes))


def bytes_of_one(shapes: Mapping[int, Shape], longest: int) -> int:
    """What one sample takes at most whose prompt and completion have ``longest`` tokens together."""
    return Pool.bytes_needed(shapes, 1) + (longest + BLOCK) * sum(shape.bytes_per_token for shape in shapes.values())


def probe(model: PreTrainedModel, token: int) -> dict[int, Shape]:
    """What each layer of ``model`` keeps, from a forward of ``token``.

    Raises:
        UserError: a layer keeps its state elsewhere (recurrent, or it never calls the attention function).
    """
    found = Probe()
    one = torch.tensor([token], device=model.device)
    hidden_states(model, one, torch.zeros_like(one), found)
    layers = model.config.get_text_config().num_hidden_layers
    if len(found.shapes) != layers:
        raise UserError(
            f"{type(model).__name__}: only {len(found.shapes)} of {layers} layers use attention that can be cached, "
            "so it cannot be sampled from"
        )
    return found.shapes
