"""Tiny random models and data files for the doctor to examine: healthy ones, and the tools with which the faulty ones are made."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, TEXT, pair, tiny_tokenizer, write_lines
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trimtab.doctor.settings import Config
from trimtab.doctor.subject import Subject
from trimtab.models.load import save_model
from trimtab.sampling.protocol import Engine

# Templates in parts: what comes before each message's end, the end of answers, the words that call for an answer.
ROLES = "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
ENDED = "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
CALL = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
MARKED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}" + CALL
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ADJECTIVES = ("old", "red", "sad", "big", "shy", "new")
QUESTIONS = [f"Is the {a} cat near the {b} mill?" for a in ADJECTIVES for b in ("far", "new", "old", "big")]


@dataclass(frozen=True)
class Case:
    """What to examine: settings, perhaps another engine, perhaps a fault put into the code for as long as it runs."""

    config: Config
    engine: Callable[[Subject], Engine] | None = None
    during: AbstractContextManager[Any] = field(default_factory=nullcontext)


@dataclass(frozen=True)
class Fault:
    """One fault in words, whose report it reproduces (a number of ``bench/doctor_proof.py``, 0: nobody's), how it must be found."""

    name: str
    point: int
    check: str
    status: str
    make: Callable[[Path], Case]
    says: str = ""  # words that the finding must hold


def save(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None = None, family: str = "llama", *, scorer: bool = False, **options: Any
) -> Path:  # fmt: skip
    """A folder with a small random model and its tokenizer, all ids in agreement unless ``options`` say otherwise."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = FAMILIES[family]()
    rows = -(-len(tokenizer) // 64) * 64  # padded, as real ones are: some families' tokenizers add a token of their own
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    pad = {"pad_token_id": tokenizer.pad_token_id} if scorer else {}
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


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
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
    """ChatML, whose end token is the tokenizer's."""
    return templated(CHATML, "<|im_start|>", "<|im_end|>", eos="<|im_end|>")


def trained(tokenizer: Tokenizer, text: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """A small BPE around ``tokenizer``'s normaliser, pre-tokenizer and decoder, with the tests' special tokens and template."""
    special = ["<|start|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), *map(chr, range(32, 127)), *"▁\n\t"})
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXT, *text], trainer)
    out = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[2])
    out.add_special_tokens({"additional_special_tokens": special[3:]})
    out.chat_template = ROLES + ENDED + CALL
    return out


def of_model(make: Callable[[Path], Path], **settings: Any) -> Callable[[Path], Case]:
    """A case of a model alone."""
    return lambda folder: Case(Config(model=str(make(folder / "model")), **settings))


def with_template(template: str, *special: str, eos: str = "") -> Callable[[Path], Case]:
    """A case of a healthy model whose tokenizer has another chat template."""
    return of_model(lambda folder: save(folder, templated(template, *special, eos=eos)))


def of_data(rows: Callable[[], Sequence[Any]], **settings: Any) -> Callable[[Path], Case]:
    """A case of a healthy model and these rows; a setting that is a list of rows becomes a file of them."""

    def make(folder: Path) -> Case:
        files = {k: str(write_lines(folder / f"{k}.jsonl", v)) for k, v in settings.items() if isinstance(v, list)}
        data = write_lines(folder / "data.jsonl", rows())
        return Case(Config(model=str(save(folder / "model")), data=str(data), **{**settings, **files}))

    return make


def question(i: int) -> list[dict[str, str]]:
    """The messages of prompt ``i``, each its own."""
    return [{"role": "user", "content": f"{QUESTIONS[i % len(QUESTIONS)]} Day {i}."}]


def comparison(i: int, better: str, worse: str) -> dict[str, Any]:
    """A native comparison of two answers."""
    return {"id": f"c{i}", "messages": question(i), "completions": [{"text": better}, {"text": worse}], "ranks": [1, 2]}


def demonstration(i: int, text: str) -> dict[str, Any]:
    """A native demonstration."""
    return {"id": f"d{i}", "messages": question(i), "completion": text}


def healthy_comparisons(count: int = 24) -> list[dict[str, Any]]:
    """Answers of one length, labelers in turn, nothing wrong."""
    good, bad = ("Yes, the cat is near it.", "No, it saw the shy dog."), ("It is far, said the mill.", "The dog and the cat ran.")
    return [{**comparison(i, f"{good[i % 2]} {i}", f"{bad[i % 2]} {i}"), "labeler": f"l{i % 4}"} for i in range(count)]


def healthy_demonstrations(count: int = 24) -> list[dict[str, Any]]:
    """One short answer to each question."""
    return [demonstration(i, f"Yes, cat {i} is near it.") for i in range(count)]


HEALTHY_TEMPLATES: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "ChatML": chatml,
    "generation marks": lambda: templated(MARKED),
    "Llama 3": lambda: templated(LLAMA3, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", eos="<|eot_id|>"),
    "Gemma": lambda: templated(GEMMA, "<start_of_turn>", "<end_of_turn>", eos="<end_of_turn>"),
    "Mistral": lambda: templated(MISTRAL),
    "Zephyr": lambda: templated(ZEPHYR),
}
