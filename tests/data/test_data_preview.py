"""The page about a file and the list of its errors."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from chat_families import tokenizer_of
from rich.console import Console, RenderableType
from transformers import PreTrainedTokenizerFast

from trimtab.data.preview import show
from trimtab.data.samples import CONTROL, CONTROL_TRAINED, TRAINED
from trimtab.data.template import Renderer, ensure_template
from trimtab.records import Message, Prompt


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def plain(page: RenderableType, width: int = 200) -> str:
    """As it goes into a pipe."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(page)
    return console.file.getvalue()


def styled(page: RenderableType, style: str) -> list[str]:
    """The texts of a style, in order, as they are printed."""
    console = Console(width=200, force_terminal=True, color_system="standard")
    wanted = console.get_style(style)
    found = [segment.text for segment in console.render(page) if segment.style == wanted and segment.text.strip()]
    return [text for text in found if text not in ("what is trained is green", "control tokens", "also trained ones")]


def figures(page: RenderableType) -> dict[str, str]:
    """Label -> value of the indented lines."""
    lines = [line.strip() for line in plain(page, 1000).splitlines() if line.startswith("  ") and "│" not in line]
    return {label: value.strip() for label, value in (re.split(r"  +", line, maxsplit=1) for line in lines)}


def ranking(words: list[int], ranks: list[int | None], **extra: Any) -> dict[str, Any]:
    texts = [{"text": " ".join(["w"] * n)} for n in words]
    return {"messages": [{"role": "user", "content": "a b c"}], "completions": texts, "ranks": ranks, **extra}


def test_of_very_many_use_cases_the_most_frequent_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"prompt": f"q{i}", "use_case": f"c{max(i, 5)}"} for i in range(40)))
    got = figures(show(path, limit=0))["use cases"]
    assert got.startswith("c5 6, c6 1, ") and got.endswith(" and 15 others") and got.count(",") == 19


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
    page = plain(show(path, limit=2))
    assert "p0 " in page and "p1 " in page and "p2 " not in page
    assert len(page) < 4000 and "[... 2,303 more characters ...]" in page


@pytest.fixture
def renderer(byte_tokenizer: PreTrainedTokenizerFast) -> Renderer:
    ensure_template(byte_tokenizer)
    return Renderer(byte_tokenizer)


def chat(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


def test_with_a_tokenizer_the_trained_part_is_coloured(tmp_path: Path, renderer: Renderer) -> None:
    page = show(write(tmp_path / "a.jsonl", chat("q one", "a one", "q two", "a two")), renderer)
    assert styled(page, TRAINED) == ["a one", "a two"] and styled(page, CONTROL_TRAINED) == ["<|im_end|>"] * 2
    assert styled(page, CONTROL) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"] * 2
    piece = renderer.conversation([Message(m["role"], m["content"]) for m in chat("q one", "a one", "q two", "a two")["messages"]])
    got, trained = figures(page), sum(piece.trained)
    assert got["tokens in an answer"].endswith(f"max {len(renderer.completion('a two'))}")
    assert got["trained tokens"].startswith(f"{trained} of {len(piece.prompt) + len(piece.trained)} (")


def test_without_colours_labels_and_marks_say_the_same(tmp_path: Path, renderer: Renderer) -> None:
    """What is trained, how many tokens it has, and white space that would not be seen."""
    page = plain(show(write(tmp_path / "a.jsonl", chat("q", " a one\n", "q two", "a two")), renderer))
    count = len(renderer.completion(" a one\n"))
    rows = [line.rstrip() for line in page.splitlines() if "│" in line]
    assert rows[0].startswith("context │") and rows[0].endswith("│ <|im_start|>user") and rows[2].endswith("│ <|im_start|>assistant↵")
    assert [re.sub(r" +", " ", row) for row in rows[3:6]] == [f"trained │ {count} │ ·a one", " │ │ <|im_end|>", rows[5].replace("  ", " ")]
    assert rows[5].startswith("context │") and rows[5].endswith("│ ↵") and rows[-1].endswith("│ a two<|im_end|>")
    assert "\x1b" not in page


def test_records_that_cannot_be_trained_on_are_counted_and_shown_as_they_are(tmp_path: Path) -> None:
    refused = {"messages": [{"role": "system", "content": "Be"}, *chat("q", "a one")["messages"]]}
    page = show(write(tmp_path / "a.jsonl", refused, chat("q", "a two")), Renderer(tokenizer_of("Gemma")))
    assert re.match(r"1, the first: a.jsonl:1: Gemma's chat template refuses", figures(page)["cannot be trained on"])
    assert "which cannot be trained on" in plain(page) and styled(page, TRAINED) == ["a two"]
    nothing = figures(show(write(tmp_path / "b.jsonl", refused, refused), Renderer(tokenizer_of("Gemma"))))
    assert nothing["cannot be trained on"].startswith("2, ") and "tokens in a prompt" not in nothing


def test_records_over_the_models_length_are_counted(tmp_path: Path, renderer: Renderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("q", "a"), chat("q", "a " * 99), chat("q", "a " * 98))
    longest = len(renderer.prompt(Prompt("p", (Message("user", "q"),)))) + len(renderer.completion("a " * 98))
    assert figures(show(path, renderer, max_length=longest))[f"at most {longest} tokens"] == "2 of 3; the others are left out"
    assert figures(show(path, renderer, max_length=1000))["at most 1,000 tokens"] == "3 of 3"


def test_answers_in_pieces_are_said(tmp_path: Path) -> None:
    page = show(write(tmp_path / "a.jsonl", chat("q", "a", "q", "b"), chat("q", "a")), Renderer(tokenizer_of("Qwen 3")))
    assert figures(page)["answers in pieces"].startswith("of 1 conversations")
    assert "in 2 pieces, for the chat template rewrites earlier turns" in plain(page)


def test_typed_control_tokens_are_named_and_control_characters_shown(tmp_path: Path, renderer: Renderer) -> None:
    """A colour code in a text would colour the terminal; a typed end token looks like the template's."""
    page = show(write(tmp_path / "a.jsonl", chat("q<|im_end|>\x1b[31m", "a")), renderer)
    assert "typed in a text, so text and no control tokens: <|im_end|>" in plain(page) and "\x1b" not in plain(page)
    assert "q<|im_end|>␛[31m" in plain(page) and styled(page, CONTROL) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_ranking_is_shown_best_first(tmp_path: Path, renderer: Renderer) -> None:
    path = write(tmp_path / "a.jsonl", ranking([1, 2, 3], [None, 2, 1]))
    for page in (plain(show(path)), plain(show(path, renderer))):
        rows = [re.sub(r" *│ *", "\t", line.strip()) for line in page.splitlines() if "│" in line]
        assert [row.split("\t")[0] for row in rows[-3:]] == ["rank 1", "rank 2", "unranked"]
        assert [row.split("\t")[-1].removesuffix("<|im_end|>") for row in rows[-3:]] == ["w w w", "w w", "w"]


def test_models_and_answers_without_an_end_are_named(tmp_path: Path, renderer: Renderer) -> None:
    answers = [{"text": "w", "model": "sft"}, {"text": "w", "model": "base", "stop": "length"}]
    page = plain(show(write(tmp_path / "a.jsonl", {**chat("q"), "completions": answers, "ranks": [1, 1]}), renderer))
    assert re.search(r"rank 1, sft │ +\d+ │ w<\|im_end\|>", page) and re.search(r"rank 1, base │ +\d+ │ w +\n", page)
    assert "cut by length, so without an end token: 1 of 2 answers" in page and "0 decided, 1 tied" in page


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
