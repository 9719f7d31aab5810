"""Logprobs, entropy, values and rewards against dense float64, and a saved scorer against plain transformers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, gradients, pair, plain_logprobs, random_trees, tiny_policy
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from trimtab.common.errors import UserError
from trimtab.feedback.reward_model import score_in_budget
from trimtab.methods.reward import add_pad_token
from trimtab.models import score
from trimtab.models.load import grow_vocabulary, load_policy, load_scorer, load_tokenizer, save_model
from trimtab.models.score import Tail, score_rewards, score_rows, score_tokens, score_values, tail_of, token_logprobs
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget

SCORERS = [family for family in FAMILIES if family not in ("granite", "cohere")]


def dense(rows: Tensor, targets: Tensor, tail: Tail, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The definition with all logits at once, in the inputs' precision."""
    logits = tail.scale * (rows @ tail.weight.T + (0 if tail.bias is None else tail.bias))
    if tail.softcap is not None:
        logits = tail.softcap * torch.tanh(logits / tail.softcap)
    log_p = torch.log_softmax(logits / temperature, -1)
    return log_p[torch.arange(len(rows)), targets], -(log_p.exp() * log_p).sum(-1)


def problem(
    dtype: torch.dtype, count: int = 7, width: int = 5, vocabulary: int = 11
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((count, width), (vocabulary, width), (vocabulary,))
    )
    return rows, weight, bias, torch.randint(vocabulary, (count,), generator=generator)


TAILS = [
    pytest.param({}, 1.0, id="plain"),
    pytest.param({}, 0.7, id="temperature"),
    pytest.param({"scale": 0.25}, 1.0, id="scale"),
    pytest.param({"softcap": 2.0}, 1.0, id="softcap"),
    pytest.param({"softcap": 1.5, "scale": 3.0}, 1.8, id="softcap, scale and temperature"),
]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("tail", "temperature"), TAILS)
@pytest.mark.parametrize("rows_per_chunk", [1, 2, 3, 7, 100])
def test_chunked_equals_dense_whatever_the_chunks(
    tail: dict[str, Any], temperature: float, with_bias: bool, rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float64: values and all gradients, of logprobs and entropy together, to 1e-12; 7 rows in chunks of 1, 2, 3, 7, 100."""
    monkeypatch.setattr(score, "CHUNK_LOGITS", rows_per_chunk * 11)
    rows, weight, bias, targets = problem(torch.float64)
    leaves = [rows, weight, *([bias] if with_bias else [])]
    made = Tail(weight, bias if with_bias else None, **tail)
    weights = torch.linspace(-1, 2, len(rows), dtype=torch.float64)
    results = []
    for function in (token_logprobs, dense):
        logprobs, entropy = function(rows, targets, made, temperature=temperature)
        slopes = torch.autograd.grad(logprobs @ weights + entropy @ weights.flip(0), leaves)
        results.append([logprobs, entropy, *slopes])
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("tail", "temperature"), TAILS)
def test_gradients_by_finite_differences(
    tail: dict[str, Any], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "CHUNK_LOGITS", 3 * 11)
    rows, weight, bias, targets = problem(torch.float64)
    assert torch.autograd.gradcheck(
        lambda r, w, b: token_logprobs(r, targets, Tail(w, b, **tail), temperature=temperature), [rows, weight, bias]
    )


@pytest.mark.parametrize("large", [True, False])
def test_the_products_of_a_large_head_and_its_gradients(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head products in float32 by oneDNN where a head is large: the dense computation in float64 says the same of either."""
    monkeypatch.setattr(score, "LARGE_HEAD", 0 if large else 1 << 40)
    monkeypatch.setattr(score, "CHUNK_LOGITS", 24 * 700)  # three chunks
    asked: list[int] = []
    plain = score.onednn.linear
    monkeypatch.setattr(score.onednn, "linear", lambda rows, weight: asked.append(len(rows)) or plain(rows, weight))
    found = []
    for dtype in (torch.float32, torch.float64):
        rows, weight, _, targets = problem(dtype, 64, 48, 700)
        logprobs, entropy = (token_logprobs if dtype == torch.float32 else dense)(rows, targets, Tail(weight, None))
        (logprobs * torch.linspace(-1, 2, 64) + entropy).sum().backward()
        assert weight.grad is not None and rows.grad is not None
        found.append([t.detach().double() for t in (logprobs, entropy, weight.grad, rows.grad)])
    for ours, definition in zip(*found, strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-4, atol=1e-4)
    assert asked == ([24, 24, 16] * 2 if large and score.onednn.usable(torch.device("cpu")) else [])


def test_a_second_derivative_is_refused() -> None:
    """What the forward pass kept would count as constant in it: a gradient penalty would be wrong in silence."""
    rows, weight, bias, targets = problem(torch.float64)
    logprobs, _ = token_logprobs(rows, targets, Tail(weight, bias))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(logprobs.sum(), rows, create_graph=True)


def test_logprobs_and_entropy_worked_by_hand() -> None:
    """Weight = identity, row = log(1, 2, 5): p = 1/8, 2/8, 5/8; temperature 0.5 squares them: 1/30, 4/30, 25/30."""
    rows, targets = torch.tensor([[1.0, 2.0, 5.0]]).log(), torch.tensor([1])
    for temperature, p in ((1.0, [1 / 8, 2 / 8, 5 / 8]), (0.5, [1 / 30, 4 / 30, 25 / 30])):
        logprobs, entropy = token_logprobs(rows, targets, Tail(torch.eye(3), None), temperature=temperature)
        assert float(logprobs) == pytest.approx(math.log(p[1]), abs=1e-6)
        assert float(entropy) == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-6)


def test_ranks_count_the_likelier_tokens() -> None:
    """Logits 0, 3, 1, 3 of four tokens: 1 and 3 share the first place; 2 has two before it, 0 three. The exact logit counts, not bf16's."""
    tail = Tail(torch.tensor([[0.0], [3.0], [1.0], [3.0]]), None)
    assert score_rows(torch.ones(4, 1), torch.arange(4), tail).rank.tolist() == [3, 0, 2, 0]
    sharp = torch.tensor([[1.0 + 2**-9]])
    with torch.autocast("cpu", torch.bfloat16):  # in bf16 both logits are 4; the target's own is 4 + 2^-7
        assert score_rows(sharp, torch.tensor([0]), Tail(torch.tensor([[4.0], [4.0]]), None)).rank.tolist() == [0]


def test_entropy_of_equal_logits_is_log_v_and_of_a_certain_token_is_zero() -> None:
    weight = torch.zeros(50, 4)
    _, entropy = token_logprobs(torch.ones(1, 4), torch.tensor([0]), Tail(weight, None))
    assert float(entropy) == pytest.approx(math.log(50), abs=1e-6)
    weight[3] = 100.0
    logprobs, entropy = token_logprobs(torch.ones(1, 4), torch.tensor([3]), Tail(weight, None))
    assert float(logprobs) == 0.0 and float(entropy) == pytest.approx(0.0, abs=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    rows = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    logprobs, entropy = token_logprobs(rows, torch.tensor([0, 0]), Tail(torch.eye(2), None))
    assert logprobs.tolist() == [0.0, -2e4] and entropy.tolist() == [0.0, 0.0]


def test_a_token_nobody_asks_the_entropy_of_has_the_same_gradient() -> None:
    rows, weight, _, targets = problem(torch.float64)
    tail = Tail(weight, None)
    alone = torch.autograd.grad(token_logprobs(rows, targets, tail)[0].sum(), [rows, weight])
    logprobs, entropy = token_logprobs(rows, targets, tail)
    beside = torch.autograd.grad(logprobs.sum() + 0 * entropy.sum(), [rows, weight])
    only_entropy = torch.autograd.grad(token_logprobs(rows, targets, tail)[1].sum(), [rows, weight])
    expected = torch.autograd.grad(dense(rows, targets, tail)[1].sum(), [rows, weight])
    for a, b in (*zip(alone, beside, strict=True), *zip(only_entropy, expected, strict=True)):
        assert torch.allclose(a, b, atol=1e-12)


def test_no_scored_token_is_no_error() -> None:
    weight = torch.randn(6, 4, requires_grad=True)
    logprobs, entropy = token_logprobs(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), Tail(weight, None))
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (0,) and weight.grad is not None and not weight.grad.any()


def test_under_autocast_the_targets_logit_is_float32_in_the_log_sum_exp_too() -> None:
    """bf16 rounds the hidden state 1 + 2^-9 to 1. Against a far smaller logit the target is sure: 0, not its rounding of 2^-7. Against
    another logit of 4 (rounded) its own 4 (1 + 2^-9) is exact: -log(1 + exp(-2^-7)); the gradient of the row is (1 - p) * (4 - 4) = 0.
    """
    rows = torch.tensor([[1.0 + 2**-9]], requires_grad=True)
    for other, expected, slope in ((-400.0, 0.0, 0.0), (4.0, -math.log1p(math.exp(-(2**-7))), 0.0), (-4.0, None, None)):
        with torch.autocast("cpu", torch.bfloat16):
            logprobs, entropy = token_logprobs(rows, torch.tensor([0]), Tail(torch.tensor([[4.0], [other]]), None))
        assert logprobs.dtype == torch.float32 and float(logprobs.detach()) <= 0 <= float(entropy.detach())
        if expected is not None:
            assert float(logprobs.detach()) == pytest.approx(expected, abs=1e-7)
            (found,) = torch.autograd.grad(logprobs.sum(), rows)
            assert float(found) == pytest.approx(slope, abs=1e-6)


def test_bf16_products_cost_less_than_bf16_logits() -> None:
    """A peaked distribution over 500 tokens, of hidden states and weights as bf16 has them: ours is nearer to float64."""
    torch.manual_seed(0)
    rows, weight = torch.randn(200, 64).bfloat16().float(), torch.randn(500, 64).bfloat16().float()
    exact = (rows.double() @ weight.double().T).log_softmax(-1)
    targets = torch.multinomial(exact.exp(), 1).squeeze(-1)
    exact = exact.gather(1, targets[:, None])[:, 0]
    with torch.autocast("cpu", torch.bfloat16):
        ours = token_logprobs(rows, targets, Tail(weight, None))[0]
    plain = (rows.bfloat16() @ weight.bfloat16().T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    apart, theirs = (ours - exact).abs().mean(), (plain - exact).abs().mean()
    assert float(theirs) > 0.003 and float(apart) < 0.75 * float(theirs)


@pytest.mark.parametrize(
    ("family", "scale", "softcap", "bias"),
    [
        ("llama", 1.0, None, False),
        ("gemma2", 1.0, 3.0, False),
        ("granite", 2.0, None, False),
        ("cohere", 0.7, None, False),
    ],
)
def test_the_tail_of_each_family(family: str, scale: float, softcap: float | None, bias: bool) -> None:
    """Granite divides its logits (by 0.5 here), Cohere multiplies them, Gemma 2 caps them."""
    tail = tail_of(tiny_policy(family))
    assert (tail.scale, tail.softcap, tail.bias is not None) == (pytest.approx(scale), softcap, bias)
    assert tail.weight.shape == (VOCABULARY, 32)


def test_trained_spans_score_the_right_tokens() -> None:
    """Of a demonstration with two assistant turns only those tokens are scored, each given everything before it."""
    model, eager = pair(FAMILIES["llama"]())
    tree = random_trees([(5, [9])])[0]
    mask = (True, True, False, False, True, False, True, True, True)
    spans = PromptTree(tree.prompt, tree.completions, trained=(mask,))
    found = score_tokens(model, TreeBatch.pack([spans])).logprobs
    expected = plain_logprobs(eager, tree.prompt, tree.completions[0])[torch.tensor(mask)]
    assert found.shape == (6,) and torch.allclose(found, expected, atol=1e-5)


def test_logprobs_are_of_logits_over_temperature() -> None:
    model, eager = pair(FAMILIES["gemma2"]())
    tree = random_trees([(5, [9])])[0]
    found = score_tokens(model, TreeBatch.pack([tree]), temperature=0.6).logprobs
    ids = torch.tensor([[*tree.prompt, *tree.completions[0]]])
    logits = eager(input_ids=ids).logits[0, 4:-1]
    expected = torch.log_softmax(logits / 0.6, -1).gather(1, torch.tensor(tree.completions[0])[:, None]).squeeze(1)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", SCORERS)
def test_rewards_and_values_equal_the_plain_forward_at_any_packing(family: str) -> None:
    """The score at a completion's last token, to 1e-5; a value is the score of the prefix before its token."""
    model, eager = pair(FAMILIES[family](), scorer=True)
    trees = random_trees([(12, [9, 14, 5]), (3, [6, 4]), (7, [11]), (1, [20])])
    with torch.no_grad():

        def plain(ids: tuple[int, ...]) -> float:
            return float(eager(input_ids=torch.tensor([ids]), use_cache=False).logits)

        expected = [[plain(t.prompt + c) for c in t.completions] for t in trees]
        assert torch.tensor([x for row in expected for x in row]).std() > 0.1
        for groups in ([trees], [[t] for t in reversed(trees)], pack_by_budget(trees, 30)):
            for group in groups:
                rewards = score_rewards(model, TreeBatch.pack(group))
                wanted = [x for t in group for x in expected[int(t.key)]]
                assert rewards.dtype == torch.float32 and torch.allclose(rewards, torch.tensor(wanted), atol=1e-5)
        tree = trees[1]
        values = score_values(model, TreeBatch.pack([tree]))
        prefixes = [plain(tree.prompt + c[:i]) for c in tree.completions for i in range(len(c))]
        assert torch.allclose(values, torch.tensor(prefixes), atol=1e-5)


def test_scores_in_a_budget_come_back_in_the_trees_order() -> None:
    model, _ = pair(FAMILIES["llama"](), scorer=True)
    trees = random_trees([(4, [9, 2]), (3, [16]), (7, [3, 5, 1]), (2, [20])])
    whole = score_in_budget(model, trees, 10_000)
    assert [len(row) for row in whole] == [2, 1, 3, 1]
    for budget in (1, 12, 25):
        for a, b in zip(score_in_budget(model, trees, budget), whole, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def test_rewards_stay_float32_under_autocast() -> None:
    """Near 3 bf16 has steps of 0.016: the head's output must not sit on that grid."""
    model, _ = pair(FAMILIES["llama"](), scorer=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rewards = score_rewards(model, TreeBatch.pack(random_trees([(6, [5] * 8)])))
    assert rewards.dtype == torch.float32 and not torch.equal(rewards, rewards.bfloat16().float())


def test_a_reward_has_gradients_for_the_whole_trunk() -> None:
    model, _ = pair(FAMILIES["llama"](), scorer=True)
    score_rewards(model, TreeBatch.pack(random_trees([(6, [5, 7])]))).sum().backward()
    assert all(g.any() for name, g in gradients(model).items() if "bias" not in name)


def tokenizer_with(end: str, pad: str | None) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY - 2)} | {"<unk>": VOCABULARY - 2, "<end>": VOCABULARY - 1}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, unk_token="<unk>", pad_token=pad)


@pytest.mark.parametrize("pad", [None, "<end>"], ids=["no pad token", "pad is the end token"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_saved_scorer_in_plain_transformers(family: str, pad: str | None, tmp_path: Path) -> None:
    """Left- and right-padded batches of plain transformers give our scores to 1e-5, although completions end in the end token.

    With pad = end plain transformers would read the score one token early: the saved pad id is another one. GPT-2 itself
    counts positions from the left edge, padding included, so a left-padded batch of it always needs position ids.
    """
    model, _ = pair(FAMILIES[family](), scorer=True)
    tokenizer = tokenizer_with("<end>", pad)
    add_pad_token(model, tokenizer, tokenizer.eos_token_id)
    save_model(model, tokenizer, tmp_path / "scorer")
    assert load_tokenizer(tmp_path / "scorer").pad_token_id not in (None, tokenizer.eos_token_id)
    end = tokenizer.eos_token_id
    trees = [
        PromptTree(t.prompt, tuple((*c, end) for c in t.completions)) for t in random_trees([(9, [5, 12]), (2, [3])])
    ]
    ours = score_rewards(load_scorer(tmp_path / "scorer"), TreeBatch.pack(trees))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scorer").eval()
    sequences = [t.prompt + c for t in trees for c in t.completions]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer.pad({"input_ids": [list(s) for s in sequences]}, return_tensors="pt")
        assert (batch["attention_mask"] == 0).any()
        if family == "gpt2":
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            scores = plain(**batch).logits.squeeze(-1)
        assert torch.allclose(scores, ours, atol=1e-5), side


def test_a_fresh_head_depends_on_the_seed_alone_and_a_saved_one_is_kept(tmp_path: Path) -> None:
    """The head is N(0, 1 / (H + 1)): of the 32 squares times 33 the mean is 1 +- 0.25."""
    save_model(tiny_policy(), tokenizer_with("<end>", None), tmp_path / "policy")
    torch.manual_seed(11)
    fresh = load_scorer(tmp_path / "policy")
    torch.manual_seed(12)
    again, other = load_scorer(tmp_path / "policy"), load_scorer(tmp_path / "policy", seed=1)
    assert torch.equal(fresh.score.weight, again.score.weight)
    assert not torch.equal(fresh.score.weight, other.score.weight)
    assert 0.25 < float(fresh.score.weight.detach().square().mean()) * 33 < 2
    batch = TreeBatch.pack(random_trees([(5, [4, 6])]))
    save_model(fresh, tokenizer_with("<end>", None), tmp_path / "scorer")
    again = load_scorer(tmp_path / "scorer")
    assert score_rewards(fresh, batch).any() and torch.equal(score_rewards(again, batch), score_rewards(fresh, batch))


def test_saving_replaces_the_folder_whole_and_loading_gives_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "stale").write_text("x")
    model = tiny_policy("gemma3")
    save_model(model, tokenizer_with("<end>", None), folder)
    assert not (folder / "inner").exists() and [p.name for p in tmp_path.iterdir()] == ["model"]
    again = load_policy(tmp_path)  # a run folder is as good as the model folder inside it
    for (name, a), (other, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)


@pytest.mark.parametrize("family", ["gpt2", "llama", "cohere", "gpt_neox"])
def test_new_token_ids_start_as_the_mean_and_draw_nothing(family: str) -> None:
    """Tied and untied heads: two copies grow alike, old logits stay bit-equal, the global generator is not touched."""
    a, b = pair(FAMILIES[family]())
    ids = torch.tensor([[3, 4, 5]])
    before = b(input_ids=ids).logits
    old = b.get_input_embeddings().weight.detach().clone()
    torch.manual_seed(1)
    grow_vocabulary(a, VOCABULARY + 2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    grow_vocabulary(b, VOCABULARY + 2)
    grow_vocabulary(b, 10)
    assert torch.equal(torch.get_rng_state(), state)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)
    rows = b.get_input_embeddings().weight
    assert torch.equal(rows[:VOCABULARY], old) and torch.allclose(rows[VOCABULARY:], old.mean(0).expand(2, -1))
    after = b(input_ids=ids).logits
    assert after.shape[-1] == VOCABULARY + 2 and torch.allclose(after[..., :VOCABULARY], before, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "cohere", "gpt_neox"])  # untied, tied, untied with biases elsewhere
def test_new_token_ids_in_a_padded_vocabulary(family: str) -> None:
    """The first ids are those of tokens that were trained. Rows of the padding are used where they suffice, and start as the mean of the
    trained ones, not of all; where they do not, the vocabulary grows by whole blocks."""
    config = FAMILIES[family]()
    known, config.vocab_size = config.vocab_size, 64 * (config.vocab_size // 64 + 1)
    a, b = pair(config)
    rows = config.vocab_size
    layers = [m for m in (a.get_input_embeddings(), a.get_output_embeddings()) if m is not None]
    old = [m.weight.detach().clone() for m in layers]
    grow_vocabulary(a, known + 2, known)
    for layer, before in zip((a.get_input_embeddings(), a.get_output_embeddings()), old, strict=True):
        assert len(layer.weight) == rows and torch.equal(layer.weight[:known], before[:known])
        assert torch.allclose(layer.weight[known : known + 2], before[:known].mean(0).expand(2, -1))
        assert torch.equal(layer.weight[known + 2 :], before[known + 2 :])  # what is still padding stays as it was
    grow_vocabulary(b, rows + 1, known)
    for layer, before in zip((b.get_input_embeddings(), b.get_output_embeddings()), old, strict=True):
        assert len(layer.weight) == rows + 64 and torch.equal(layer.weight[:known], before[:known])
        assert torch.allclose(layer.weight[known:], before[:known].mean(0).expand(rows + 64 - known, -1))
    assert b.config.vocab_size == rows + 64
    grow_vocabulary(b, rows + 66, rows + 66)  # a tokenizer that always had more tokens than its model
    assert len(b.get_input_embeddings().weight) == rows + 66


def test_loading_switches_every_dropout_off(tmp_path: Path) -> None:
    config = FAMILIES["gpt2"]()
    model = tiny_policy("gpt2")
    model.config.resid_pdrop = model.config.embd_pdrop = model.config.attn_pdrop = config.resid_pdrop = 0.3
    save_model(model, tokenizer_with("<end>", None), tmp_path / "model")
    loaded = load_policy(tmp_path / "model").train()
    assert [m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout) and m.p] == []
    score_tokens(loaded, TreeBatch.pack(random_trees([(2, [3])])))


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"model_type": "no-such-kind"}')
    (tmp_path / "bare").mkdir()
    FAMILIES["llama"]().save_pretrained(tmp_path / "bare")
    cases = {
        "nowhere": "no such model folder",
        "empty": "no config.json",
        "bad": "not a model folder",
        "bare": "cannot load it",
    }
    for name, reason in cases.items():
        with pytest.raises(UserError) as caught:
            load_policy(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and reason in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "bare")


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_with("<end>", None)
    tokenizer.eos_token = None
    save_model(tiny_policy(), tokenizer, tmp_path / "model")
    with pytest.raises(UserError, match="no end token; set eos_token"):
        load_tokenizer(tmp_path / "model")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_products_have_few_shapes(family: str) -> None:
    """Batches of many lengths give matrix products of few row counts; and what fills them up changes nothing."""
    policy, plain = pair(FAMILIES[family]())
    rows = set()
    for module in policy.modules():
        if type(module).__name__ in ("Linear", "Conv1D") and module is not policy.get_output_embeddings():
            module.register_forward_pre_hook(lambda m, inputs: rows.add(inputs[0].shape[-2]))
    for tree in random_trees([(5, [3, 4]), (7, [9]), (6, [2, 8, 5]), (12, [20, 31])]):
        found = score_tokens(policy, TreeBatch.pack([tree])).logprobs
        expected = torch.cat([plain_logprobs(plain, tree.prompt, c) for c in tree.completions])
        assert torch.allclose(found, expected, atol=1e-5)
    assert rows == {score.ROWS}
