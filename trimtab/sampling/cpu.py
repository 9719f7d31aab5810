"""One decoding step's attention on CPUs by compiled code of our own (``common/attention.cpp``): it reads ``Pool`` and ``Rows`` as they lie,
and a row's output depends on nothing beside it."""

import torch
from torch import Tensor

from trimtab.common.kernels import call, shape, strided
from trimtab.models.rule import AttentionRule


def cpu_step(
    new: tuple[Tensor, Tensor, Tensor], prompt: tuple[Tensor, Tensor] | None, own: tuple[Tensor, Tensor], pages: Tensor | None,
    prefix: Tensor, columns: Tensor, rule: AttentionRule,
) -> Tensor:  # fmt: skip
    """``new`` query (n, H, D), key (n, G, D) and value (n, G, V) of one token in each row -> (n, H, V) float32; the key and the value are
    written to ``own``.

    ``prompt``: keys and values (P, G, PAGE, D) of the pool, and ``pages`` (n, p) which of them hold a row's prompt of ``prefix`` (n,)
    tokens; ``own``: (rows, b, G, BLOCK, D), a row's own tokens 0 .. ``columns`` (n,), the new one the last. All in float32.
    """
    query, _, value = new
    count, heads = query.shape[:2]
    out = own[0].new_empty(count, heads, value.shape[2])
    known: tuple[Tensor | int | None, ...] = (None, None, None, 0, 1)
    if prompt is not None and pages is not None:
        known = (*prompt, pages, pages.shape[1], prompt[0].shape[2])
    whole = [t for t in (pages, prefix, columns) if t is not None]
    assert all(t.dtype == torch.int64 and t.is_contiguous() and len(t) == count for t in whole)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in (*own, *(prompt or ())))
    assert len(own[0]) >= count and own[0].shape[2] == value.shape[1]
    call(
        "trimtab_step", count, shape(*new), *strided(*new), *known, *own, own[0].shape[1], own[0].shape[3], prefix, columns,
        *rule.numbers(), rule.float_sinks(heads), out,
    )  # fmt: skip
    return out
