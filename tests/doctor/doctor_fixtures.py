"""Models, tokenizers and data files that are broken in one known way each, and healthy ones: what the doctor is tested on.

Everything is tiny, random and made here. ``BROKEN`` names the check that must find each fault; the numbers are the pain points
that users reported (the project's list of other trainers' issues).
"""

import json
import unittest.mock
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, TEXT, pair, tiny_tokenizer, write_lines
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trimtab.doctor.settings import Config
from trimtab.doctor.subject import Subject
from trimtab.models.load import load_scorer, load_tokenizer, save_model
from trimtab.records import Message, Prompt
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import Engine, Sample, SamplingOptions

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROLES = "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
CALL = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
ENDED = "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
MARKED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}" + CALL
)
QUESTIONS = [f"Is the {a} cat near the {b} mill?" for a in ("old", "red", "sad", "big", "shy", "new") for b in ("far", "new", "old", "big")]


@dataclass(frozen=True)
class Case:
    """What to examine: settings, perhaps another engine, perhaps a fault put into the code for as long as it runs."""

    config: Config
    engine: Callable[[Subject], Engine] | None = None
    during: AbstractContextManager[Any] = field(default_factory=nullcontext)


@dataclass(frozen=True)
class Fault:
    """One fault: in words, the pain point it reproduces (0: none on the list), and how the doctor must call it."""

    name: str
    point: int
    check: str
    status: str
    make: Callable[[Path], Case]
    says: str = ""  # words that the finding must hold


# ---- models -------------------------------------------------------------------------------------------------------------


def save(folder: Path, tokenizer: PreTrainedTokenizerBase | None = None, family: str = "llama", *, scorer: bool = False, **options: Any) -> Path:
    """A folder with a small random model and its tokenizer, all ids in agreement unless ``options`` say otherwise."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = FAMILIES[family]()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    pad = {"pad_token_id": tokenizer.pad_token_id} if scorer else {}
    rows = -(-len(tokenizer) // 64) * 64  # padded, as real ones are: some families' tokenizers add a token of their own
    for name, value in {"vocab_size": rows, **ids, **pad, **options}.items():
        setattr(config, name, value)
    save_model(pair(config, scorer=scorer)[0], tokenizer, folder)
    return folder


def edit(folder: Path, file: str, **changes: Any) -> Path:
    """Changes fields of one of a folder's JSON files; None removes a field."""
    path = folder / file
    values = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Changes the saved tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def templated(template: str, *special: str, eos: str = "") -> PreTrainedTokenizerBase:
    """The tests' tokenizer with another chat template."""
    tokenizer = tiny_tokenizer()
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)}, replace_extra_special_tokens=False)
    if eos:
        tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer


def chatml() -> PreTrainedTokenizerBase:
    return templated(CHATML, "<|im_start|>", "<|im_end|>", eos="<|im_end|>")


def of_model(make: Callable[[Path], Path], **settings: Any) -> Callable[[Path], Case]:
    """A case of a model alone."""
    return lambda folder: Case(Config(model=str(make(folder / "model")), **settings))


def with_template(template: str, *special: str, eos: str = "") -> Callable[[Path], Case]:
    return of_model(lambda folder: save(folder, templated(template, *special, eos=eos)))


# ---- special tokens -----------------------------------------------------------------------------------------------------


def pad_is_end(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return save(folder, tokenizer)


def pad_among_ends(folder: Path) -> Path:
    """As a trainer left it: the chat's end token is padding, and one of three tokens at which generate stops."""
    tokenizer = chatml()
    tokenizer.pad_token = tokenizer.eos_token
    end = tokenizer.eos_token_id
    return edit(save(folder, tokenizer), "generation_config.json", eos_token_id=[2, 1, end], pad_token_id=end)


def pad_is_another_end(folder: Path) -> Path:
    tokenizer = chatml()
    tokenizer.pad_token = "<|end|>"
    return edit(save(folder, tokenizer), "generation_config.json", eos_token_id=[tokenizer.eos_token_id, 1])


def chat_end_missing(folder: Path) -> Path:
    """A base model's configuration after a chat template was given to the tokenizer."""
    return edit(save(folder, chatml(), eos_token_id=1), "generation_config.json", eos_token_id=1)


def no_end_configured(folder: Path) -> Path:
    return edit(save(folder), "generation_config.json", eos_token_id=None, top_p=1.0)


# ---- tokenizers ---------------------------------------------------------------------------------------------------------


def trained(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """A small BPE around ``tokenizer``'s normaliser, pre-tokenizer and decoder, with the tests' special tokens and template."""
    special = ["<|start|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted({chr(i) for i in range(32, 127)} | set("▁\n\t"))
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    out = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[2])
    out.add_special_tokens({"additional_special_tokens": special[3:]})
    out.chat_template = ROLES + ENDED + CALL
    return out


def lowercasing(folder: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return save(folder, trained(tokenizer))


def drifting(folder: Path) -> Path:
    """A word's mark goes before every text, and decoding does not take it away again: text grows a space on every way round."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return save(folder, trained(tokenizer))


def cleaning(folder: Path) -> Path:
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"  # what older transformers did unasked
    return edit(save(folder), "tokenizer_config.json", clean_up_tokenization_spaces=True, **{forced: True})


# ---- weights ------------------------------------------------------------------------------------------------------------


def too_many_tokens(folder: Path) -> Path:
    save(folder, vocab_size=280)
    chatml().save_pretrained(folder)
    return folder


def with_nan(folder: Path) -> Path:
    return edit_weights(save(folder), lambda w: w["model.layers.0.mlp.up_proj.weight"].view(-1)[3].fill_(torch.nan))


def half_tied(folder: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    return edit_weights(save(folder, tie_word_embeddings=True), change)


def untrained_end(folder: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        table = tensors["model.embed_tokens.weight"]
        table[280:282] = table[:280].mean(0)  # as a program leaves the two tokens that it added

    return edit_weights(save(folder, chatml()), change)


def alibi(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    config = transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1)
    save_model(transformers.AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return folder


def dropping(folder: Path) -> Case:
    """A module that drops whatever the configuration says."""
    from trimtab.doctor import subject

    def load(source: str, **options: Any) -> Any:
        model = real(source, **options)
        model.model.layers[0].mlp.register_forward_hook(lambda module, _, out: torch.nn.functional.dropout(out, 0.2, module.training))
        return model

    real = subject.load_policy
    return Case(Config(model=str(save(folder / "model"))), during=unittest.mock.patch.object(subject, "load_policy", load))


def contaminated(folder: Path) -> Case:
    """Samples packed end to end behind one causal mask, as 'wrapped' packing does: each sees all that stands before it."""
    from trimtab.models import score
    from trimtab.models.attention import TreeLayout
    from trimtab.trees import Segments, TreeSpan

    def wrapped(segments: Segments, kernel: str = "auto") -> TreeLayout:
        return TreeLayout(Segments((TreeSpan(0, segments.tokens, ()),), segments.tokens), kernel)

    return Case(Config(model=str(save(folder / "model"))), during=unittest.mock.patch.object(score, "TreeLayout", wrapped))


# ---- engines ------------------------------------------------------------------------------------------------------------


@dataclass
class FakeEngine:
    """The native engine with something changed: the options that it is given, or what it says of its samples."""

    inner: NativeEngine
    options: dict[str, Any] = field(default_factory=dict)
    says: Callable[[Sample], Sample] = lambda sample: sample

    def sample(
        self, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str], **_: Any
    ) -> list[list[Sample]]:
        """See ``Engine.sample``."""
        drawn = self.inner.sample(prompts, k, replace(options, **self.options), keys)
        return [[self.says(sample) for sample in row] for row in drawn]


def engine_with(says: Callable[[Sample], Sample] = lambda sample: sample, **options: Any) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        def engine(s: Subject) -> Engine:
            return FakeEngine(NativeEngine(s.policy, s.answer_end or 0), options, says)

        return Case(Config(model=str(save(folder / "model"))), engine)

    return make


def engine_with_old_weights(folder: Path) -> Case:
    def engine(s: Subject) -> Engine:
        model, _ = pair(s.policy.config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        return NativeEngine(model, s.answer_end or 0)

    return Case(Config(model=str(save(folder / "model"))), engine)


# ---- reward models ------------------------------------------------------------------------------------------------------


def reward_pad_is_end(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return save(folder, tokenizer, scorer=True)


def reward_without_pad(folder: Path) -> Path:
    return edit(save(folder, scorer=True), "config.json", pad_token_id=None)


def reward_other_pad(folder: Path) -> Path:
    """The tokenizer pads with one token, the model skips another."""
    return edit(save(folder, scorer=True), "config.json", pad_token_id=5)


def reward_headless(folder: Path) -> Path:
    return edit_weights(save(folder, scorer=True), lambda w: w["score.weight"].zero_())


def reward_scale(folder: Path) -> Path:
    return edit(save(folder, scorer=True), "reward.json", shift=0.5, scale=0.0)


# ---- data ---------------------------------------------------------------------------------------------------------------


def comparison(i: int, better: str, worse: str, **more: Any) -> dict[str, Any]:
    """A native comparison of two answers."""
    answers = [{"text": better}, {"text": worse}]
    return {"id": f"c{i}", "messages": [{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}], "completions": answers, "ranks": [1, 2], **more}


def demonstration(i: int, text: str, **more: Any) -> dict[str, Any]:
    """A native demonstration."""
    return {"id": f"d{i}", "messages": [{"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}], "completion": text, **more}


def healthy_comparisons(count: int = 24) -> list[dict[str, Any]]:
    """Answers of one length, labelers in turn, nothing wrong."""
    good, bad = ("Yes, the cat is near it.", "No, it saw the shy dog."), ("It is far, said the mill.", "The dog and the cat ran.")
    return [comparison(i, f"{good[i % 2]} {i}", f"{bad[i % 2]} {i}", labeler=f"l{i % 4}") for i in range(count)]


def healthy_demonstrations(count: int = 24) -> list[dict[str, Any]]:
    return [demonstration(i, f"Yes, cat {i} is near it.") for i in range(count)]


def of_data(rows: Callable[[], Sequence[Any]], **settings: Any) -> Callable[[Path], Case]:
    """A case of a healthy model and these rows; a setting that is a list of rows becomes a file of them."""

    def make(folder: Path) -> Case:
        model = save(folder / "model")
        files = {k: str(write_lines(folder / f"{k}.jsonl", v)) for k, v in settings.items() if isinstance(v, list)}
        data = write_lines(folder / "data.jsonl", rows())
        return Case(Config(model=str(model), data=str(data), **{**settings, **files}))

    return make


def broken_rows() -> list[Any]:
    """Chosen and rejected answer different questions, as where the columns of two files were put side by side."""
    pair = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
    other = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."}]
    return [*healthy_comparisons(), {"chosen": pair, "rejected": other}]


def reversed_ratings() -> list[Any]:
    return [{**row, "ratings": [2, 6]} for row in healthy_comparisons()]


def reversed_scores() -> list[Any]:
    return [{**row, "score_chosen": 3.0, "score_rejected": 8.5} for row in healthy_comparisons()]


def degenerate_preferred() -> list[Any]:
    return [comparison(i, "the cat saw the dog " * 9, f"Yes, the cat {i} is near the mill and the dog is far.") for i in range(24)]


def reversed_for_the_reward_model(folder: Path) -> Case:
    """Ranks that are the reward model's own, turned round."""
    model = save(folder / "model", scorer=True)
    scorer, tokenizer = load_scorer(model), load_tokenizer(model)
    from trimtab.data.template import Renderer
    from trimtab.feedback.reward_model import score_in_budget
    from trimtab.trees import PromptTree

    renderer, rows = Renderer(tokenizer), healthy_comparisons()
    for row in rows:
        prompt = renderer.prompt(Prompt("", (Message("user", row["messages"][0]["content"]),)))
        answers = tuple(tuple(renderer.completion(c["text"])) for c in row["completions"])
        first, second = score_in_budget(scorer, [PromptTree(tuple(prompt), answers)], 4096)[0]
        row["ranks"] = [2, 1] if first > second else [1, 2]
    return Case(Config(model=str(model), data=str(write_lines(folder / "data.jsonl", rows))))


def contradicting() -> list[Any]:
    rows = healthy_comparisons()
    return [*rows, *({**row, "id": f"{row['id']}-again", "ranks": [2, 1]} for row in rows[:8])]


def one_busy_labeler() -> list[Any]:
    return [{**row, "labeler": "l0" if i % 4 else f"l{i}"} for i, row in enumerate(healthy_comparisons())]


def longer_preferred() -> list[Any]:
    return [comparison(i, f"Yes, the cat {i} is near the mill, as far as I saw.", f"Yes, {i}.") for i in range(24)]


def first_shown_preferred() -> list[Any]:
    return [{**row, "shown_order": [0, 1]} for row in healthy_comparisons()]


FAULTS: tuple[Fault, ...] = (
    Fault("pad token = end token", 9, "pad token", "fail", of_model(pad_is_end)),
    Fault("pad token in the list of end tokens", 9, "pad token", "fail", of_model(pad_among_ends)),
    Fault("pad token is another stop token", 9, "pad token", "warning", of_model(pad_is_another_end)),
    Fault("chat end token not in generation_config", 9, "generation stops", "fail", of_model(chat_end_missing), "<|im_end|>"),
    Fault("tokenizer and configuration name different end tokens", 9, "end token", "fail", of_model(chat_end_missing)),
    Fault("generation_config without an end token", 9, "generation stops", "fail", of_model(no_end_configured), "no end token"),
    Fault("template without an end token after answers", 10, "end of answers", "fail", with_template(ROLES + "{% endfor %}" + CALL)),
    Fault(
        "template that ends the last answer only", 10, "end of answers", "fail",
        with_template(ROLES + "{% endfor %}{% if messages[-1]['role'] == 'assistant' %}{{ eos_token }}{% endif %}" + CALL), "last answer only",
    ),
    Fault(
        "{% generation %} closed before the end token", 10, "assistant mask", "fail",
        with_template(MARKED.replace("m['content'] + eos_token }}{% endgeneration %}", "m['content'] }}{% endgeneration %}{{ eos_token }}")),
        "leaves the end token out",
    ),
    Fault(
        "{% generation %} that marks nothing", 11, "assistant mask", "fail",
        with_template(ROLES + ENDED + CALL + "{% if false %}{% generation %}{{ 'x' }}{% endgeneration %}{% endif %}"), "none of",
    ),
    Fault("no {% generation %} in the template", 11, "assistant mask", "n/a", of_model(save), "no {% generation %}"),
    Fault(
        "prompt that is no beginning of prompt + answer", 12, "prompt is a prefix", "fail",
        with_template(ROLES + ENDED + "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"),
    ),
    Fault(
        "prompt whose last token merges with the answer", 12, "prompt is a prefix", "fail",
        with_template(
            "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' ' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
            "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
        ), "merge",
    ),
    Fault("template that trimtab cannot train on", 12, "what is trained", "fail", with_template(ROLES + "{% endfor %}" + CALL), "refuses"),
    Fault("tokenizer that lowercases", 13, "round trip", "fail", of_model(lowercasing)),
    Fault("ids that change when their text is encoded again", 13, "re-encoding", "fail", of_model(drifting)),
    Fault("decoding that takes spaces out", 13, "decoding", "warning", of_model(cleaning)),
    Fault("engine at temperature 0.7", 14, "engine = trainer", "fail", engine_with(temperature=0.7), "temperature 0.70"),
    Fault("engine that drops top-k mass", 14, "engine = trainer", "fail", engine_with(top_k=5), "cuts off"),
    Fault("engine that drops top-p mass", 14, "engine = trainer", "fail", engine_with(top_p=0.8), "cuts off"),
    Fault(
        "engine that cuts and does not say so", 14, "engine's draws", "fail",
        engine_with(lambda a: replace(a, logprobs=a.policy_logprobs), top_k=5), "likelier",
    ),
    Fault("engine with old weights", 14, "engine = trainer", "fail", engine_with_old_weights, "other weights"),
    Fault(
        "generation_config with top_k=50, a minimum length and a penalty", 14, "sampling defaults", "warning",
        of_model(lambda f: edit(save(f), "generation_config.json", top_k=50, min_length=8, repetition_penalty=1.1, do_sample=True)), "top_k=50",
    ),
    Fault("dropout at work in training", 14, "KL to itself", "fail", dropping),
    Fault("rows whose answers belong to different questions", 20, "rows", "fail", of_data(broken_rows), "cannot be read"),
    Fault("chosen and rejected swapped, ratings in the file", 20, "rank direction", "fail", of_data(reversed_ratings), "rating"),
    Fault("chosen and rejected swapped, scores in the file", 20, "rank direction", "fail", of_data(reversed_scores), "score"),
    Fault("chosen and rejected swapped, the preferred repeats itself", 20, "rank direction", "fail", of_data(degenerate_preferred), "repeats"),
    Fault("chosen and rejected swapped, by the reward model", 20, "reward model agrees", "fail", reversed_for_the_reward_model, "wrong way"),
    Fault(
        "chosen and rejected identical", 20, "identical answers", "fail",
        of_data(lambda: [comparison(i, f"Yes {i}.", f"Yes {i}.") for i in range(24)]),
    ),
    Fault("packing that lets samples see each other", 21, "packed = alone", "fail", contaminated),
    Fault("architecture that hides a rule in its mask", 21, "model loads", "fail", of_model(alibi), "not supported"),
    Fault("reward model with pad token = end token", 22, "reward padding", "fail", of_model(reward_pad_is_end)),
    Fault("reward model without a pad token", 22, "reward padding", "fail", of_model(reward_without_pad), "refuses batches"),
    Fault("reward model scored at a padded position", 22, "reward padding", "fail", of_model(reward_other_pad)),
    Fault("template with two start tokens", 22, "start token once", "fail", with_template("{{ bos_token }}" + ROLES + ENDED + CALL)),
    Fault("tokenizer ids beyond the embeddings", 0, "vocabulary", "fail", of_model(too_many_tokens), "<|im_"),
    Fault("NaN in a weight", 0, "finite", "fail", of_model(with_nan), "up_proj"),
    Fault("two tables where the configuration says one", 0, "tied weights", "fail", of_model(half_tied)),
    Fault("added tokens without rows of their own", 0, "trained tokens", "warning", of_model(untrained_end), "<|im_end|>"),
    Fault("reward model whose head was lost", 0, "scores differ", "fail", of_model(reward_headless)),
    Fault("reward model with scale 0", 0, "calibration", "fail", of_model(reward_scale)),
    Fault("zero-length answers", 0, "empty answers", "fail", of_data(lambda: [demonstration(i, "" if i % 4 else "Yes.") for i in range(24)])),
    Fault(
        "prompts without a word", 0, "near-empty prompts", "fail",
        of_data(lambda: [{**d, "messages": [{"role": "user", "content": " ?"}]} for d in healthy_demonstrations()]),
    ),
    Fault("text that was decoded wrongly", 0, "broken characters", "fail", of_data(lambda: [demonstration(i, f"CafÃ© {i}.") for i in range(24)])),
    Fault("records that stand twice", 0, "duplicate records", "warning", of_data(lambda: [*healthy_demonstrations(), *healthy_demonstrations(4)])),
    Fault("one prompt over and over", 0, "repeated prompts", "warning", of_data(lambda: [demonstration(0, f"Yes {i}.") for i in range(24)])),
    Fault("prompts of the test set", 0, "test prompts", "fail", of_data(healthy_demonstrations, test=healthy_demonstrations(2))),
    Fault(
        "nothing but ties", 0, "pairs to learn from", "fail", of_data(lambda: [{**row, "ranks": [1, 1]} for row in healthy_comparisons()]),
    ),
    Fault("the longer answer is always preferred", 0, "length bias", "warning", of_data(longer_preferred)),
    Fault("labelers who contradict themselves", 0, "contradictions", "fail", of_data(contradicting), "both ways"),
    Fault("most labels by one person", 0, "labelers", "warning", of_data(one_busy_labeler)),
    Fault("whatever is shown first is preferred", 0, "order shown", "warning", of_data(first_shown_preferred)),
    Fault("answers longer than the model", 0, "fits the model", "fail", of_data(lambda: [demonstration(i, "the cat " * 99) for i in range(24)])),
    Fault(
        "conversations that the template refuses", 0, "template takes them", "fail", lambda folder: replace_template(
            of_data(lambda: [{**d, "messages": [{"role": "system", "content": "Be a cat."}, *d["messages"]]} for d in healthy_demonstrations()])(folder)
        ),
    ),
    Fault("another model's end token in the answers", 0, "typed end tokens", "fail", of_data(lambda: [demonstration(i, f"Yes {i}.</s>") for i in range(24)])),
)  # fmt: skip


def replace_template(case: Case) -> Case:
    """The case with a template that takes no system message."""
    tokenizer = load_tokenizer(case.config.model)
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    tokenizer.chat_template = refuse + ROLES + ENDED + CALL
    tokenizer.save_pretrained(case.config.model)
    return case


# ---- healthy ------------------------------------------------------------------------------------------------------------

HEALTHY_TEMPLATES: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "ChatML": chatml,
    "generation marks": lambda: templated(MARKED),
    "Llama 3": lambda: templated(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", eos="<|eot_id|>",
    ),
    "Gemma": lambda: templated(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}", "<start_of_turn>", "<end_of_turn>", eos="<end_of_turn>",
    ),
    "Mistral": lambda: templated(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "Zephyr": lambda: templated(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
}  # fmt: skip
