"""Norms, gated activations and logits by compiled code: the definitions in float64, at sizes that vectors and threads divide badly; where
it may take the place of a family's own layer, and where it steps aside."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import transformers
from kernel_widths import WIDTHS
from tiny_models import FAMILIES, pair, quiet, randomise
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from trimtab.common import kernels
from trimtab.models import rows, score

pytestmark = pytest.mark.skipif(not kernels.compilers(), reason="nothing can be compiled here: layers are torch's")
FORMATS = [torch.float32, torch.bfloat16]


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """To ``tolerance`` of the largest value expected, or of 0.01."""
    assert found.shape == expected.shape and bool(found.isfinite().all())
    assert float((found.double() - expected).abs().max()) <= tolerance * max(1e-2, float(expected.abs().max()))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 7), (1, 40, 48), (1, 5, 2, 33), (300, 129)])
def test_norms_are_the_definition(
    width: int | None, offset: float, shape: tuple[int, ...], random: torch.Generator, of_width: Callable[[int | None], None]
) -> None:
    of_width(width)
    x, grad = (torch.randn(shape, generator=random) for _ in range(2))
    x[0] *= 1e-3  # epsilon counts here
    weight = torch.randn(shape[-1], generator=random)
    found, expected = [], []
    for into, function, dtype in ((found, rows._Norm.apply, torch.float32), (expected, rows.plain_norm, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight)]
        out = function(*leaves, 1e-5, offset)
        into += [out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))]
    for ours, definition in zip(found, expected, strict=True):
        assert_close(ours, definition, 1e-6)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("count", [1, 15, 1023, 70001])
def test_gates_are_the_definition(
    width: int | None, gelu: bool, dtype: torch.dtype, count: int, random: torch.Generator, of_width: Callable[[int | None], None]
) -> None:
    of_width(width)
    gate, up, grad = (torch.randn(count, generator=random).to(dtype) * 3 for _ in range(3))
    found, expected = [], []
    for into, function, wide in ((found, rows._Gate.apply, dtype), (expected, rows.plain_gate, torch.float64)):
        leaves = [t.detach().to(wide).requires_grad_() for t in (gate, up)]
        out = function(*leaves, gelu)
        into += [out.detach(), *torch.autograd.grad(out, leaves, grad.to(wide))]
    for ours, definition in zip(found, expected, strict=True):
        assert_close(ours, definition, 2e-6 if dtype == torch.float32 else 2**-8)
        if dtype == torch.bfloat16:  # rounded once, at the end: half a unit in the last place
            assert bool(((ours.double() - definition).abs() <= definition.abs() * (2**-8 + 1e-4) + 1e-6).all())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 2), (7, 3, 1, 20), (90, 9, 3, 66)])
def test_rotations_are_the_definition(
    width: int | None, dtype: torch.dtype, sizes: tuple[int, ...], random: torch.Generator, of_width: Callable[[int | None], None]
) -> None:
    """Pairs of numbers turn by an angle; each half here has an angle of its own, so that none is taken for the other's."""
    of_width(width)
    tokens, *counts, size = sizes
    cos, sin = torch.randn(2, 1, tokens, size, generator=random)
    given = [torch.randn(1, tokens, heads, size + 3, generator=random)[..., :size].transpose(1, 2).to(dtype) for heads in counts]
    grads = [torch.randn(x.shape, generator=random) for x in given]
    leaves, wide = ([x.to(to).requires_grad_() for x in given] for to in (dtype, torch.float64))
    assert rows.can_rotate(*leaves, cos, sin)
    found = [x.transpose(1, 2) for x in rows._Rotation.apply(*leaves, cos, sin)]
    again = torch.autograd.grad(found, leaves, grads, create_graph=True)
    half = size // 2
    for i, x in enumerate(wide):
        first, second = x[..., :half], x[..., half:]
        c, s = cos.double(), sin.double()
        expected = torch.cat([first * c[..., :half] - second * s[..., :half], second * c[..., half:] + first * s[..., half:]], dim=-1)
        assert found[i].dtype == torch.float32
        assert_close(found[i].detach(), expected.detach(), 1e-6)
        (slope,) = torch.autograd.grad(expected, x, grads[i].double(), retain_graph=True)
        for slopes in (torch.autograd.grad(found, leaves, grads, retain_graph=True), again):
            assert slopes[i].dtype == dtype
            assert_close(slopes[i].detach(), slope, 1e-6 if dtype == torch.float32 else 2**-8)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("vocabulary", [1, 2, 61, 5003])
def test_shares_are_the_definition(
    width: int | None, dtype: torch.dtype, vocabulary: int, random: torch.Generator, of_width: Callable[[int | None], None]
) -> None:
    of_width(width)
    raw = (torch.randn(5, vocabulary, generator=random) * torch.tensor([[0.0], [1.0], [30.0], [1.0], [1.0]])).to(dtype)
    raw[3, vocabulary // 2] = 200.0
    raw[4, vocabulary // 3 :] = -float("inf")
    raw[4, 0] = 0
    found = rows.row_shares(raw, 0.75)
    logits = 0.75 * raw.double()
    below = logits.amax(-1, keepdim=True) - logits  # which is rounded before it is an exponent
    expected = logits.softmax(-1)
    assert bool(((found - expected).abs() <= (2e-6 + below.clamp_max(1e3) * 2**-23) * expected + 1e-37).all())
    for bad in (float("nan"), float("inf")):
        raw[1, -1] = bad
        assert rows.row_shares(raw, 1.0).isfinite().all(-1).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("gelu", [False, True])
def test_gates_far_out_are_shut_or_open(gelu: bool) -> None:
    far = torch.tensor([-1e13, -300.0, -89.0, -87.5, 87.5, 89.0, 300.0, 1e4])
    leaf = far.clone().requires_grad_()
    out = rows._Gate.apply(leaf, torch.ones(8), gelu)
    assert torch.allclose(out, far.relu(), atol=1e-30)
    assert torch.allclose(torch.autograd.grad(out.sum(), leaf)[0], (far > 0).float(), atol=1e-26)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FORMATS)
def test_what_is_not_finite_is_seen(bad: float, dtype: torch.dtype) -> None:
    """In its own row, and in no other: the loop's check names the batch."""
    values = torch.ones(3, 40)
    values[1, 7] = bad
    assert rows.norm_rows(values, torch.ones(40), 1e-6, 0.0)[0].isfinite().all(-1).tolist() == [True, False, True]
    assert rows.gated(torch.ones(3, 40, dtype=dtype), values.to(dtype), False).isfinite().all(-1).tolist() == [True, False, True]
    exact = torch.ones(3)
    lse, entropy, _ = rows.row_statistics(values.to(dtype), None, torch.zeros(3, dtype=torch.long), exact, 1.0)
    assert lse.isfinite().tolist() == [True, bad < 0, True]  # a token that cannot come is no fault
    assert entropy.isfinite().tolist() == [True, bad < 0, True]
    slopes = rows.logit_slopes(values.to(dtype), None, torch.zeros(3, dtype=torch.long), exact, lse, entropy, exact, exact, 1.0, dtype)
    assert slopes.isfinite().all(-1).tolist() == [True, bad < 0, True]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("vocabulary", [1, 2, 16, 61, 5003])
def test_logits_are_the_definition(
    width: int | None, dtype: torch.dtype, biased: bool, vocabulary: int, random: torch.Generator, of_width: Callable[[int | None], None]
) -> None:
    """Log-sum-exps, entropies, ranks and slopes; targets first, last and between, likely and not, their exact logits beside what was
    rounded."""
    of_width(width)
    count, scale = 9, 0.7
    raw = (torch.randn(count, vocabulary, generator=random) * 4).to(dtype)
    raw[2] *= 20  # a sure one
    targets = torch.randint(vocabulary, (count,), generator=random)
    targets[:3] = torch.tensor([0, vocabulary - 1, int(raw[2].argmax())])
    bias = torch.randn(vocabulary, generator=random) if biased else None
    whole = raw.double() + (0 if bias is None else bias.double())
    exact = (whole.gather(1, targets.unsqueeze(1)).squeeze(1) * scale + 0.003).float()
    logits = (whole * scale).scatter(1, targets.unsqueeze(1), exact.double().unsqueeze(1)).requires_grad_()
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    own = log_p.gather(1, targets.unsqueeze(1)).squeeze(1)

    found = rows.row_statistics(raw, bias, targets, exact, scale)
    assert_close(found[0], logits.logsumexp(-1).detach(), 1e-6)
    assert_close(found[1], entropy.detach(), 1e-6)
    assert torch.equal(found[2], (logits > exact.double().unsqueeze(1)).sum(-1))
    up, spread = torch.randn(2, count, generator=random)
    for above in ((up, spread), (up, None), (None, spread)):
        slope = sum((d.double() * of).sum() for d, of in zip(above, (own, entropy), strict=True) if d is not None)
        (expected,) = torch.autograd.grad(slope, logits, retain_graph=True)
        wide = rows.logit_slopes(raw.clone(), bias, targets, exact, *found[:2], *above, scale, torch.float32)
        assert_close(wide, expected * scale, 1e-5)  # a log-sum-exp above 100 is rounded to 4e-6 itself
        narrow = rows.logit_slopes(raw.clone(), bias, targets, exact, *found[:2], *above, scale, torch.bfloat16)
        assert torch.equal(narrow, wide.bfloat16())  # as torch rounds, to the bit


@pytest.mark.parametrize("vocabulary", [7, 40])
def test_tokens_that_cannot_come(vocabulary: int) -> None:
    """Logits of -infinity, the target's among them: what is not asked for (its entropy's slope) spoils nothing; and float32's lowest
    numbers are numbers."""
    logits, targets = torch.zeros(3, vocabulary), torch.tensor([0, 5, 2])
    logits[0, 0] = logits[1, :5] = -torch.inf
    logits[2] = -3.3e38
    logits[2, 2] = -3.4e38
    exact = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    lse, entropy, ranks = rows.row_statistics(logits, None, targets, exact, 1.0)
    there = torch.tensor([vocabulary - 1.0, vocabulary - 5.0])
    assert torch.allclose(lse[:2], there.log()) and torch.allclose(entropy[:2], there.log())
    assert lse[2] == -3.3e38 and ranks.tolist() == [vocabulary - 1, 0, vocabulary - 1]
    slopes = rows.logit_slopes(logits.clone(), None, targets, exact, lse, entropy, torch.ones(3), None, 1.0, torch.float32)
    expected = torch.nn.functional.one_hot(targets, vocabulary) - logits[:2].softmax(-1).repeat(2, 1)[:3]
    assert torch.allclose(slopes[:2], expected[:2].float())


def test_neither_threads_nor_neighbours_change_a_bit(random: torch.Generator, torch_threads: None) -> None:
    x, weight = torch.randn(500, 96, generator=random), torch.randn(96, generator=random)
    raw, targets, exact = torch.randn(500, 999, generator=random), torch.arange(500), torch.randn(500, generator=random)

    def everything(first: int, last: int) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x[first:last], weight)]
        norm = rows._Norm.apply(*leaves, 1e-6, 0.0)
        part = raw[first:last].clone()
        found = rows.row_statistics(part, None, targets[first:last], exact[first:last], 1.0)
        given = (targets[first:last], exact[first:last], *found[:2], exact[first:last], None, 1.0, torch.float32)
        slopes = rows.logit_slopes(part, None, *given)
        gates = rows._Gate.apply(leaves[0], x[first:last], False)
        pairs, angles = x[first:last].view(1, -1, 3, 32).transpose(1, 2), raw[None, first:last, :32]
        turned = rows.rotate(pairs, pairs, angles, angles)[0][0]
        found = *found, rows.row_shares(raw[first:last], 1.0), turned
        d_x, d_weight = torch.autograd.grad((norm * norm).sum() + gates.sum(), leaves)
        return [norm.detach(), gates.detach(), *found, slopes, d_x, d_weight]

    whole = everything(0, 500)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(everything(0, 500), whole, strict=True)), f"{threads} threads"
    for a, b in zip(everything(3, 10)[:-1], whole[:-1], strict=True):
        assert torch.equal(a, b[3:10])


def test_what_does_not_fit_is_refused_before_its_address_is_taken() -> None:
    raw, targets, exact = torch.zeros(2, 5), torch.tensor([1, 5]), torch.zeros(2)
    with pytest.raises(AssertionError, match="a target beyond 5"):
        rows.row_statistics(raw, None, targets, exact, 1.0)
    with pytest.raises(AssertionError):
        rows.row_statistics(raw, torch.zeros(4), targets - 1, exact, 1.0)
    with pytest.raises(AssertionError):
        rows.row_statistics(raw, None, targets[:1], exact, 1.0)
    with pytest.raises(AssertionError):
        rows.gated(torch.zeros(3), torch.zeros(4), False)
    with pytest.raises(AssertionError):
        rows.norm_rows(torch.zeros(3, 4), torch.zeros(3), 1e-6, 0.0)


# Norms and gated layers that get the faster forward, in two layers of each family; the others have layer norms, or activations that are
# not gated, or gates of another form (Phi-3's in one matrix, gpt-oss's clamped).
HASTENED = {
    "gpt2": (0, 0), "llama": (5, 2), "qwen2": (5, 2), "qwen3": (9, 2), "mistral": (5, 2), "gemma2": (9, 2), "gemma3": (13, 2),
    "gpt_neox": (0, 0), "phi3": (5, 0), "olmo2": (9, 2), "opt": (0, 0), "granite": (5, 2), "stablelm": (0, 2), "smollm3": (5, 2),
    "cohere": (0, 2), "gpt_oss": (5, 0),
}  # fmt: skip


# Those whose queries and keys turn by halves, in two layers of each: OLMo-2 rounds them, Cohere turns neighbours, gpt-oss has half the
# cosines, GPT-2 and OPT have none.
TURNED = {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt_neox", "phi3", "granite", "stablelm", "smollm3"}


def hastened(model: nn.Module) -> tuple[int, int]:
    modules = list(model.modules())
    return sum(isinstance(m, rows.FasterNorm) for m in modules), sum(isinstance(m, rows.FasterGate) for m in modules)


@pytest.mark.parametrize("family", FAMILIES)
def test_which_layers_of_a_family_are_hastened(family: str) -> None:
    """That they then compute what the family's own do, forward and backward, is in ``test_attention.py``."""
    ours, eager = pair(FAMILIES[family]())
    assert hastened(ours) == HASTENED[family] and hastened(eager) == (0, 0)
    turned = [sum(isinstance(m, rows.FasterAttention) for m in model.modules()) for model in (ours, eager)]
    assert turned == [2 if family in TURNED else 0, 0]


class _Other(nn.Module):
    """Looks like a norm from outside."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor], **more: Tensor) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.formula = nn.Parameter(torch.linspace(0.5, 2, 16)), 1e-6, formula
        for name, value in more.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x, self.weight)


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, w: rows.plain_norm(x, w, 1e-5, 0.0),  # another epsilon
        lambda x, w: rows.plain_norm(x - x.mean(-1, keepdim=True), w, 1e-6, 0.0),
        lambda x, w: rows.plain_norm(x, w, 1e-6, 0.0).clamp(-3, 3),
        lambda x, w: rows.plain_norm(x, w, 1e-6, 0.5),
        lambda x, w: (rows.plain_norm(x, w, 1e-6, 0.0), x),
        lambda x, w: x @ w,
    ],
)
def test_what_only_looks_like_a_norm_is_left_alone(formula: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = nn.ModuleList([_Other(formula), nn.LayerNorm(16), nn.RMSNorm(16, eps=1e-6, elementwise_affine=False)])
    rows.hasten(model)
    assert hastened(model) == (0, 0)
    more = nn.ModuleList([_Other(lambda x, w: rows.plain_norm(x, w, 1e-6, 0.0), bias=torch.zeros(16))])
    rows.hasten(more)
    assert hastened(more) == (0, 0)  # a bias of 0 may not stay so


def test_a_weight_of_zeros_hides_nothing() -> None:
    """Any norm gives 0 with it: Cohere's takes the mean away."""
    layer = transformers.models.cohere.modeling_cohere.CohereLayerNorm(16)
    nn.init.zeros_(layer.weight)
    gemma = transformers.models.gemma2.modeling_gemma2.Gemma2RMSNorm(16)  # begins with zeros, to which it adds 1
    model = nn.ModuleList([layer, gemma])
    rows.hasten(model)
    assert [isinstance(m, rows.FasterNorm) for m in model] == [False, True]


def test_hastening_leaves_every_generator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generators were set"))
    before = torch.get_rng_state()
    rows.hasten(transformers.AutoModelForCausalLM.from_config(quiet(FAMILIES["llama"]())).eval())
    torch.set_rng_state(before)
    model = nn.ModuleList([_Other(lambda x, w: rows.plain_norm(x, w, 1e-6, 0.0))])
    rows.hasten(model)
    assert hastened(model) == (1, 0) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("activation", ["gelu", "relu", "quick_gelu", "tanh", "sigmoid"])
def test_gates_of_another_activation_are_left_alone(activation: str) -> None:
    config = quiet(FAMILIES["llama"]())
    config.hidden_act = activation
    model = transformers.AutoModelForCausalLM.from_config(config)
    rows.hasten(model)
    assert hastened(model) == (5, 0)


def test_nothing_is_hastened_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "library", lambda: None)
    model = transformers.AutoModelForCausalLM.from_config(quiet(FAMILIES["llama"]()))
    rows.hasten(model)
    assert hastened(model) == (0, 0)


def layers(random: torch.Generator) -> tuple[nn.Module, nn.Module, Tensor]:
    """A hastened norm before a gated layer, the same as it was, and what goes in."""
    model = transformers.AutoModelForCausalLM.from_config(quiet(FAMILIES["llama"]()))
    randomise(model)
    layer = model.model.layers[0]
    plain = nn.Sequential(layer.input_layernorm, layer.mlp)
    faster = copy.deepcopy(plain)
    rows.hasten(faster)
    assert hastened(faster) == (1, 1)
    return faster, plain, torch.randn(1, 6, 32, generator=random)


def test_a_copy_computes_with_its_own_weights(random: torch.Generator) -> None:
    faster, plain, x = layers(random)
    copied = copy.deepcopy(faster)
    shallow = copy.copy(faster[0])
    shallow._parameters = {"weight": nn.Parameter(2 * plain[0].weight.detach())}
    with torch.no_grad():
        faster[0].weight.zero_()
        assert hastened(copied) == (1, 1) and torch.allclose(copied(x), plain(x), atol=1e-6) and not faster(x).any()
        assert hastened(shallow) == (1, 0) and torch.allclose(shallow(x), 2 * plain[0](x), atol=1e-6)


def test_a_hastened_class_is_its_familys(random: torch.Generator) -> None:
    """Other code tells layers by class and name: which to shard, which to compile."""
    faster, plain, _ = layers(random)
    for ours, theirs in zip(faster.modules(), plain.modules(), strict=True):
        assert isinstance(ours, type(theirs)) and type(ours).__name__ == type(theirs).__name__
        assert list(ours.state_dict()) == list(theirs.state_dict())


def test_forward_mode_and_second_derivatives_are_the_plain_layers(random: torch.Generator) -> None:
    """TRPO's Fisher-vector products run in forward mode, without gradients; a gradient penalty differentiates twice."""
    faster, plain, x = layers(random)
    direction = torch.randn(x.shape, generator=random)
    moved, twice = [], []
    for model in (faster, plain):
        for graph in (torch.no_grad(), torch.enable_grad()):
            with graph, forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction))).tangent
                assert tangent is not None
                moved.append(tangent.detach())
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(leaf).pow(2).sum(), leaf, create_graph=True)
        twice.append(torch.autograd.grad(slope.pow(2).sum(), [leaf, *model.parameters()]))
    assert all(torch.allclose(tangent, moved[-1], atol=1e-6) for tangent in moved)
    for ours, theirs in zip(*twice, strict=True):
        assert_close(ours, theirs.double(), 1e-5)


def test_a_layer_that_two_share_is_differentiated_twice_as_it_is(random: torch.Generator) -> None:
    """The second's input depends on the first's weight, which each counts for itself alone."""
    faster, plain, x = layers(random)
    found = []
    for model in (faster, plain):
        leaf, norm = x.clone().requires_grad_(), model[0]
        out = norm(norm(leaf) + leaf) + norm(leaf * norm.weight)
        slopes = torch.autograd.grad(out.pow(2).sum(), [leaf, norm.weight], create_graph=True)
        found.append([*slopes, *torch.autograd.grad(sum(s.pow(2).sum() for s in slopes), [leaf, norm.weight])])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours.detach(), theirs.detach().double(), 1e-5)
    gate = x.clone().requires_grad_()
    for create_graph in (False, True):
        made = (f(gate, 2 * gate, False).sum() for f in (rows._Gate.apply, rows.plain_gate))
        slopes = [torch.autograd.grad(out, gate, create_graph=create_graph)[0] for out in made]
        assert_close(slopes[0].detach(), slopes[1].detach().double(), 1e-6)


def test_layers_may_be_called_as_their_family_is(random: torch.Generator) -> None:
    faster, plain, x = layers(random)
    assert torch.equal(faster[0](hidden_states=x), plain[0](hidden_states=x)) and torch.equal(faster[1](x=x), plain[1](x=x))


def test_tensors_without_memory_are_left_to_the_family(random: torch.Generator) -> None:
    """Of traces, of transforms, of other classes: the code would read at address 0, and the process would end."""
    faster, plain, x = layers(random)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert faster(mode.from_tensor(x)).shape == x.shape
    assert torch.allclose(torch.jit.trace(faster, x)(x), plain(x), atol=1e-6)
    slopes = [torch.func.grad(lambda x, model=model: model(x).sum())(x) for model in (faster, plain)]
    assert_close(slopes[0].detach(), slopes[1].detach().double(), 1e-6)
    with pytest.raises(AssertionError, match="without memory"):
        kernels.call("trimtab_gate", *[torch.empty(3, device="meta")] * 3, 3, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_in_other_formats_compute_as_they_do(dtype: torch.dtype, random: torch.Generator) -> None:
    faster, plain, x = layers(random)
    found, expected = faster.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype))
    assert found.dtype == expected.dtype == dtype
    assert_close(found.detach(), expected.detach().double(), 2**-6 if dtype == torch.bfloat16 else 1e-12)  # gates in bf16 are rounded once


def test_under_autocast_they_are_rounded_less_than_the_plain_layers(random: torch.Generator) -> None:
    faster, plain, _ = layers(random)
    x = torch.randn(1, 1000, 32, generator=random)
    exact = copy.deepcopy(plain).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = faster(x), plain(x)
    assert found.dtype == rounded.dtype == torch.bfloat16
    assert_close(found, exact.detach(), 2**-6)
    assert (found - exact).abs().mean() <= (rounded - exact).abs().mean()


def test_frozen_weights_get_no_slopes_and_strides_do_not_matter(random: torch.Generator) -> None:
    faster, plain, _ = layers(random)
    for model in (faster, plain):
        model[0].weight.requires_grad_(False)
    x = torch.randn(1, 32, 6, generator=random).transpose(1, 2)
    found = []
    for model in (faster, plain):
        leaf = x.detach().requires_grad_()
        model(leaf).expand(3, 6, 32).sum().backward()
        assert model[0].weight.grad is None and leaf.grad is not None
        found.append(leaf.grad)
    assert_close(found[0], found[1].double(), 1e-5)


def test_new_tensors_lie_where_the_old_ones_do(random: torch.Generator) -> None:
    q, cos, weight = (torch.randn(*shape, generator=random) for shape in ((1, 2, 5, 8), (1, 5, 8), (5, 3)))
    with torch.device("meta"):
        assert rows.rotate(q, q, cos, cos)[0].device.type == rows.row_shares(weight, 1.0).device.type == "cpu"
        assert score.products_added(None, weight.bfloat16(), weight.T.bfloat16(), torch.float32).device.type == "cpu"


def test_the_slopes_of_a_heads_weight_are_added_up_in_float32(random: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows at a time, the last fewer: the products are rounded to bf16, their sum is not."""
    monkeypatch.setattr(score, "SLICE", 4)
    left, right = (torch.randn(*shape, generator=random).bfloat16() for shape in ((10, 6), (6, 3)))
    once = score.products_added(None, left, right, torch.float32)
    assert once.dtype == torch.float32 and torch.equal(once, (left @ right).float())
    twice = score.products_added(once.clone(), left, right / 256, torch.float32)
    assert torch.equal(twice, once + (left @ (right / 256)).float()) and not torch.equal(twice, twice.bfloat16().float())
    assert score.products_added(None, left[:0], right, torch.float32).shape == (0, 3)


def test_whole_layers_may_be_compiled_by_torch(random: torch.Generator) -> None:
    """Attention, too, whose family's forward is here with another function under the rotation's name."""
    model = transformers.AutoModelForCausalLM.from_config(quiet(FAMILIES["llama"]())).eval()
    randomise(model)
    faster, ids = copy.deepcopy(model), torch.arange(7).unsqueeze(0)
    rows.hasten(faster)
    for layer in faster.model.layers:
        layer.compile(dynamic=True, backend="eager")
    assert_close(faster(ids).logits.detach(), model(ids).logits.detach().double(), 1e-5)


def test_rotated_queries_may_be_written_to(random: torch.Generator) -> None:
    forward = transformers.models.llama.modeling_llama.LlamaAttention.forward
    family = forward.__globals__[rows.ROTATION]
    clone = rows._rotating(forward, family)
    assert clone is not None and forward.__globals__[rows.ROTATION] is family
    q, k = (torch.randn(1, heads, 5, 8, generator=random).requires_grad_() for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 5, 8, generator=random)
    slopes = []
    for rotate in (clone.__globals__[rows.ROTATION], family):
        turned = rotate(q, k, cos, sin)
        turned[0].mul_(2)
        slopes.append(torch.autograd.grad(turned[0].pow(2).sum() + turned[1].sum(), (q, k)))
    for ours, theirs in zip(*slopes, strict=True):
        assert_close(ours, theirs.double(), 1e-6)


def test_a_program_of_torch_compile_is_made_of_the_familys_own_layers(random: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, with nothing that it would have to leave for."""
    faster, plain, x = layers(random)
    monkeypatch.setattr(rows, "call", lambda *given: pytest.fail("the library was called"))
    program = torch.compile(faster, fullgraph=True, backend="aot_eager")
    found = []
    for model in (program, plain):
        leaf = x.clone().requires_grad_()
        out = model(leaf)
        found.append([out.detach(), *torch.autograd.grad(out.sum(), leaf)])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs.double(), 1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_head_scores_the_same_by_torchs_operators(autocast: bool, random: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and slopes of rows, weight and bias, in five chunks."""
    monkeypatch.setattr(score, "CHUNK_LOGITS", 30 * 200)
    given = [torch.randn(70, 24, generator=random), torch.randn(200, 24, generator=random) * 0.5, torch.randn(200, generator=random)]
    targets = torch.randint(200, (70,), generator=random)
    asked: list[int] = []
    plain = rows.row_statistics
    monkeypatch.setattr(rows, "row_statistics", lambda *given: asked.append(len(given[0])) or plain(*given))
    found, ranks = [], []
    for compiled in (True, False):
        with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if not compiled:
                patch.setattr(rows, "can_run", lambda tensor: False)
            leaves = [t.clone().requires_grad_() for t in given]
            scores = score.score_rows(leaves[0], targets, score.Tail(leaves[1], leaves[2]), temperature=1.3)
            (scores.logprobs.sum() + (scores.entropy * scores.logprobs.detach()).sum()).backward()
            found.append([scores.logprobs.detach(), scores.entropy.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
            ranks.append(scores.rank)
    assert asked == [30, 30, 30, 30, 8]  # 70 rows, padded to a multiple of 64
    assert torch.equal(*ranks) and len(found[0]) == len(found[1]) == 5
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs.double(), 1e-2 if autocast and ours.ndim == 2 else 1e-5)
