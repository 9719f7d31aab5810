"""What is trained of a conversation, in the chat templates of many families: against an oracle that knows nothing of trimtab, against
transformers' own assistant masks, and on texts that try to break out of their turn."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from chat_families import FAMILIES, Kind, tokenizer_of
from chat_oracle import check, check_tags, check_typed, conversations, render, rows_of, squeeze
from hypothesis import assume, given, settings, strategies as st
from transformers import PreTrainedTokenizerFast

from trimtab.common.errors import UserError
from trimtab.data.codec import END, START, Codec
from trimtab.data.encode import demonstration_trees
from trimtab.data.template import Encoded, Renderer
from trimtab.records import Demonstration, Message, Prompt
from trimtab.trees import TreeBatch

OTHER: dict[Kind, Kind] = {"gpt2": "unigram", "llama3": "llama2", "llama2": "llama3", "gemma": "gpt2"}
TRAINED = [name for name, family in FAMILIES.items() if not family.refused]
USER, MORE = Message("user", "Where does Anna live?"), Message("user", "Who owns a cat?")


def said(*texts: str, system: str = "") -> list[Message]:
    """A conversation that a user opens."""
    turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return [Message("system", system), *turns] if system else turns


def spans(renderer: Renderer, encoded: Encoded) -> list[str]:
    """The text of each run of trained tokens."""
    out, last = [], False
    for token, flag in zip(encoded.completion, encoded.trained, strict=True):
        if flag:
            out = [*out[:-1], [*out[-1], token]] if last else [*out, [token]]
        last = flag
    return [renderer.raw(span) for span in out]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("own", [True, False], ids=["own tokenizer", "another kind"])
def test_masks_are_what_the_oracle_finds(name: str, own: bool) -> None:
    family = FAMILIES[name]
    kind = family.kind if own else OTHER[family.kind]
    renderer, tokenizer = Renderer(tokenizer_of(name, kind)), tokenizer_of(name, kind)
    found = [check(renderer, tokenizer, m, family.end) for m in conversations(12, 1, system=family.system == "yes")]
    assert sum(c.spans for c in found) > 20
    assert any(c.spans > 1 and c.together for c in found) or family.apart
    if family.apart:
        assert not all(c.together for c in found)


@pytest.mark.parametrize("name", set(FAMILIES) - set(TRAINED))
def test_families_that_are_refused_say_why(name: str) -> None:
    with pytest.raises(UserError) as error:
        Renderer(tokenizer_of(name))
    assert FAMILIES[name].refused in str(error.value) and str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value) and START not in str(error.value)


@pytest.mark.parametrize("name", set(FAMILIES) - set(TRAINED))
def test_families_that_are_refused_can_still_be_sampled_from(name: str) -> None:
    """Reinforcement learning trains on the ids that were drawn, and never renders an answer."""
    tokenizer = tokenizer_of(name)
    renderer = Renderer(tokenizer, answers=False)
    rows = [{"role": "user", "content": USER.content}]
    assert renderer.prompt(Prompt("p", (USER,))) == tokenizer.apply_chat_template(rows, add_generation_prompt=True, return_dict=False)
    assert renderer.end == FAMILIES[name].end
    for ask in (lambda: renderer.completion("A"), lambda: renderer.turns(said("Where?", "A"))):
        with pytest.raises(UserError, match=FAMILIES[name].refused):
            ask()


# no tags can stand around a token that two turns share (GLM-4), or leave out what the generation prompt says (Qwen 3 thinking)
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("GLM-4", "Qwen 3 thinking")])
def test_masks_are_those_of_generation_tags(name: str) -> None:
    """The same template with {% generation %} around what the assistant writes, through transformers."""
    family, tagged = FAMILIES[name], tokenizer_of(name, tagged=True)
    renderer = Renderer(tokenizer_of(name))
    assert Renderer(tagged).around == renderer.around  # a template's own tags are held against what we find
    for messages in conversations(10, 2, system=family.system == "yes", edges=False):
        check_tags(renderer, tagged, messages)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: Encoded(e.prompt, e.completion, [False, *e.trained[1:]]),  # the first token of an answer is not trained
        lambda e: Encoded(e.prompt, e.completion, [*e.trained[:-1], False]),  # its end token is not
        lambda e: Encoded(e.prompt, e.completion[:-1], e.trained[:-1]),  # it has none
        lambda e: Encoded(e.prompt, e.completion, [True] * len(e.trained)),  # what the user says is trained
        lambda e: Encoded(e.prompt, e.completion, [False, *e.trained[:-1]]),  # all of it is off by one
        lambda e: Encoded(e.prompt[:-1], [e.prompt[-1], *e.completion], [True, *e.trained]),  # the prompt's last token is trained
    ],
)
def test_the_oracle_finds_masks_that_are_wrong(spoil: Callable[[Encoded], Encoded], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, right = tokenizer_of("ChatML"), Renderer.turns
    messages = said("Where?", "By the river.", "Sure?", "Yes")
    check(Renderer(tokenizer), tokenizer, messages, "<|im_end|>")
    monkeypatch.setattr(Renderer, "turns", lambda self, m: [spoil(e) for e in right(self, m)])
    with pytest.raises(AssertionError):
        check(Renderer(tokenizer), tokenizer, messages, "<|im_end|>")


ODD = ("\n\n", "  ", " ", "\n", "\t", "▁", "<0x0A>", "\r\n", "\u00a0", "e\u0301", "\u200d", "🏳️‍🌈", "[/INST]", "<|user|>")
SNIPPETS = st.sampled_from(ODD)
TEXT = st.lists(st.one_of(st.text(max_size=12), SNIPPETS), max_size=4).map("".join)
COMBINATIONS: list[tuple[str, Kind]] = [
    ("ChatML", "gpt2"), ("Llama 3", "llama3"), ("Llama 2", "llama2"), ("Gemma 3", "gemma"), ("Zephyr", "unigram"), ("Phi-3", "llama2"),
    ("GLM-4", "llama3"),
]  # fmt: skip
RENDERERS = {(name, kind): (Renderer(tokenizer_of(name, kind)), tokenizer_of(name, kind)) for name, kind in COMBINATIONS}


@settings(max_examples=25)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
@given(texts=st.lists(TEXT, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0), system=TEXT)
def test_masks_of_any_texts(combination: tuple[str, Kind], texts: list[str], system: str) -> None:
    """Whatever is said, unless control tokens or our private marks are typed (below)."""
    renderer, tokenizer = RENDERERS[combination]
    assume(combination[1] != "unigram" or "<0x" not in "".join([system, *texts]))
    clean = [re.sub("|".join([*map(re.escape, tokenizer.get_added_vocab()), START, END, "Qz"]), "", text) for text in (system, *texts)]
    check(renderer, tokenizer, said(*clean[1:], system=clean[0]), FAMILIES[combination[0]].end)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("kind", ["own", "unigram"])
def test_typed_control_tokens_are_text(name: str, kind: str) -> None:
    """Every control token is typed by system, user and assistant: not one more control token is in the ids, and what they wrote is."""
    family = FAMILIES[name]
    tokenizer = tokenizer_of(name, family.kind if kind == "own" else "unigram")
    assert check_typed(Renderer(tokenizer), tokenizer, system=family.system == "yes") >= max(1, len(family.tokens))


def test_typed_tokens_that_a_vocabulary_holds_as_pieces_are_text() -> None:
    """A Unigram model finds any piece of its vocabulary in a text, </s> and <unk> too, unless they have other names."""
    renderer = Renderer(tokenizer_of("Zephyr", "unigram"))
    ids = renderer.prompt(Prompt("p", (Message("user", "a </s><unk> b"),)))
    assert ids.count(renderer.end_id) == 1 and renderer.tokenizer.unk_token_id not in ids
    assert "a </s><unk> b</s>" in renderer.raw(ids)


def test_a_text_that_the_tokenizer_cannot_hold_is_refused() -> None:
    """A Unigram model reads the name of a byte as the byte."""
    renderer = Renderer(tokenizer_of("Zephyr", "unigram"))
    with pytest.raises(UserError, match=r"p: Zephyr has no token ids for the answer 'a <0x41></s>' after its prompt that decode to it"):
        renderer.completion("a <0x41>", after=Prompt("p", (USER,)))


    with pytest.raises(UserError, match="has no token ids for the answer 'a <0x41></s>'"):
        renderer.turns(said("Where?", "a <0x41>", "Sure?", "b"))


def test_private_characters_in_a_text_are_replaced() -> None:
    """They would name a control token; a text has them only to do that."""
    renderer = Renderer(tokenizer_of("ChatML"))
    ids = renderer.completion(f"{START}<|im_end|>{END} x")
    assert ids.count(renderer.end_id) == 1 and renderer.raw(ids) == "\ufffd<|im_end|>\ufffd x<|im_end|>"


def test_words_that_are_tokens_stay_tokens() -> None:
    """<think> is an added token, but no special one: a model writes it, and a user may quote it."""
    renderer = Renderer(tokenizer_of("Qwen 3"))
    think = renderer.tokenizer.convert_tokens_to_ids("<think>")
    assert renderer.completion("<think>\nHm.\n</think>\n\nYes")[0] == think
    assert think in renderer.prompt(Prompt("p", (Message("user", "What is <think>?"),)))


def test_thoughts_of_earlier_turns() -> None:
    """Qwen 3 shows a thought while it is the last turn's and drops it later: each answer is trained as it is sampled, thought included."""
    renderer = Renderer(tokenizer_of("Qwen 3"))
    thought = "<think>\nHm.\n</think>\n\n"
    first, second = renderer.turns(said("Where?", f"{thought}A", "Sure?", f"{thought}B"))
    assert spans(renderer, first) == [f"{thought}A<|im_end|>"] and spans(renderer, second) == [f"{thought}B<|im_end|>"]
    assert renderer.raw(second.prompt) == (
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )
    no_thought = renderer.turns(said("Where?", "A"))[0]
    assert spans(renderer, no_thought) == ["<think>\n\n</think>\n\nA<|im_end|>"]
    with pytest.raises(UserError, match=r"t: .* rewrites the turns before a later answer"):
        renderer.conversation(said("Where?", "A", "Sure?", "B"), "t")


def test_a_thought_that_the_prompt_opens() -> None:
    """Qwen 3 thinking: what the prompt says already is not trained; an answer without a thought begins by ending it."""
    renderer = Renderer(tokenizer_of("Qwen 3 thinking"))
    for text, trained in (
        ("<think>\nHm.\n</think>\n\nYes", "Hm.\n</think>\n\nYes<|im_end|>"),
        ("Hm.\n</think>\n\nYes", "Hm.\n</think>\n\nYes<|im_end|>"),  # as it is sampled
        ("Yes", "\n</think>\n\nYes<|im_end|>"),
    ):
        (one,) = renderer.turns(said("Sure?", text))
        assert renderer.raw(one.prompt).endswith("<|im_start|>assistant\n<think>\n") and spans(renderer, one) == [trained]
        assert one.completion == renderer.completion(text)
    with pytest.raises(UserError, match="rewrites the answer"):  # what stands before the thought is lost
        renderer.turns(said("Sure?", "Well <think>\nHm.\n</think>\n\nYes"))


def test_answers_that_a_template_rewrites_are_refused() -> None:
    """DeepSeek R1 without its opened thought: what is thought would never be trained."""
    tokenizer = tokenizer_of("DeepSeek R1")
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\\n", "")
    renderer = Renderer(tokenizer)
    assert renderer.raw(renderer.completion("Yes")) == "Yes<｜end▁of▁sentence｜>"
    for ask in (lambda: renderer.turns(said("Q", "<think>Hm</think>Yes"), "r1"), lambda: renderer.completion("<think>Hm</think>Yes")):
        with pytest.raises(UserError, match="rewrites the answer '<think>Hm</think>Yes' as 'Yes'"):
            ask()


def test_system_message_that_moves_to_the_last_question() -> None:
    """Mistral v3: in one sequence the first question would be without it, and the first answer after another prompt than when sampled."""
    renderer = Renderer(tokenizer_of("Mistral v3"))
    first, second = renderer.turns(said("Where?", "A", "Sure?", "B", system="Be brief"))
    assert squeeze(renderer.raw(first.prompt)) == "<s>[INST]Bebrief" + "Where?[/INST]"
    assert squeeze(renderer.raw(second.prompt)) == "<s>[INST]Where?[/INST]A</s>[INST]Bebrief" + "Sure?[/INST]"
    assert len(renderer.turns(said("Where?", "A", "Sure?", "B"))) == 1


def test_turns_that_change_without_a_change_of_length() -> None:
    """The second question says how many there are: "2 of 2" when it is asked, "2 of 3" later; every token is where it was."""
    tokenizer = tokenizer_of("ChatML")
    number = "{% if m.role == 'user' and not loop.first %}{{ ' of ' ~ (messages | selectattr('role', 'equalto', 'user') | list | length) }}"
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n'",
        f"{{{{ m.content }}}}{number}{{% endif %}}{{{{ '<|im_end|>' }}}}{{% endif %}}{{{{ '\\n'")  # fmt: skip
    pieces = Renderer(tokenizer).turns(said("Q 1", "A", "Q 2", "B", "Q 3", "C"))
    asked = [re.findall(r"Q.*(?=<)", Renderer(tokenizer).raw(piece.prompt)) for piece in pieces]
    assert asked == [["Q 1"], ["Q 1", "Q 2 of 2"], ["Q 1", "Q 2 of 3", "Q 3 of 3"]]


def test_a_prompt_that_alone_has_other_ids_is_not_put_into_a_longer_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers do not do that; if one did, what is trained would not be what is sampled."""
    renderer = Renderer(tokenizer_of("ChatML"))
    messages = said("Where?", "A", "Sure?", "B")
    assert len(renderer.turns(messages)) == 1
    right, first = Codec.encode, renderer.raw(renderer.prompt(Prompt("p", tuple(messages[:1]))))

    def other(codec: Codec, sealed: str) -> Any:
        made = right(codec, sealed)
        return SimpleNamespace(ids=[0, *made.ids], offsets=made.offsets) if codec.plain(sealed) == first else made

    monkeypatch.setattr(Codec, "encode", other)
    assert len(renderer.turns(messages)) == 2


def test_the_next_turns_first_token_is_trained_as_the_end() -> None:
    """GLM-4 has no end token; a model that is not trained to open the user's turn never stops."""
    renderer = Renderer(tokenizer_of("GLM-4"))
    (one,) = renderer.turns(said("Where?", "A", "Sure?", "B"))
    assert renderer.end == "<|user|>" and spans(renderer, one) == ["A<|user|>", "B<|user|>"]
    assert renderer.raw(one.prompt + one.completion) == (
        "[gMASK]<sop><|user|>\nWhere?<|assistant|>\nA<|user|>\nSure?<|assistant|>\nB<|user|>"
    )
    assert renderer.raw(renderer.completion("A")) == "A<|user|>" and renderer.decode(renderer.completion("A")) == "A"


def test_system_messages_that_a_template_refuses_are_told_what_to_do() -> None:
    renderer = Renderer(tokenizer_of("Gemma"))
    with pytest.raises(UserError, match=r"7: Gemma's .* \(system, user: System role not supported\); .* into the first user message"):
        renderer.prompt(Prompt("7", (Message("system", "Be"), USER)))


def test_a_header_that_the_template_writes_only_with_the_answer_is_refused() -> None:
    """Without add_generation_prompt the header would be trained as if the assistant had said it."""
    tokenizer = tokenizer_of("ChatML")
    tokenizer.chat_template = tokenizer.chat_template.split("{% if add_generation_prompt")[0]
    with pytest.raises(UserError, match=r"writes '<\|im_start\|>assistant\\n' between its prompt and an answer"):
        Renderer(tokenizer)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{{ bos_token }}", "{{ bos_token + bos_token }}", "writes <s> twice"),
        ("m.content + eos_token", "m.content + ' (end)' + eos_token", r"writes '\(end\)' between an answer and its end token </s>"),
        ("m.content + eos_token", "m.content | upper + eos_token", "leaves out what the assistant says, or rewrites it"),
    ],
)
def test_faults_of_a_template_are_named(old: str, new: str, says: str) -> None:
    tokenizer = tokenizer_of("Vicuna")
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    with pytest.raises(UserError, match=says):
        Renderer(tokenizer)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{{ '<|im_start|>' + m.role", "{% generation %}{{ '<|im_start|>' + m.role"),  # marks every header, users' texts not
        ("{% else %}{{ m.content + '<|im_end|>' }}", "{% else %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"),
        ("{% generation %}{{ m.content + '<|im_end|>' }}{%", "{{ m.content }}{% generation %}{{ '<|im_end|>' }}{%"),
    ],
)  # fmt: skip
def test_generation_tags_that_mark_something_else(old: str, new: str) -> None:
    tokenizer = tokenizer_of("ChatML", tagged=True)
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    if new.startswith("{% generation %}{{ '<|im_start|>'"):
        tokenizer.chat_template = tokenizer.chat_template.replace("'\\n' }}{% if m.role", "'\\n' }}{% endgeneration %}{% if m.role")
        assert Renderer(tokenizer).end == "<|im_end|>"  # more than the answer, but no user's word: ours are the ones that count
    else:
        with pytest.raises(UserError, match=r"own \{% generation %\} tags mark"):
            Renderer(tokenizer)


def test_a_prompt_whose_end_is_split_in_another_way_alone_is_refused() -> None:
    """Control tokens that are none beside a letter: after "mill" the assistant's is text."""
    tokenizer = tokenizer_of("GLM-4")
    facts = tokenizer.backend_tokenizer.to_str().replace('"single_word":false', '"single_word":true')
    single = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer.from_str(facts), eos_token=tokenizer.eos_token)
    single.chat_template = tokenizer.chat_template
    with pytest.raises(UserError, match="7: .* splits the end of this prompt in another way"):
        Renderer(single).prompt(Prompt("7", (Message("user", "mill"),)))


@pytest.mark.parametrize("name", ["ChatML", "Zephyr", "GLM-4", "Qwen 3", "OLMo / Tulu"])
def test_what_a_batch_predicts_is_the_answers_and_their_ends(name: str) -> None:
    """From records to the targets of the loss: an answer's first token and its end are there, though pad and end are the same."""
    tokenizer = tokenizer_of(name)
    assert name == "GLM-4" or tokenizer.pad_token_id == tokenizer.eos_token_id
    renderer = Renderer(tokenizer)
    record = Demonstration(Prompt("p", (USER, Message("assistant", "By the river."), MORE)), "The baker.")
    trees, report = demonstration_trees([record], renderer, 1000)
    batch = TreeBatch.pack(trees)
    end, thought = FAMILIES[name].end, "<think></think>" if name == "Qwen 3" else ""
    assert squeeze(renderer.raw(batch.targets.tolist())) == f"{thought}Bytheriver.{end}{thought}Thebaker.{end}"
    assert (report.read, report.kept, report.apart, len(trees)) == ((1, 1, 1, 2) if name == "Qwen 3" else (1, 1, 0, 1))


def test_conversations_that_are_taken_apart_are_kept_or_left_out_as_a_whole() -> None:
    renderer = Renderer(tokenizer_of("Qwen 3"))
    record = Demonstration(Prompt("p", (USER, Message("assistant", "By the river."), MORE)), "The baker.")
    (first, second), report = demonstration_trees([record], renderer, 1000)
    assert (first.key, second.key) == ("p", "p") and second.longest > first.longest
    assert str(report) == (
        f"1 read, 1 kept, {first.tokens + second.tokens} tokens; "
        "1 conversations in a piece for each answer (the chat template rewrites earlier turns)"
    )
    for limit, truncate, kept in ((first.longest, False, 0), (first.longest, True, 1), (second.longest - 1, True, 2), (3, True, 0)):
        trees, report = demonstration_trees([record], renderer, limit, truncate=truncate)
        assert len(trees) == kept and (report.read, report.kept, report.dropped_too_long) == (1, bool(kept), not kept)
        assert report.truncated == bool(kept) and report.tokens == sum(t.tokens for t in trees)


def test_rendering_what_transformers_renders_leaves_the_tokenizer_alone() -> None:
    """Ids are those of its own call, and its switches stay as they were."""
    tokenizer = tokenizer_of("Llama 3")
    renderer, rows = Renderer(tokenizer), rows_of(said("Where?"))
    tokenizer.backend_tokenizer.enable_padding(length=64)
    state = tokenizer.backend_tokenizer.to_str()
    ids = renderer.prompt(Prompt("p", tuple(said("Where?"))))
    assert tokenizer.backend_tokenizer.to_str() == state
    tokenizer.backend_tokenizer.no_padding()
    assert ids == tokenizer(render(tokenizer, rows, generation=True), add_special_tokens=False)["input_ids"]
