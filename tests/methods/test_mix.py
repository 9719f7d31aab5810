"""What is mixed into PPO: read from demonstrations or text, the same at a step whatever came before, refused where nothing fits."""

from pathlib import Path

import pytest
from tiny_models import TEXT, gradient_error, gradients, save_tiny_policy, write_lines

from trimtab.common.errors import UserError
from trimtab.data.template import Renderer
from trimtab.methods.mix import Ptx, check_mix, mix_loss, mix_step, read_mix
from trimtab.models.load import load_policy, load_tokenizer
from trimtab.models.score import score_tokens
from trimtab.trees import TreeBatch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix")
    save_tiny_policy(folder / "policy")
    (folder / "text.txt").write_text("\n\n".join(TEXT))
    rows = [{"id": f"d{i}", "messages": [{"role": "user", "content": f"say {i}"}], "completion": TEXT[i]} for i in range(6)]
    write_lines(folder / "demos.jsonl", rows)
    return folder


@pytest.mark.parametrize("kind", ["text", "demonstrations"])
def test_the_loss_is_the_weighted_mean_over_tokens_of_two_trees_however_packed(place: Path, kind: str) -> None:
    tokenizer, policy = load_tokenizer(place / "policy"), load_policy(place / "policy")
    ptx = Ptx(**{"weight": 3.0, "batch_size": 2, kind: str(place / {"text": "text.txt", "demonstrations": "demos.jsonl"}[kind])})
    found, trees = [], []
    for budget in (1, 1000):
        mix = read_mix("ppo", ptx, tokenizer, Renderer(tokenizer), 64, budget, 1)
        assert mix is not None
        step = mix_step(mix, 3)
        assert len(step) == (2 if budget == 1 else 1) and all(not batch.extra for batch in step)
        trees = [tree for batch in step for tree in batch.trees.trees]
        assert all(tree.longest <= 64 for tree in trees)
        losses = [mix_loss(policy, batch, 3.0) for batch in step]
        for loss, metrics in losses:
            assert set(metrics) == {"ptx_loss"}
            loss.backward()
        found.append(gradients(policy))
    assert gradient_error(*found) <= 1e-5
    logprobs = score_tokens(policy, TreeBatch.pack(trees)).logprobs
    (-3 * logprobs.mean()).backward()
    assert gradient_error(found[0], gradients(policy)) <= 1e-5
    assert float(losses[0][0].detach()) == pytest.approx(float(-3 * logprobs.mean().detach()), rel=1e-5)


def test_every_tree_has_its_turn(place: Path) -> None:
    tokenizer = load_tokenizer(place / "policy")
    ptx = Ptx(weight=1.0, batch_size=2, demonstrations=str(place / "demos.jsonl"))
    mix = read_mix("ppo", ptx, tokenizer, Renderer(tokenizer), 96, 1000, 1)
    assert mix is not None and mix.count == 6
    seen = [tree.key for step in range(3) for batch in mix_step(mix, step) for tree in batch.trees.trees]
    assert sorted(seen) == [f"d{i}" for i in range(6)]


def test_what_cannot_be_mixed_is_refused(place: Path) -> None:
    check_mix(Ptx())
    check_mix(Ptx(weight=1.0, demonstrations="hub:acme/answers"))
    check_mix(Ptx(weight=1.0, demonstrations=str(place / "demos.jsonl")))
    with pytest.raises(UserError, match="t.txt: no such file"):
        check_mix(Ptx(weight=1.0, text="t.txt"))
    with pytest.raises(UserError, match="ptx.batch_size=4 means nothing without a mix"):
        check_mix(Ptx(batch_size=4))
    with pytest.raises(UserError, match="ptx.weight=2 needs one of"):
        check_mix(Ptx(weight=2.0))
    with pytest.raises(UserError, match="ptx.weight=2 needs one of"):
        check_mix(Ptx(weight=2.0, text="t.txt", demonstrations="d.jsonl"))
    with pytest.raises(UserError, match="d.jsonl: would not be mixed in, ptx.weight is 0"):
        check_mix(Ptx(demonstrations="d.jsonl"))
    tokenizer = load_tokenizer(place / "policy")
    with pytest.raises(UserError, match="no demonstration is short enough"):
        read_mix("ppo", Ptx(weight=1.0, demonstrations=str(place / "demos.jsonl")), tokenizer, Renderer(tokenizer), 3, 1000, 1)
    assert read_mix("ppo", Ptx(), tokenizer, Renderer(tokenizer), 96, 1000, 1) is None
