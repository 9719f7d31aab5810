"""Records as prompt trees: spans, ids that were sampled, and an account of every record."""

import pytest
from transformers import PreTrainedTokenizerFast

from trimtab.data.encode import comparison_trees, demonstration_trees, prompt_trees
from trimtab.data.template import Renderer, ensure_template
from trimtab.records import Comparison, Completion, Demonstration, Message, Prompt


@pytest.fixture
def renderer(byte_tokenizer: PreTrainedTokenizerFast) -> Renderer:
    ensure_template(byte_tokenizer)
    return Renderer(byte_tokenizer)


def ask(key: str, *contents: str) -> Prompt:
    roles = ("user", "assistant")
    return Prompt(key, tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))


def rank(*completions: Completion, ranks: tuple[int | None, ...] = (1, 2), key: str = "c") -> Comparison:
    return Comparison(ask(key, "Where?"), completions, ranks)


def test_prompts(renderer: Renderer) -> None:
    short, long = ask("a", "Hi"), ask("b", "Hi " * 50)
    trees, report = prompt_trees([short, long], renderer, 40)
    assert [t.key for t in trees] == ["a"]
    assert trees[0].prompt == tuple(renderer.prompt(short)) and trees[0].completions == ()
    assert (report.read, report.kept, report.dropped_too_long, report.tokens) == (2, 1, 1, len(trees[0].prompt))


def test_demonstration_of_one_turn_trains_every_token(renderer: Renderer) -> None:
    (tree,), report = demonstration_trees([Demonstration(ask("d", "Where?"), "By the river.")], renderer, 100)
    assert tree.prompt == tuple(renderer.prompt(ask("d", "Where?")))
    assert tree.completions == (tuple(renderer.completion("By the river.")),)
    assert (tree.trained, tree.key, tree.ranks, tree.weight) == (None, "d", None, 1.0)
    assert report.tokens == tree.tokens and str(report) == f"1 read, 1 kept, {tree.tokens} tokens"


def test_demonstration_of_two_turns_trains_both_answers(renderer: Renderer) -> None:
    (tree,), _ = demonstration_trees([Demonstration(ask("d", "Where?", "Here.", "Sure?"), "Yes")], renderer, 200)
    assert tree.trained is not None
    ids = [t for t, flag in zip(tree.completions[0], tree.trained[0], strict=True) if flag]
    assert renderer.raw(ids) == "Here.<|im_end|>Yes<|im_end|>"


def test_comparison_keeps_ranks_and_order(renderer: Renderer) -> None:
    texts = ("By the river.", "I do not know", "a")
    (tree,), _ = comparison_trees([rank(*map(Completion, texts), ranks=(2, None, 1))], renderer, 200)
    assert tree.completions == tuple(tuple(renderer.completion(t)) for t in texts)
    assert (tree.ranks, tree.key, tree.prompt) == ((2, None, 1), "c", tuple(renderer.prompt(ask("c", "Where?"))))


def test_sampled_ids_are_used_only_if_they_are_this_tokenizers(renderer: Renderer) -> None:
    """Ids that no encoder would give (one letter at a time) show which of the two were taken."""
    letters = tuple(renderer.tokenizer.convert_tokens_to_ids(c) for c in "the")
    text_ids = tuple(renderer.completion("the"))
    assert text_ids != (*letters, renderer.end_id)
    own = Completion("the", token_ids=letters, tokenizer=renderer.sha, stop="end")
    other = Completion("the", token_ids=letters, tokenizer="0" * 64, stop="end")
    unknown = Completion("the", token_ids=letters, stop="end")
    (tree,), report = comparison_trees(
        [rank(own, other, unknown, Completion("the"), ranks=(1, 2, 3, 4))], renderer, 200
    )
    assert tree.completions == ((*letters, renderer.end_id), text_ids, text_ids, text_ids)
    assert report.encoded_again == 2 and "2 answers with another tokenizer's ids" in str(report)


@pytest.mark.parametrize(("stop", "ends"), [(None, True), ("end", True), ("string", True), ("length", False)])
def test_end_token_follows_unless_cut_by_length(renderer: Renderer, stop: str | None, ends: bool) -> None:
    ids = tuple(renderer.completion("By the river.", end=False))
    sampled = Completion("By the river.", token_ids=ids, tokenizer=renderer.sha, stop=stop)
    with_end = Completion("x", token_ids=(*ids, renderer.end_id), tokenizer=renderer.sha, stop="end")
    (tree,), _ = comparison_trees(
        [rank(sampled, Completion("By the river.", stop=stop), with_end, ranks=(1, 2, 3))], renderer, 200
    )
    expected = (*ids, renderer.end_id) if ends else ids
    assert tree.completions == (expected, expected, (*ids, renderer.end_id))


def test_longest_answer_decides_and_nothing_is_cut_silently(renderer: Renderer) -> None:
    a, b = Completion("By the river."), Completion("a")
    prompt, longest = len(renderer.prompt(ask("c", "Where?"))), len(renderer.completion("By the river."))
    for limit, kept in ((prompt + longest, 1), (prompt + longest - 1, 0)):
        trees, report = comparison_trees([rank(a, b)], renderer, limit)
        assert (len(trees), report.kept, report.dropped_too_long, report.truncated) == (kept, kept, 1 - kept, 0)


def test_truncation_cuts_at_the_right_and_loses_the_end(renderer: Renderer) -> None:
    a, b = Completion("By the river."), Completion("a")
    prompt = len(renderer.prompt(ask("c", "Where?")))
    (tree,), report = comparison_trees([rank(a, b)], renderer, prompt + 2, truncate=True)
    assert tree.completions == (tuple(renderer.completion("By the river."))[:2], tuple(renderer.completion("a")))
    assert (report.kept, report.truncated, report.dropped_too_long, tree.ranks) == (1, 1, 0, (1, 2))
    trees, report = comparison_trees([rank(a, b)], renderer, prompt, truncate=True)
    assert (trees, report.dropped_too_long) == ([], 1)


def test_truncation_cuts_trained_flags_with_the_tokens(renderer: Renderer) -> None:
    record = Demonstration(ask("d", "Where?", "Here.", "Sure?"), "Yes")
    (whole,), _ = demonstration_trees([record], renderer, 200)
    (tree,), _ = demonstration_trees([record], renderer, whole.longest - 3, truncate=True)
    assert whole.trained and tree.trained
    assert (tree.completions[0], tree.trained[0]) == (whole.completions[0][:-3], whole.trained[0][:-3])


def test_every_record_is_accounted_for(renderer: Renderer) -> None:
    """Kept, too long, and an answer that was cut before its first token."""
    cut = Completion("", stop="length")
    records = [
        rank(Completion("a"), Completion("the")),
        rank(Completion("a " * 200), Completion("a")),
        rank(cut, Completion("a")),
    ]
    trees, report = comparison_trees(records, renderer, 100)
    assert (report.read, report.kept, report.dropped_too_long, report.dropped_empty) == (3, 1, 1, 1)
    assert len(trees) == 1 and report.tokens == trees[0].tokens
    assert str(report) == (
        f"3 read, 1 kept, {trees[0].tokens} tokens; 1 dropped: longer than max_length; 1 dropped: an empty answer"
    )


def test_an_empty_answer_that_ended_is_its_end_token(renderer: Renderer) -> None:
    (tree,), _ = comparison_trees([rank(Completion(""), Completion("a"))], renderer, 100)
    assert tree.completions[0] == (renderer.end_id,)
