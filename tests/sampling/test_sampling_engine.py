"""The native engine: greedy is transformers' greedy, samples follow the model's own distribution, nothing depends on the batch."""

from typing import Any

import numpy as np
import pytest
import torch
from fit import goodness_of_fit, next_tokens
from tiny_models import FAMILIES, VOCABULARY, pair, plain_logprobs, tiny_policy
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.common.errors import RunFailed, UserError
from trimtab.models import attention
from trimtab.models.score import score_tokens
from trimtab.sampling import cache, engine as engine_module, packed, run as run_module
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import Engine, Sample, SamplingOptions
from trimtab.trees import PromptTree, TreeBatch

NO_END = -1
END = 1


def prompts(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    """Random prompts, one of them a single token; longer than the windows of 8 and than a block of the cache."""
    rng = np.random.default_rng(seed)
    lengths = [1, longest, *rng.integers(2, longest, size=count).tolist()][:count]
    return [rng.integers(2, VOCABULARY, size=n).tolist() for n in lengths]


def names(count: int) -> list[str]:
    return [f"p{i}" for i in range(count)]


def logprobs_of(samples: list[list[Sample]]) -> list[float]:
    return [x for of_prompt in samples for sample in of_prompt for x in sample.policy_logprobs]


def ids_of(samples: list[list[Sample]]) -> list[list[tuple[int, ...]]]:
    return [[sample.token_ids for sample in of_prompt] for of_prompt in samples]


@pytest.fixture
def whose(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose attention runs, by indirect parameters: ``compiled``, where it can be, or ``torch``."""
    if request.param == "torch":
        for module in (attention, cache):
            monkeypatch.setattr(module, "can_run", lambda tensor: False)
    return str(request.param)


both = pytest.mark.parametrize("whose", ["compiled", "torch"], indirect=True)


@both
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_transformers_greedy(family: str, whose: str) -> None:
    ours, eager = pair(FAMILIES[family]())
    given = prompts(5)
    found = NativeEngine(ours, NO_END, rows=8).sample(given, 1, SamplingOptions(max_tokens=44, greedy=True), names(5))
    for prompt, (sample,) in zip(given, found, strict=True):
        whole = eager.generate(
            torch.tensor([prompt]), max_new_tokens=44, do_sample=False, eos_token_id=None, pad_token_id=0,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long), use_cache=False,
        )  # fmt: skip
        assert list(sample.token_ids) == whole[0, len(prompt) :].tolist()
        assert sample.stop == "length" and set(sample.logprobs) == {0.0}


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_the_scorer_and_of_the_plain_model(family: str) -> None:
    ours, eager = pair(FAMILIES[family]())
    given = prompts(4)
    found = NativeEngine(ours, END, rows=8).sample(given, 3, SamplingOptions(max_tokens=40, seed=3), names(4))
    trees = [PromptTree(tuple(p), tuple(s.token_ids for s in samples)) for p, samples in zip(given, found, strict=True)]
    with torch.no_grad():
        scored = score_tokens(ours, TreeBatch.pack(trees)).logprobs.numpy()
        plain = [plain_logprobs(eager, p, s.token_ids).numpy() for p, samples in zip(given, found, strict=True) for s in samples]
    drawn = [sample for samples in found for sample in samples]
    policy = np.concatenate([sample.policy_logprobs for sample in drawn])
    assert len(policy) > 100
    assert np.abs(policy - scored).max() < 1e-4
    assert np.abs(policy - np.concatenate(plain)).max() < 1e-4
    assert [sample.logprobs for sample in drawn] == [sample.policy_logprobs for sample in drawn]


@pytest.mark.parametrize(
    ("family", "autocast"),
    [("gpt2", False), ("llama", False), ("qwen2", False), ("mistral", False), ("gemma2", False), ("gpt_oss", False), ("llama", True)],
)
@both
def test_ids_do_not_depend_on_the_batch(family: str, autocast: bool, whose: str) -> None:
    """Experts multiply as many tokens as chose them, so that the logprobs of gpt_oss are the same to rounding."""
    model = tiny_policy(family)
    given, keys = prompts(32), names(32)
    options = SamplingOptions(max_tokens=12, seed=5, top_p=0.95, temperature=1.1)
    first = NativeEngine(model, END, rows=64, autocast=autocast).sample(given, 2, options, keys)
    together = ids_of(first)
    for size in (1, 3, 8):
        engine = NativeEngine(model, END, rows=size, autocast=autocast)
        found = [s for i in range(0, 10, size) for s in engine.sample(given[i : i + size], 2, options, keys[i : i + size])]
        assert ids_of(found)[:10] == together[:10]
        assert logprobs_of(found[:10]) == pytest.approx(logprobs_of(first[:10]), abs=2e-6)
    order = np.random.default_rng(0).permutation(32)
    shuffled = NativeEngine(model, END, rows=24, autocast=autocast).sample([given[i] for i in order], 2, options, [keys[i] for i in order])
    assert ids_of(shuffled) == [together[i] for i in order]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@both
def test_logprobs_are_bitwise_equal_at_every_batch_size(family: str, packing: bool, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_policy(family)
    if packing:
        monkeypatch.setattr(packed, "MODEL_WEIGHTS", 0)
        monkeypatch.setattr(packed, "LAYER_WEIGHTS", 0)
    given, keys, options = prompts(32), names(32), SamplingOptions(max_tokens=36, seed=5)
    together = NativeEngine(model, END, rows=64).sample(given, 2, options, keys)
    for size in (1, 3):
        found = [s for i in range(0, 6, size) for s in NativeEngine(model, END).sample(given[i : i + size], 2, options, keys[i : i + size])]
        assert found == together[:6]


def test_a_sample_depends_on_seed_key_and_its_number() -> None:
    model = tiny_policy("gpt2")
    engine, options = NativeEngine(model, NO_END), SamplingOptions(max_tokens=20)
    given = prompts(2)[1:] * 2
    four = ids_of(engine.sample(given, 4, options, ["a", "b"]))
    assert len({ids for of_prompt in four for ids in of_prompt}) == 8
    assert ids_of(engine.sample(given, 4, options, ["a", "b"])) == four
    assert ids_of(engine.sample(given[:1], 6, options, ["b"]))[0][:4] == four[1]
    other = SamplingOptions(max_tokens=20, seed=1)
    assert not set(ids_of(engine.sample(given, 4, other, ["a", "b"]))[0]) & set(four[0])


def test_a_longer_limit_continues_the_same_text() -> None:
    engine = NativeEngine(tiny_policy("llama"), NO_END)
    short, long = (engine.sample(prompts(3), 2, SamplingOptions(max_tokens=n), names(3)) for n in (5, 40))
    assert ids_of(short) == [[ids[:5] for ids in of_prompt] for of_prompt in ids_of(long)]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"temperature": 1.5, "top_k": 9}, {"top_p": 0.6}, {"temperature": 0.8, "top_k": 20, "top_p": 0.8}]
)
def test_samples_follow_the_distribution(options: dict[str, Any]) -> None:
    model, plain = pair(FAMILIES["gpt2"]())
    prompt, count = prompts(3)[2], 6000
    chosen = SamplingOptions(max_tokens=1, seed=11, **options)
    samples = NativeEngine(model, NO_END, rows=256).sample([prompt], count, chosen, ["x"])[0]
    expected = next_tokens(plain, prompt, chosen)
    found = goodness_of_fit(np.bincount([s.token_ids[0] for s in samples], minlength=VOCABULARY), expected)
    assert found.draws == count and found.impossible == 0 and found.p > 1e-3
    for sample in samples[:50]:
        assert sample.logprobs[0] == pytest.approx(np.log(expected[sample.token_ids[0]]), abs=1e-5)
    policy = np.log(next_tokens(plain, prompt, SamplingOptions(max_tokens=1)))
    assert samples[0].policy_logprobs[0] == pytest.approx(policy[samples[0].token_ids[0]], abs=1e-5)


def test_pairs_of_tokens_follow_the_distribution() -> None:
    """The second token given the first: draws at different positions are independent."""
    model, plain = pair(FAMILIES["llama"]())
    prompt, count, options = [5, 9, 2], 6000, SamplingOptions(max_tokens=2, temperature=0.4)
    samples = NativeEngine(model, NO_END).sample([prompt], count, options, ["x"])[0]
    first = next_tokens(plain, prompt, options)
    expected = np.stack([first[token] * next_tokens(plain, [*prompt, token], options) for token in range(VOCABULARY)])
    counts = np.zeros((VOCABULARY, VOCABULARY), dtype=np.int64)
    np.add.at(counts, tuple(np.array([s.token_ids for s in samples]).T), 1)
    found = goodness_of_fit(counts, expected)
    assert found.draws == count and found.freedom > 50 and found.p > 1e-3


def test_a_distribution_that_is_nearly_right_is_told_from_the_right_one() -> None:
    """6,000 fair draws pass; a tenth of each token's draws given to the next token does not; worked by hand: 60 and 40 of 50 and 50
    expected give 4, with one degree of freedom p = 0.0455; a draw of probability 0 is counted."""
    expected = np.random.default_rng(0).dirichlet(np.ones(VOCABULARY))
    counts = np.random.default_rng(1).multinomial(6000, expected)
    moved = counts - counts // 10 + np.roll(counts // 10, 1)
    assert goodness_of_fit(counts, expected).p > 1e-3 > 1e-9 > goodness_of_fit(moved, expected).p
    found = goodness_of_fit(np.array([60, 40, 0]), np.array([0.5, 0.5, 0.0]))
    assert (found.statistic, found.freedom, found.impossible) == (pytest.approx(4.0), 1, 0) and found.p == pytest.approx(0.0455, abs=1e-4)
    assert goodness_of_fit(np.array([60, 40, 3]), np.array([0.5, 0.5, 0.0])).impossible == 3
    assert goodness_of_fit(np.array([96, 2, 2]), np.array([0.96, 0.02, 0.02])).freedom == 1  # two cells of 2 expected are one of 4


def test_the_end_token_ends_a_sample_and_belongs_to_it() -> None:
    model = tiny_policy("gpt2")
    free = NativeEngine(model, NO_END).sample(prompts(6), 4, SamplingOptions(max_tokens=30), names(6))
    stopped = NativeEngine(model, END, rows=8).sample(prompts(6), 4, SamplingOptions(max_tokens=30), names(6))
    reasons = set()
    for whole, cut in zip(sum(free, []), sum(stopped, []), strict=True):
        if END in whole.token_ids:
            size = whole.token_ids.index(END) + 1
            assert cut.token_ids == whole.token_ids[:size] and cut.stop == "end"
        else:
            assert cut.token_ids == whole.token_ids and cut.stop == "length"
        assert len(cut.logprobs) == len(cut.policy_logprobs) == len(cut.token_ids)
        reasons.add(cut.stop)
    assert reasons == {"end", "length"}


def test_a_stop_string_ends_a_sample_with_the_token_that_completes_it() -> None:
    def decode(ids: Any) -> str:
        return "".join(chr(ord("a") + i % 26) for i in ids)

    model = tiny_policy("gpt2")
    options = SamplingOptions(max_tokens=40)
    free = sum(NativeEngine(model, NO_END).sample(prompts(6), 4, options, names(6)), [])
    texts = [decode(sample.token_ids) for sample in free]
    stop = (texts[0][7:9], texts[5][3:6])
    engine = NativeEngine(model, NO_END, rows=8, decode=decode)
    found = sum(engine.sample(prompts(6), 4, SamplingOptions(max_tokens=40, stop=stop), names(6)), [])
    for text, whole, sample in zip(texts, free, found, strict=True):
        ends = [text.index(s) + len(s) for s in stop if s in text]
        assert sample.token_ids == whole.token_ids[: min(ends, default=40)]
        assert sample.stop == ("string" if ends else "length")
    assert found[0].stop == found[5].stop == "string"


def test_a_token_with_more_text_than_the_stop_string_stops_too() -> None:
    engine = NativeEngine(tiny_policy("gpt2"), NO_END, decode=lambda ids: "".join("<é!>" if i % 2 else "-" for i in ids))
    (sample,) = engine.sample([[3]], 1, SamplingOptions(max_tokens=60, stop=("é",)), ["x"])[0]
    assert sample.stop == "string" and sample.token_ids[-1] % 2 == 1
    assert all(token % 2 == 0 for token in sample.token_ids[:-1])


@pytest.mark.parametrize(("count", "k", "rows"), [(4, 4, 32), (12, 20, 8), (20, 3, 8), (6, 9, 1), (6, 1, 4), (3, 11, 5)])
def test_each_distinct_prompt_is_computed_once_however_few_the_rows(count: int, k: int, rows: int) -> None:
    model, options = tiny_policy("gpt2"), SamplingOptions(max_tokens=3)
    engine = NativeEngine(model, NO_END, rows=rows)
    given = prompts(count)
    given = [*given, given[1], *given[::2]]  # some of them twice and three times
    found = engine.sample(given, k, options, names(len(given)))
    assert ids_of(found) == ids_of(NativeEngine(model, NO_END).sample(given, k, options, names(len(given))))
    distinct = {tuple(prompt) for prompt in given}
    assert engine.stats is not None and len(distinct) < len(given)
    assert engine.stats.prompt_tokens == sum(map(len, distinct)) - len(distinct)  # a prompt's last token is each sample's own
    assert engine.stats.samples == len(given) * k and engine.stats.tokens == 3 * len(given) * k


def test_samples_of_one_call_share_its_steps() -> None:
    engine = NativeEngine(tiny_policy("llama"), NO_END, rows=32)
    a, b = prompts(4)[1:3]
    engine.sample([a, b, a, a], 4, SamplingOptions(max_tokens=3), names(4))
    assert engine.stats is not None and engine.stats.steps == 3


def test_kv_memory_is_bounded_reported_and_changes_nothing() -> None:
    model = tiny_policy("llama")
    options = SamplingOptions(max_tokens=20)
    wide = NativeEngine(model, END, rows=64)
    narrow = NativeEngine(model, END, rows=64, kv_bytes=300_000)
    expected = wide.sample(prompts(16), 4, options, names(16))
    assert ids_of(narrow.sample(prompts(16), 4, options, names(16))) == ids_of(expected)
    assert wide.stats is not None and narrow.stats is not None
    # 2 layers x 2 key-value heads x 8 numbers x (key + value) x 4 bytes a token; blocks of 32, pages of 64 and one more
    tokens = 64 * 32 + 64 * (sum(-(-(len(prompt) - 1) // 64) for prompt in prompts(16)) + 1)
    assert wide.stats.kv_bytes == 256 * tokens
    assert narrow.stats.kv_bytes <= 300_000 and narrow.stats.rows < 64 and narrow.stats.steps > wide.stats.steps
    with pytest.raises(UserError, match="kv_bytes"):
        NativeEngine(model, END, kv_bytes=1000).sample(prompts(16), 4, options, names(16))


@pytest.mark.parametrize(("family", "autocast"), [("llama", False), ("llama", True), ("gpt_oss", False)])
@both
def test_any_number_of_rows_draws_the_same(family: str, autocast: bool, whose: str) -> None:
    """Products have multiples of 8 rows; those that fill them up have no keys and values."""
    model, options = tiny_policy(family), SamplingOptions(max_tokens=8, seed=1)
    expected = NativeEngine(model, END, rows=32, autocast=autocast).sample(prompts(4), 3, options, names(4))
    for rows in (1, 3, 9):
        engine = NativeEngine(model, END, rows=rows, autocast=autocast)
        found = engine.sample(prompts(4), 3, options, names(4))
        assert ids_of(found) == ids_of(expected)
        assert logprobs_of(found) == pytest.approx(logprobs_of(expected), abs=1e-5)
        assert engine.stats is not None and engine.stats.rows == rows
        assert rows * 32 * 256 < engine.stats.kv_bytes <= (rows * 32 + 64 * 5) * 256  # 256 bytes a token; 4 pages and one at most


def test_on_its_own_an_engine_takes_a_share_of_the_free_memory_and_one_row_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = tiny_policy("llama"), SamplingOptions(max_tokens=8)
    expected = NativeEngine(model, END).sample(prompts(8), 4, options, names(8))
    seen = []
    for free in (1e9, 8e5, 0):
        monkeypatch.setattr(run_module, "free_bytes", lambda device, free=free: int(free))
        engine = NativeEngine(model, END)
        assert ids_of(engine.sample(prompts(8), 4, options, names(8))) == ids_of(expected)
        assert engine.stats is not None and (engine.stats.kv_bytes <= 0.3 * free or engine.stats.rows == 1)
        seen.append(engine.stats.rows)
    assert seen[0] == 32 > seen[1] > 8 and seen[2] == 1


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_policy("gpt2").train()
    model.transformer.h[0].eval()
    model.transformer.wte.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    before = [parameter.clone() for parameter in model.parameters()]
    NativeEngine(model, END, autocast=True).sample(prompts(2), 2, SamplingOptions(max_tokens=4), names(2))
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_changed_weights_are_sampled_from_even_inside_autocast() -> None:
    model = tiny_policy("gpt2")
    engine, options = NativeEngine(model, NO_END, autocast=True), SamplingOptions(max_tokens=12, greedy=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = engine.sample(prompts(2), 1, options, names(2))
        with torch.no_grad():
            model.transformer.h[0].mlp.c_fc.weight.mul_(-3)
        inside = engine.sample(prompts(2), 1, options, names(2))
        loss = model(torch.tensor([[2, 3]]), use_cache=False, layout=_causal(2)).logits.sum()
    loss.backward()
    assert model.transformer.h[0].mlp.c_fc.weight.grad is not None
    outside = engine.sample(prompts(2), 1, options, names(2))
    assert ids_of(inside) == ids_of(outside) != ids_of(before)


class Casts(TorchDispatchMode):
    """Counts casts of these tensors to bf16."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.places, self.count = {t.data_ptr() for t in tensors}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        to_bf16 = func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16
        self.count += to_bf16 and args[0].data_ptr() in self.places
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_each_weight_is_cast_once_a_call_whatever_its_steps_compiled_or_not(packed: bool, frozen: bool, monkeypatch: Any) -> None:
    """A compiled layer would cast its weights in every step: on CPU none is run."""
    if not packed:
        monkeypatch.setattr(engine_module, "can_pack", lambda device, dtype: False)
    model = tiny_policy("llama").requires_grad_(not frozen)
    for layer in model.model.layers:
        layer._compiled_call_impl = lambda *given, **named: pytest.fail("a compiled layer was run")
    weights = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    assert len(weights) == 2 * 7 + 1
    for steps in (4, 12):
        with Casts(weights) as casts:
            NativeEngine(model, NO_END, autocast=True).sample(prompts(3), 2, SamplingOptions(max_tokens=steps), names(3))
        assert casts.count == len(weights)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_under_autocast_logprobs_are_the_scorers_within_bf16(family: str) -> None:
    model = tiny_policy(family)
    given = prompts(4)
    found = NativeEngine(model, END, autocast=True).sample(given, 3, SamplingOptions(max_tokens=40), names(4))
    trees = [PromptTree(tuple(p), tuple(s.token_ids for s in samples)) for p, samples in zip(given, found, strict=True)]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scored = score_tokens(model, TreeBatch.pack(trees)).logprobs.numpy()
    policy = np.concatenate([sample.policy_logprobs for samples in found for sample in samples])
    assert np.abs(policy - scored).mean() < 0.02


def test_prompts_that_leave_no_room_are_refused_by_name() -> None:
    engine: Engine = NativeEngine(tiny_policy("gpt2"), END)
    with pytest.raises(UserError, match=r"prompt 'long' has 90 tokens .* 96 positions"):
        engine.sample([[2] * 86, [2] * 90], 1, SamplingOptions(max_tokens=10), ["short", "long"])
    with pytest.raises(UserError, match="'none' has no tokens"):
        engine.sample([[]], 1, SamplingOptions(max_tokens=10), ["none"])
    with pytest.raises(UserError, match="decode"):
        engine.sample([[2]], 1, SamplingOptions(max_tokens=10, stop=("x",)), ["a"])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("options", [{}, {"greedy": True}, {"temperature": 0.7}, {"top_p": 0.9}])
def test_a_model_whose_numbers_are_not_finite_is_no_model(options: dict[str, Any], autocast: bool) -> None:
    """By one weight, which some tokens meet and others do not."""
    model = tiny_policy("llama")
    engine, options = NativeEngine(model, END, autocast=autocast), {"max_tokens": 5, **options}
    for number in (float("nan"), float("inf")):
        with torch.no_grad():
            model.model.embed_tokens.weight[7, 3] = number
        engine.sample([[5, 9]], 1, SamplingOptions(**options), ["fine"])
        with pytest.raises(RunFailed, match=r"prompt 'bad': the model's logits are not finite .* doctor"):
            engine.sample([[5, 9], [5, 7]], 2, SamplingOptions(**options), ["fine", "bad"])


def test_token_ids_that_the_model_does_not_have_are_refused_by_name() -> None:
    engine = NativeEngine(tiny_policy("gpt2"), END)
    for wrong in (VOCABULARY, -1):
        with pytest.raises(UserError, match=f"prompt 'b' has token ids that the model does not know, it knows 0 to {VOCABULARY - 1}"):
            engine.sample([[2, 3], [2, wrong, 4]], 1, SamplingOptions(max_tokens=3), ["a", "b"])


def test_the_last_position_can_be_reached() -> None:
    for family in ("gpt2", "opt"):
        (sample,) = NativeEngine(tiny_policy(family), NO_END).sample([[2] * 90], 1, SamplingOptions(max_tokens=6), ["x"])[0]
        assert len(sample.token_ids) == 6


def test_nothing_asked_is_nothing_done() -> None:
    engine = NativeEngine(tiny_policy("gpt2"), END)
    assert engine.sample([], 4, SamplingOptions(max_tokens=3), []) == []
    assert engine.sample([[2], [3]], 0, SamplingOptions(max_tokens=3), ["a", "b"]) == [[], []]


def test_progress_counts_samples_and_tokens() -> None:
    seen: list[tuple[int, int]] = []
    engine = NativeEngine(tiny_policy("gpt2"), END, rows=8)
    found = engine.sample(prompts(8), 3, SamplingOptions(max_tokens=30), names(8), on_progress=lambda *now: seen.append(now))
    assert seen == sorted(seen) and seen[-1] == (24, sum(len(s.token_ids) for of_prompt in found for s in of_prompt))


def _causal(size: int) -> Any:
    from trimtab.models.attention import TreeLayout

    return TreeLayout(TreeBatch.pack([PromptTree((0,) * size, ())]).layout, kernel="math")


@pytest.mark.parametrize("temperature", [1e-3, 3e-3, 0.05])
def test_logprobs_stay_finite_at_tiny_temperatures_in_bf16(temperature: float) -> None:
    """There half a bf16 step of a logit, divided by the temperature, is more than float32's exponential holds."""
    model = tiny_policy("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    found = NativeEngine(model, END, autocast=True).sample(prompts(8), 2, SamplingOptions(12, temperature=temperature), names(8))
    drawn = [x for row in found for s in row for x in (*s.logprobs, *s.policy_logprobs)]
    assert np.isfinite(drawn).all() and max(drawn) <= 0
