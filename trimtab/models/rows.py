"""What layers and heads compute row by row, on CPUs by compiled code of our own (``common/rows.cpp``), in one pass over memory.

transformers' code stays as it is. ``hasten`` puts those norms, gated layers and attentions whose norm, gate or rotation, asked with random
numbers, computes what the code does into a class of their own, which has a faster forward. That one steps aside where the code cannot
run: in other formats, in forward mode, off the CPU. (A forward of the instance would know its module: a shallow copy, as
``models/lora.py`` makes of models, would go on with the original's weights.)
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.func import functional_call

from trimtab.common.kernels import call, can_run, library, numbers

FORMATS = (torch.float32, torch.bfloat16)  # of gates and logits, as the code counts them
ROTATION = "apply_rotary_pos_emb"  # what families of transformers call it
GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
# Rounding is below 1e-6; another formula, or epsilon in another place, is above 1e-3 somewhere among what is asked.
TOLERANCE = 1e-5


def hasten(model: nn.Module) -> None:
    """Gives the norms, gated layers and attentions of ``model``, which is on a CPU, the faster forward, where they can have it."""
    if library() is None:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # a GPU's generators stay as they are
        for module in model.modules():
            found = None if isinstance(module, Faster) else _norm_of(module) or _gate_of(module) or _attention_of(module)
            if found is not None:
                module.__class__ = _class(type(module), *found)


class Faster(nn.Module):
    """A family's layer with the faster forward."""

    family: type[nn.Module]
    rule: Any  # of which kind; never asked through the instance, whose method a function would become


class FasterNorm(Faster):
    """Rows x (..., H) -> x / sqrt(mean x^2 + eps) * (offset + weight) (Zhang and Sennrich 2019, equation 4); ``rule``: eps, offset."""

    weight: Tensor

    def forward(self, *given: Any, **named: Any) -> Any:
        x = given[0] if len(given) == 1 and not named else None
        if x is None or x.dtype != torch.float32 or self.weight.dtype != torch.float32 or not _can(x, self.weight):
            return self.family.forward(self, *given, **named)
        return _Norm.apply(x, self.weight, *self.rule) if torch.is_grad_enabled() else norm_rows(x, self.weight, *self.rule)[0]


class FasterGate(Faster):
    """Rows x (..., H) -> down(act(gate(x)) * up(x)) (Shazeer 2020, equation 6); ``rule``: the activation is GELU by its tanh, not SiLU."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, *given: Any, **named: Any) -> Any:
        x = given[0] if len(given) == 1 and not named else None
        if x is None or x.dtype not in FORMATS or not _can(x):
            return self.family.forward(self, *given, **named)
        gate, up = self.gate_proj(x), self.up_proj(x)
        if gate.dtype != up.dtype or gate.dtype not in FORMATS or not _can(gate, up):
            return self.down_proj(self.act_fn(gate) * up)
        return self.down_proj(_Gate.apply(gate, up, self.rule) if torch.is_grad_enabled() else gated(gate, up, self.rule))


class FasterAttention(Faster):
    """A family's attention whose queries and keys are rotated by their positions (Su et al. 2021, equation 34, by halves); ``rule``: the
    family's forward, in which ``ROTATION`` means ``rotated``."""

    def forward(self, *given: Any, **named: Any) -> Any:
        # torch.compile looks for a function's globals in the module that it was written in.
        own = self.family.forward if torch.compiler.is_compiling() else type(self).rule
        return own(self, *given, **named)


_classes: dict[Any, type[nn.Module]] = {}


def _class(family: type[nn.Module], faster: type[Faster], rule: Any) -> type[nn.Module]:
    """One for all layers of a family, under the family's name."""
    if (family, faster, rule) not in _classes:
        names = {"__module__": family.__module__, "family": family, "rule": rule}
        _classes[family, faster, rule] = type(family.__name__, (faster, family), names)
    return _classes[family, faster, rule]


def _can(*given: Tensor) -> bool:
    """Whether the code can compute with ``given``: it looks at addresses, behind which tensors of other classes, traces and transforms
    have nothing, and knows nothing of tangents. What torch.compile makes fuses the same operators itself."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    whole = all(type(t) in (Tensor, nn.Parameter) and forward_ad.unpack_dual(t).tangent is None for t in given)
    return whole and can_run(given[0])


def _norm_of(module: nn.Module) -> tuple[type[Faster], Any] | None:
    """What ``module`` can be put into, and the rule."""
    weight = getattr(module, "weight", None)
    eps = next((value for name in ("variance_epsilon", "eps") if isinstance(value := getattr(module, name, None), float)), None)
    alone = [name for name, _ in module.named_parameters()] == ["weight"]
    if eps is None or not alone or not isinstance(weight, Tensor) or weight.ndim != 1 or weight.dtype != torch.float32:
        return None
    x, other = torch.randn(4, len(weight)) * torch.tensor([[1.0], [30.0], [eps**0.5], [0.0]]), torch.randn(len(weight))
    for offset in (0.0, 1.0):  # its own weight may be 0, which hides all else
        if _same(lambda: functional_call(module, {"weight": other}, x), plain_norm(x, other, eps, offset)):
            return FasterNorm, (eps, offset)
    return None


def _gate_of(module: nn.Module) -> tuple[type[Faster], Any] | None:
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in GATED):
        return None
    small: Any = nn.Module()  # the real layers may be large
    for name in GATED[:3]:
        setattr(small, name, nn.Linear(16, 16))
    small.act_fn = module.act_fn
    x = torch.randn(8, 16) * torch.logspace(-1, 1, 8).unsqueeze(1)
    gate, up = small.gate_proj(x), small.up_proj(x)
    for gelu in (False, True):
        if _same(lambda: type(module).forward(small, x), small.down_proj(plain_gate(gate, up, gelu))):
            return FasterGate, gelu
    return None


def _attention_of(module: nn.Module) -> tuple[type[Faster], Any] | None:
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or ROTATION not in forward.__code__.co_names or hasattr(forward, "__wrapped__"):
        return None
    rule = _rotating(forward, forward.__globals__.get(ROTATION))
    return None if rule is None else (FasterAttention, rule)


@functools.cache
def _rotating(forward: FunctionType, family: Any) -> FunctionType | None:
    """A family's forward that rotates as here, if ``family``, which it calls by that name, does; other names stay what they are now."""
    if not callable(family):
        return None
    q, k, (cos, sin) = torch.randn(1, 3, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(2, 1, 5, 8)
    for dtype in FORMATS:
        for which, x in enumerate(given := (q.to(dtype), k.to(dtype))):
            if not _same(functools.partial(_one_of, family, which, *given, cos, sin), plain_rotation(x, cos, sin)):
                return None

    def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not can_rotate(q, k, cos, sin):
            return family(q, k, cos, sin, *more, **named)
        turned = _Rotation.apply(q, k, cos, sin) if torch.is_grad_enabled() else rotate(q, k, cos, sin)
        return tuple(x.transpose(1, 2) for x in turned)

    names = {**forward.__globals__, ROTATION: rotated}
    found = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    found.__kwdefaults__ = forward.__kwdefaults__
    return found


def _one_of(function: Callable[..., Any], which: int, *given: Tensor) -> Any:
    return function(*given)[which]


def _same(forward: Callable[[], Any], expected: Tensor) -> bool:
    try:
        found = forward()
    except Exception:  # it needs more than it was given: another kind of layer
        return False
    fits = isinstance(found, Tensor) and found.shape == expected.shape and found.dtype == expected.dtype
    return fits and torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def plain_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """What ``FasterNorm`` computes, by torch's operators."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (offset + weight)


def plain_gate(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """What ``FasterGate`` computes between its layers, by torch's operators."""
    return (nn.functional.gelu(gate, approximate="tanh") if gelu else nn.functional.silu(gate)) * up


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What ``FasterAttention`` makes of queries or keys, by torch's operators."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)


def can_rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the code can rotate queries q (1, H, T, D) and keys k (1, G, T, D), in one format, by cos and sin (1, T, D) in float32."""
    if q.ndim != 4 or k.ndim != 4 or q.dtype != k.dtype or q.dtype not in FORMATS or not cos.dtype == sin.dtype == torch.float32:
        return False
    one, _, tokens, size = q.shape
    fits = one == 1 and size % 2 == 0 and k.shape[::2] == (1, tokens) and k.shape[3] == size and cos.shape == sin.shape == (1, tokens, size)
    return fits and not cos.requires_grad and not sin.requires_grad and _can(q, k, cos, sin)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype = torch.float32, back: bool = False) -> tuple[Tensor, Tensor]:
    """What ``can_rotate`` says -> both rotated, (1, T, H, D) and (1, T, G, D) float32; ``back``: slopes by these, laid out
    as queries and keys are -> slopes by queries and keys in ``dtype``."""
    cos, sin = cos.detach().contiguous(), sin.detach().contiguous()
    words: list[Any] = []
    found: list[Tensor] = []
    for x in (q, k):
        x = x.detach() if x.stride(-1) == 1 else x.detach().contiguous()
        heads, tokens, size = x.shape[1:]
        out = x.new_empty(1, tokens, heads, size, dtype=dtype if back else torch.float32)
        words += [x, numbers(x.stride(2), x.stride(1)), heads, out]
        found.append(out)
    narrow = torch.bfloat16 in (q.dtype, dtype)
    call("trimtab_rotate", *words, cos, sin, tokens, size, int(back), int(narrow))
    return found[0], found[1]


class _Rotation(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = q.dtype
        return rotate(q, k, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        slopes = [grad.transpose(1, 2) for grad in grads]
        if torch.is_grad_enabled() or not _can(*slopes):
            # y1 = x1 cos1 - x2 sin1 and y2 = x2 cos2 + x1 sin2, so a slope by x1 has sin2 where y1 has -sin1: a rotation by other sines.
            other = -torch.cat(sin.chunk(2, dim=-1)[::-1], dim=-1)
            return *(plain_rotation(slope, cos, other).to(ctx.dtype) for slope in slopes), None, None
        return *(x.transpose(1, 2) for x in rotate(slopes[0], slopes[1], cos, sin, ctx.dtype, back=True)), None, None


def norm_rows(x: Tensor, weight: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """Rows x (..., H) and a weight (H,) in float32 -> the norm, and what each row (R,) was multiplied with."""
    x, weight = x.detach().contiguous(), weight.detach().contiguous()
    assert x.shape[-1:] == weight.shape
    rows = x.numel() // max(len(weight), 1)
    out, inverse = torch.empty_like(x), x.new_empty(rows)
    call("trimtab_norm", x, weight, rows, len(weight), eps, offset, out, inverse)
    return out, inverse


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        out, inverse = norm_rows(x, weight, eps, offset)
        ctx.save_for_backward(x, weight, inverse)
        ctx.rule = eps, offset
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_again(plain_norm, (x, weight), grads[0], *ctx.rule), None, None
        rows, grad = x.contiguous(), grads[0].contiguous()
        d_x = torch.empty_like(rows)
        d_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        call("trimtab_norm_backward", rows, weight.contiguous(), inverse, grad, len(inverse), len(weight), ctx.rule[1], d_x, d_weight)
        return d_x, d_weight, None, None


def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """Two tensors of one shape and format -> act(gate) * up in that format."""
    gate, up = gate.detach().contiguous(), up.detach().contiguous()
    assert gate.shape == up.shape and gate.dtype == up.dtype
    out = torch.empty_like(gate)
    call("trimtab_gate", gate, up, out, gate.numel(), int(gelu), FORMATS.index(gate.dtype))
    return out


class _Gate(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        return gated(gate, up, gelu)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_again(plain_gate, (gate, up), grads[0], ctx.gelu), None
        gate, up, grad = gate.contiguous(), up.contiguous(), grads[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        call("trimtab_gate_backward", gate, up, grad, d_gate, d_up, gate.numel(), int(ctx.gelu), FORMATS.index(gate.dtype))
        return d_gate, d_up, None


def _again(plain: Any, inputs: tuple[Tensor, ...], grad: Tensor, *rule: Any) -> tuple[Tensor | None, ...]:
    """Slopes that can be differentiated once more, by torch's operators."""
    own = [t.view_as(t) for t in inputs]  # one input may depend on another, which is not this function's business
    needed = [t for t in own if t.requires_grad]
    found = iter(torch.autograd.grad(plain(*own, *rule), needed, grad, create_graph=True))
    return tuple(next(found) if t.requires_grad else None for t in own)


def can_score(raw: Tensor, exact: Tensor, softcap: float | None) -> bool:
    """Whether the code can compute what becomes of a head's products ``raw`` when the target's own logit is ``exact``."""
    return exact.dtype == torch.float32 and can_share(raw, softcap)


def row_statistics(raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """``models/score.py::row_statistics`` without a cap."""
    count, vocabulary = raw.shape
    lse, entropy, ranks = torch.empty_like(exact), torch.empty_like(exact), torch.empty_like(targets)
    bias = _looked_at(raw, bias, targets, exact)
    call("trimtab_statistics", raw, bias, targets, exact, count, vocabulary, scale, lse, entropy, ranks, FORMATS.index(raw.dtype))
    return lse, entropy, ranks


def logit_slopes(
    raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor, lse: Tensor, entropy: Tensor, d_logprobs: Tensor | None,
    d_entropy: Tensor | None, scale: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """``models/score.py::logit_slopes`` without a cap, in ``dtype``; in the place of ``raw`` if that is of it."""
    count, vocabulary = raw.shape
    bias = _looked_at(raw, bias, targets, exact)
    assert lse.shape == entropy.shape == exact.shape and all(t.is_contiguous() and t.dtype == exact.dtype for t in (lse, entropy))
    above = [None if d is None else d.to(exact.dtype).contiguous() for d in (d_logprobs, d_entropy)]
    out = raw if raw.dtype == dtype else torch.empty_like(raw, dtype=dtype)
    formats = FORMATS.index(raw.dtype), FORMATS.index(dtype)
    call("trimtab_slopes", raw, bias, targets, exact, lse, entropy, *above, count, vocabulary, scale, out, *formats)
    return out


def can_share(raw: Tensor, softcap: float | None) -> bool:
    """Whether the code can compute the softmax of a head's products ``raw``."""
    return raw.dtype in FORMATS and softcap is None and _can(raw)


def row_shares(raw: Tensor, scale: float) -> Tensor:
    """Raw products (R, V) -> softmax(scale * raw) (R, V) float32; NaN throughout a row in which a logit is NaN or
    infinity, or in which none is above -infinity."""
    raw = raw.detach().contiguous()
    out = torch.empty_like(raw, dtype=torch.float32)
    call("trimtab_shares", raw, *raw.shape, scale, out, FORMATS.index(raw.dtype))
    return out


def _looked_at(raw: Tensor, bias: Tensor | None, targets: Tensor, exact: Tensor) -> Tensor | None:
    """The bias as the code takes it, after a look at the rest: it looks at addresses alone."""
    count, vocabulary = raw.shape
    assert raw.is_contiguous() and targets.is_contiguous() and exact.is_contiguous()
    assert targets.shape == exact.shape == (count,) and targets.dtype == torch.int64
    assert not count or (int(targets.min()) >= 0 and int(targets.max()) < vocabulary), f"a target beyond {vocabulary}"
    assert bias is None or bias.shape == (vocabulary,)
    return None if bias is None else bias.detach().float().contiguous()
