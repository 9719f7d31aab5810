"""The page about a file and the list of its errors."""

import json
from pathlib import Path
from typing import Any

from rich.text import Text
from transformers import PreTrainedTokenizerFast

from trimtab.data.preview import TRAINED, show
from trimtab.data.template import Renderer, ensure_template


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def figures(page: Text) -> dict[str, str]:
    """Label -> value of the indented lines."""
    lines = [line for line in page.plain.splitlines() if line.startswith("  ")]
    return {line[:24].strip(): line[24:] for line in lines}


def ranking(words: list[int], ranks: list[int | None], **extra: Any) -> dict[str, Any]:
    texts = [{"text": " ".join(["w"] * n)} for n in words]
    return {"messages": [{"role": "user", "content": "a b c"}], "completions": texts, "ranks": ranks, **extra}


def test_figures_of_comparisons(tmp_path: Path) -> None:
    """First: 3 answers of 1, 2, 3 words, best first: 3 pairs, 0 of 3 longer. Second: the longer of 2 wins: 1 of 1.
    Third: a tie and an unranked answer. So the mean over the two rankings that decide is (0 + 1) / 2."""
    path = write(
        tmp_path / "a.jsonl",
        ranking([1, 2, 3], [1, 2, 3], user="u", use_case="qa"), ranking([1, 4], [2, 1], user="v"),
        ranking([1, 1, 9], [1, 1, None], user="u"),
    )  # fmt: skip
    got = figures(show(path, limit=0))
    assert got["rows"] == "3" and got["formats"] == "native 3" and got["records"] == "comparison 3"
    assert got["users"] == "2" and got["use cases"] == "qa 1"
    assert got["words in a prompt"] == "mean 3.0, p95 3, max 3"
    assert got["words in an answer"] == f"mean {22 / 8:.1f}, p95 7, max 9"
    assert got["answers compared (K)"] == "2: 1, 3: 2"
    assert got["pairs"] == "4 decided, 1 tied; 1 answers unranked"
    assert got["longer one preferred"].startswith("50.0 % [")


def test_samples_are_limited_and_long_texts_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"prompt": f"p{i} " + "x" * 3000} for i in range(5)))
    plain = show(path, limit=2).plain
    assert "p0 " in plain and "p1 " in plain and "p2 " not in plain
    assert len(plain) < 2500 and "more characters]" in plain


def test_with_a_tokenizer_the_trained_part_is_coloured(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ensure_template(byte_tokenizer)
    renderer = Renderer(byte_tokenizer)
    turns = [("user", "q one"), ("assistant", "a one"), ("user", "q two"), ("assistant", "a two")]
    path = write(tmp_path / "a.jsonl", {"messages": [{"role": r, "content": c} for r, c in turns]})
    page = show(path, renderer)
    green = [page.plain[span.start : span.end] for span in page.spans if span.style == TRAINED]
    assert green == ["a one<|im_end|>", "a two<|im_end|>"]
    assert "<|im_start|>user\nq one<|im_end|>\n<|im_start|>assistant\n" in page.plain
    assert figures(page)["tokens in an answer"].endswith(f"max {len(renderer.completion('a two'))}")


def test_ranking_is_shown_best_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ranking([1, 2, 3], [None, 2, 1]))
    plain = show(path).plain
    assert plain.index("1: w w w\n") < plain.index("2: w w\n") < plain.index("unranked: w\n")


def test_text_files(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a.txt", "one two three\n")
    assert figures(show(path)) == {"documents": "1 with 3 words", "words in a document": "mean 3.0, p95 3, max 3"}
    tokens = len(byte_tokenizer("one two three").input_ids)
    ensure_template(byte_tokenizer)
    assert figures(show(tmp_path, Renderer(byte_tokenizer)))["documents"] == f"1 with {tokens} tokens"


def test_rows_that_cannot_be_read_are_counted_and_the_rest_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x"}, "nonsense\n", {"foo": 1})
    got = figures(show(path))
    assert got["records"] == "prompt 1" and got["cannot be read"].startswith(f"2, the first: {path}:2: not JSON")
