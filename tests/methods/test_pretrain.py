"""Pretraining on plain text: pieces of documents, the loss of a next-token predictor, a model of the asked size."""

import math
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TEXT, plain_logprobs, read_lines, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.data.files import read_text
from trimtab.data.tokenizer import CorpusTokens
from trimtab.feedback.protocol import Feedback
from trimtab.methods.build import run
from trimtab.methods.pretrain import Config, model_config


def no_rewards(name: str) -> Feedback:
    raise AssertionError(name)


def config(place: Path, **options: Any) -> Config:
    if not (place / "text.txt").exists():
        (place / "text.txt").write_text("\n\n".join(TEXT * 4))
    small = {"vocabulary": 300, "hidden": 32, "layers": 2, "heads": 4, "context": 48, "held_out": 2}
    settings = {"data": str(place / "text.txt"), "out": str(place / "run"), "steps": 12, "batch_size": 8, "lr": 1e-2}
    return Config(**{**small, **settings, **options})


def test_a_corpus_is_cut_into_pieces_that_fit_with_the_start_token() -> None:
    """Context 5 leaves 4 tokens beside the start token; joined again the pieces are the documents, each with its end."""
    tokenizer = tiny_tokenizer()
    corpus = CorpusTokens.encode(TEXT[:3], tokenizer, 5)
    trees = [corpus.tree(i) for i in range(len(corpus))]
    assert all(t.prompt == (tokenizer.bos_token_id,) and t.longest <= 5 for t in trees)
    flat = [token for t in trees for token in t.completions[0]]
    whole = [
        ids
        for text in TEXT[:3]
        for ids in (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    ]
    assert flat == whole and corpus.tokens == len(whole)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_run_starts_near_uniform_and_learns(architecture: str, tmp_path: Path) -> None:
    """At the start every token has about 1/V: loss log V. The held-out loss is that of plain transformers on the same pieces."""
    run("pretrain", config(tmp_path, architecture=architecture), no_rewards)
    folder = tmp_path / "run"
    rows = {(row["step"], row["name"]): row["value"] for row in read_lines(folder / "metrics.jsonl")}
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert rows[0, "eval/loss"] == pytest.approx(math.log(len(tokenizer)), rel=0.05)
    assert rows[12, "eval/loss"] < 0.7 * rows[0, "eval/loss"]
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    corpus = CorpusTokens.encode(read_text(tmp_path / "text.txt"), tokenizer, 48)
    held_out = [corpus.tree(i) for i in range(len(corpus) - 2, len(corpus))]
    logprobs = [plain_logprobs(model, t.prompt, t.completions[0]).detach() for t in held_out]
    expected = -sum(float(x.sum()) for x in logprobs) / sum(len(x) for x in logprobs)
    assert rows[12, "eval/loss"] == pytest.approx(expected, rel=1e-4)
    assert read_json(folder / "run.json")["status"] == "done"


def test_it_goes_on_from_a_model(tmp_path: Path) -> None:
    run("pretrain", config(tmp_path), no_rewards)
    words: dict[str, Any] = {"context": 48, "held_out": 2, "batch_size": 8, "steps": 1, "lr": 1e-9}
    again = Config(data=str(tmp_path / "text.txt"), model=str(tmp_path / "run"), out=str(tmp_path / "more"), **words)
    run("pretrain", again, no_rewards)
    ends = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")}
    starts = {(row["step"], row["name"]): row["value"] for row in read_lines(tmp_path / "more" / "metrics.jsonl")}
    assert starts[0, "eval/loss"] == pytest.approx(ends[12, "eval/loss"], rel=1e-6)


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hidden=32 is not a multiple of heads=5"):
        model_config(config(tmp_path, heads=5), tiny_tokenizer())
    with pytest.raises(UserError, match="documents, of which held_out=5000 are kept out"):
        run("pretrain", config(tmp_path, held_out=5000), no_rewards)
