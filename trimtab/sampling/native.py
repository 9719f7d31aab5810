"""One decoding step's attention on CPUs by compiled code of our own (``common/attention.cpp``): it reads ``Pool`` and ``Rows`` as they lie,
and a row's output depends on nothing beside it."""

from torch import Tensor

from trimtab.common.native import call, numbers, rows
from trimtab.models.rule import AttentionRule


def native_step(
    new: tuple[Tensor, Tensor, Tensor], prompt: tuple[Tensor, Tensor] | None, own: tuple[Tensor, Tensor], pages: Tensor | None,
    prefix: Tensor, columns: Tensor, rule: AttentionRule,
) -> Tensor:  # fmt: skip
    """``new`` query (n, H, D), key (n, G, D) and value (n, G, V) of one token in each row -> (n, H, V) float32; the key and the value are
    written to ``own``.

    ``prompt``: keys and values (P, G, PAGE, D) of the pool, and ``pages`` (n, p) which of them hold a row's prompt of ``prefix`` (n,)
    tokens; ``own``: (rows, b, G, BLOCK, D), a row's own tokens 0 .. ``columns`` (n,), the new one the last. All in float32.
    """
    query, key, value = new
    (count, heads, size), (_, groups, values) = query.shape, value.shape
    out = own[0].new_empty(count, heads, values)
    known: tuple[Tensor | int | None, ...] = (None, None, None, 0, 1)
    if prompt is not None and pages is not None:
        known = (*prompt, pages.contiguous(), pages.shape[1], prompt[0].shape[2])
    call(
        "trimtab_step", count, numbers(heads, groups, size, values), *rows(query, key, value), *known, *own, own[0].shape[1],
        own[0].shape[3], prefix, columns, *rule.numbers(), rule.float_sinks(), out,
    )  # fmt: skip
    return out
