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
    (count, heads), (groups, values), size = query.shape[:2], value.shape[1:], query.shape[2]
    rows, blocks, _, block, _ = own[0].shape
    whole = [t for t in (pages, prefix, columns) if t is not None]
    # The library looks at addresses alone: what does not fit would be written elsewhere.
    assert all(t.dtype == torch.int64 and t.is_contiguous() and len(t) == count for t in whole)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in (*own, *(prompt or ())))
    assert [t.shape for t in own] == [(rows, blocks, groups, block, width) for width in (size, values)] and rows >= count
    assert not count or int(columns.max()) < blocks * block, "a row has no room for its token"
    known: tuple[Tensor | int | None, ...] = (None, None, None, 0, 1)
    assert (prompt is None) == (pages is None)
    if prompt is not None and pages is not None:
        every, _, page, _ = prompt[0].shape
        assert [t.shape for t in prompt] == [(every, groups, page, width) for width in (size, values)]
        assert not pages.numel() or (int(pages.min()) >= 0 and int(pages.max()) < every), f"a page beyond {every}"
        known = (*prompt, pages, pages.shape[1], page)
    out = own[0].new_empty(count, heads, values)
    call(
        "trimtab_step", count, shape(*new), *strided(*new), *known, *own, blocks, block, prefix, columns, *rule.numbers(),
        rule.float_sinks(heads), out,
    )  # fmt: skip
    return out
