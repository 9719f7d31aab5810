"""Public files in their original formats, where they lie beside the repository. They are not part of the project."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from trimtab.common.errors import UserError
from trimtab.data.encode import comparison_trees, demonstration_trees
from trimtab.data.files import read_rows, read_text
from trimtab.data.formats import RankSettings, ReadSettings, read, read_comparisons, read_demonstrations, read_prompts
from trimtab.data.template import Renderer, ensure_template

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no public test data at {DATA}")


@pytest.mark.parametrize(
    ("name", "format", "count"),
    [
        ("demonstrations/alpaca_5000.json", "alpaca", 5000),
        ("demonstrations/short_instructions.json", "alpaca", 1100),
        ("demonstrations/self_instruct_seed_tasks.jsonl", "self-instruct", 175),
        ("demonstrations/tulu3_sft_sample.jsonl", "openai", 100),
        ("demonstrations/t0/ag_news_classify.jsonl", "t0", 200),
    ],
)
def test_demonstrations(name: str, format: str, count: int) -> None:
    got = read(DATA / name, "demonstration")
    assert len(got.records) == count and set(got.formats) == {format} and not got.skipped
    assert len({d.prompt.id for d in got.records}) == count
    assert not any("<|endoftext|>" in d.completion for d in got.records)
    assert len(read_prompts(DATA / name)) == count


@pytest.mark.parametrize(
    ("name", "format", "rows", "count"),
    [
        ("preferences/hh_harmless.jsonl.gz", "hh-rlhf", 1187, 1187),
        ("preferences/short_preferences.json", "alpaca", 1100, 1100),
        ("preferences/sharegpt_pairs.json", "sharegpt", 300, 300),
        ("preferences/tulu3_pairs.jsonl", "trl-preference", 100, 100),
        ("preferences/llmbar/CaseStudy__Normal__dataset.json", "llmbar", 59, 59),
        ("preferences/oasst_trees.jsonl", "open-assistant", 57, 124),
    ],
)
def test_comparisons(name: str, format: str, rows: int, count: int) -> None:
    got = read(DATA / name, "comparison")
    assert (got.rows, len(got.records), set(got.formats)) == (rows, count, {format})
    for record in got.records:
        assert record.prompt.messages[-1].role == "user"
        assert record.pairs()


def test_hh_dialogues_are_whole() -> None:
    """Joined in the file's own words, prompt and answer are the file's text, white space at the ends of turns aside."""
    name = DATA / "preferences/hh_harmless.jsonl.gz"
    speakers = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    for (_, row), record in zip(read_rows(name), read_comparisons(name), strict=True):
        prompt = "".join(speakers[m.role] + m.content for m in record.prompt.messages)
        for text, answer in zip((row["chosen"], row["rejected"]), record.completions, strict=True):
            # turns that one speaker has in a row are one turn
            ours = (prompt + speakers["assistant"] + answer.text).replace("\n\nAssistant:", "")
            assert "".join(ours.split()) == "".join(text.replace("\n\nAssistant:", "").split())


def test_ranked_summaries() -> None:
    """The reference summaries, written by people, are preferred to sequence-to-sequence's: so rank 0 is the worst."""
    name = DATA / "preferences/summary_rankings.json"
    with pytest.raises(UserError, match="ranks.best"):
        read_comparisons(name)
    records = read_comparisons(name, ReadSettings(ranks=RankSettings(best="high")))
    assert len(records) == 271 and max(len(r.completions) for r in records) == 6
    better = worse = 0
    for record in records:
        rank = {c.model: r for c, r in zip(record.completions, record.ranks, strict=True) if r is not None}
        better += rank.get("reference", 0) < rank.get("seq2seq", 0)
        worse += rank.get("reference", 0) > rank.get("seq2seq", 0)
    assert better > 2 * worse


def test_community_prompts_with_their_users() -> None:
    settings = ReadSettings(fields={"user": "contributor"})
    prompts = read_prompts(DATA / "prompts/community_prompts.csv", settings)
    assert len(prompts) == 802 and max(len(p.text) for p in prompts) == 144_260
    assert all(p.user for p in prompts)


@pytest.mark.parametrize(
    ("name", "documents"),
    [("text/movie_reviews.zip", 2000), ("text/c4_demo.jsonl", 300), ("text/tinyshakespeare.txt", 265)],
)
def test_text(name: str, documents: int) -> None:
    got = list(read_text(DATA / name))
    assert len(got) == documents and all(text.strip() for text in got)


def test_text_of_a_folder_loses_nothing() -> None:
    folder = DATA / "text/books"
    whole = "".join(p.read_text(encoding="utf-8-sig") for p in sorted(folder.glob("*.txt")))
    assert "".join("".join(read_text(folder)).split()) == "".join(whole.split())


def test_trees_of_real_dialogues(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    """What is trained of a multi-turn demonstration is its assistant's turns, word for word, with an end token each."""
    ensure_template(byte_tokenizer)
    renderer = Renderer(byte_tokenizer)
    demonstrations = read_demonstrations(DATA / "demonstrations/tulu3_sft_sample.jsonl")
    trees, report = demonstration_trees(demonstrations, renderer, 10**9)
    assert (report.read, report.kept) == (100, 100) and any(tree.trained for tree in trees)
    for record, tree in zip(demonstrations, trees, strict=True):
        answers = [m.content for m in record.prompt.messages if m.role == "assistant"] + [record.completion]
        flags = tree.trained[0] if tree.trained else (True,) * len(tree.completions[0])
        kept = renderer.raw([t for t, flag in zip(tree.completions[0], flags, strict=True) if flag])
        assert kept == "".join(answer + "<|im_end|>" for answer in answers)


def test_trees_of_pairs_fit_the_length(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ensure_template(byte_tokenizer)
    pairs = read_comparisons(DATA / "preferences/hh_harmless.jsonl.gz")[:200]
    trees, report = comparison_trees(pairs, Renderer(byte_tokenizer), 400)
    assert report.read == 200 == report.kept + report.dropped_too_long and 0 < report.kept == len(trees)
    assert max(tree.longest for tree in trees) <= 400
