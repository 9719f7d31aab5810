"""Chat templates of many model families, written anew from their documented formats, and small tokenizers of the kinds that they have.

``{% generation %}`` stands around what the assistant writes, end token included: the families themselves have no such tags, so a family's
template is the text without them, and the tagged one tells transformers which tokens are the assistant's.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

Kind = Literal["gpt2", "llama3", "llama2", "gemma", "unigram"]


@dataclass(frozen=True)
class Family:
    """A template, the tokens that it needs, and what is special about it."""

    template: str  # tagged
    end: str  # the token that ends an answer
    kind: Kind  # its own tokenizer's kind
    tokens: tuple[str, ...] = ()  # control tokens beside start and end
    words: tuple[str, ...] = ()  # added tokens that are not special
    start: str = "<s>"
    eos: str = "</s>"
    swallow: bool = False  # its control tokens swallow the white space after them
    system: Literal["yes", "no"] = "yes"  # whether it knows system messages
    apart: bool = False  # it rewrites earlier turns
    refused: str = ""  # why it cannot be trained with

    @property
    def plain(self) -> str:
        return re.sub(r"{%-? *(end)?generation *-?%}", "", self.template)


def _lines(*lines: str) -> str:
    """Jinja over several lines, without the newlines between them."""
    return "".join(line.strip() for line in lines)


CHATML = _lines(
    "{% for m in messages %}",
    "{{ '<|im_start|>' + m.role + '\\n' }}",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}",
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
LLAMA2 = _lines(  # the system message goes into the first question, in text of its own
    "{% set first = 0 %}{% if messages[0].role == 'system' %}{% set first = 1 %}{% endif %}",
    "{% for m in messages[first:] %}",
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user, assistant') }}{% endif %}",
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}",
    "{% if loop.first and first %}{{ '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' }}{% endif %}",
    "{{ m.content | trim + ' [/INST]' }}",
    "{% else %}{% generation %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endgeneration %}{% endif %}",
    "{% endfor %}",
)
MISTRAL_1 = _lines(  # the role markers are text
    "{{ bos_token }}{% for m in messages %}",
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user, assistant') }}{% endif %}",
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}",
    "{% else %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ ' ' }}{% endif %}",
    "{% endfor %}",
)
MISTRAL_3 = _lines(  # the system message goes into the LAST question
    "{% set first = 0 %}{% if messages[0].role == 'system' %}{% set first = 1 %}{% endif %}",
    "{{ bos_token }}{% for m in messages[first:] %}",
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user, assistant') }}{% endif %}",
    "{% if m.role == 'user' %}{% set last = loop.last or loop.index0 == (messages[first:] | length) - 2 %}",
    "{{ '[INST] ' }}{% if last and first %}{{ messages[0].content + '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}",
    "{% else %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}",
    "{% endfor %}",
)
MISTRAL_7 = _lines(
    "{{ bos_token }}{% for m in messages %}",
    "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}",
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}",
    "{% else %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endif %}",
    "{% endfor %}",
)
LLAMA3 = _lines(
    "{{ bos_token }}{% for m in messages %}",
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}",
    "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
)
LLAMA31 = _lines(  # a system turn always, which begins with two dates
    "{% set first = 0 %}{% set said = '' %}",
    "{% if messages[0].role == 'system' %}{% set first = 1 %}{% set said = messages[0].content | trim %}{% endif %}",
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}",
    "{{ 'Today Date: 26 Jul 2024\\n\\n' + said + '<|eot_id|>' }}",
    LLAMA3.removeprefix("{{ bos_token }}").replace("in messages %}", "in messages[first:] %}"),
)
GEMMA = _lines(
    "{{ bos_token }}{% for m in messages %}",
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}",
    "{% if m.role == 'assistant' %}{{ '<start_of_turn>model\\n' }}",
    "{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}",
    "{% else %}{{ '<start_of_turn>user\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
)
GEMMA3 = _lines(  # the system message goes before the first question
    "{{ bos_token }}{% set first = 0 %}{% set said = '' %}",
    "{% if messages[0].role == 'system' %}{% set first = 1 %}{% set said = messages[0].content + '\\n\\n' %}{% endif %}",
    "{% for m in messages[first:] %}",
    "{% if m.role == 'assistant' %}{{ '<start_of_turn>model\\n' }}",
    "{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}",
    "{% else %}{{ '<start_of_turn>user\\n' }}{% if loop.first %}{{ said }}{% endif %}",
    "{{ m.content | trim + '<end_of_turn>\\n' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
)
PHI3 = _lines(
    "{% for m in messages %}",
    "{% if m.role == 'assistant' %}",
    "{{ '<|assistant|>\\n' }}{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}{{ '\\n' }}",
    "{% else %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
)
ZEPHYR = _lines(  # the role markers are text; every turn ends with the end token
    "{% for m in messages %}",
    "{{ '<|' + m.role + '|>\\n' }}",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}",
    "{% else %}{{ m.content + eos_token }}{% endif %}{{ '\\n' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
)
TULU = _lines(  # the role markers are text; only answers end with the end token, and a newline unless they are the last
    "{{ bos_token }}{% for m in messages %}",
    "{% if m.role == 'assistant' %}",
    "{{ '<|assistant|>\\n' }}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% if not loop.last %}{{ '\\n' }}{% endif %}",
    "{% else %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
)
_QWEN3_BEGIN = _lines(  # the last question; a thought is split from what follows it
    "{% set ns = namespace(asked=-1) %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}",
    "{% for m in messages %}",
    "{% if m.role == 'assistant' %}",
    "{% set thought = '' %}{% set said = m.content %}{% if '</think>' in m.content %}",
    "{% set thought = m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}",
    "{% set said = m.content.split('</think>')[-1].lstrip('\\n') %}{% endif %}",
    "{{ '<|im_start|>assistant\\n' }}{% generation %}",
    "{% if loop.index0 > ns.asked and (loop.last or thought) %}",
    "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') }}",
    "{% else %}{{ said }}{% endif %}",
    "{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}",
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}",
    "{% endfor %}",
)
QWEN3 = _QWEN3_BEGIN + _lines(
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}",
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}",
)
QWEN3_THINKING = _QWEN3_BEGIN + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
DEEPSEEK_V3 = _lines(
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}",
    "{% for m in messages %}",
    "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}",
    "{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' }}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
)
DEEPSEEK_R1 = DEEPSEEK_V3.replace("m.content + eos_token", "m.content.split('</think>')[-1] + eos_token").replace(
    "{{ '<｜Assistant｜>' }}{% endif %}", "{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
GLM4 = _lines(  # no end token: the model stops by opening the next turn
    "{{ '[gMASK]<sop>' }}{% for m in messages %}",
    "{{ '<|' + m.role + '|>\\n' }}",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
)
VICUNA = _lines(  # all but the end token is text, on one line
    "{{ bos_token }}{% for m in messages %}",
    "{% if m.role == 'system' %}{{ m.content + ' ' }}",
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}",
    "{% else %}{{ 'ASSISTANT:' }}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
)
COMMAND_R = _lines(
    "{{ bos_token }}{% for m in messages %}",
    "{% if m.role == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
    "{% generation %}{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endgeneration %}",
    "{% else %}{{ '<|START_OF_TURN_TOKEN|><|' + m.role | upper + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
)
GRANITE = _lines(
    "{% for m in messages %}",
    "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end_of_text|>' }}{% endgeneration %}",
    "{% else %}{{ m.content + '<|end_of_text|>' }}{% endif %}{{ '\\n' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
)
HARMONY = _lines(  # the assistant itself writes the name of a channel
    "{% for m in messages %}",
    "{% if m.role == 'assistant' %}{{ '<|start|>assistant' }}{% generation %}",
    "{{ '<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}{% endgeneration %}",
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
)
IM = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
INST = ("[INST]", "[/INST]")

FAMILIES: dict[str, Family] = {
    "ChatML": Family(CHATML, "<|im_end|>", "gpt2", IM),
    "SmolLM 2": Family(DEFAULT_SYSTEM + CHATML, "<|im_end|>", "gpt2", IM, start="<|im_start|>", eos="<|im_end|>"),
    "Qwen 2.5": Family(DEFAULT_SYSTEM + CHATML, "<|im_end|>", "llama3", IM, start="", eos="<|im_end|>"),
    "Qwen 3": Family(QWEN3, "<|im_end|>", "llama3", IM, words=("<think>", "</think>"), start="", eos="<|im_end|>", apart=True),
    "Qwen 3 thinking": Family(
        QWEN3_THINKING, "<|im_end|>", "llama3", IM, words=("<think>", "</think>"), start="", eos="<|im_end|>", apart=True
    ),
    "Llama 2": Family(LLAMA2, "</s>", "llama2"),
    "Llama 3": Family(LLAMA3, "<|eot_id|>", "llama3", HEADERS, start="<|begin_of_text|>", eos="<|eot_id|>"),
    "Llama 3.1": Family(LLAMA31, "<|eot_id|>", "llama3", HEADERS, start="<|begin_of_text|>", eos="<|eot_id|>"),
    "Mistral v1": Family(MISTRAL_1, "</s>", "llama2", system="no"),
    "Mistral v3": Family(MISTRAL_3, "</s>", "llama2", INST, apart=True),
    "Mistral v7": Family(MISTRAL_7, "</s>", "llama3", (*INST, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "Gemma": Family(GEMMA, "<end_of_turn>", "gemma", ("<start_of_turn>", "<end_of_turn>"), start="<bos>", eos="<eos>", system="no"),
    "Gemma 3": Family(GEMMA3, "<end_of_turn>", "gemma", ("<start_of_turn>", "<end_of_turn>"), start="<bos>", eos="<eos>"),
    "Phi-3": Family(
        PHI3, "<|end|>", "llama2", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), eos="<|endoftext|>", swallow=True
    ),
    "Zephyr": Family(ZEPHYR, "</s>", "llama2"),
    "OLMo / Tulu": Family(TULU, "<|endoftext|>", "gpt2", start="<|endoftext|>", eos="<|endoftext|>"),
    "DeepSeek V3": Family(
        DEEPSEEK_V3, "<｜end▁of▁sentence｜>", "llama3", words=("<｜User｜>", "<｜Assistant｜>"),
        start="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>",
    ),
    "DeepSeek R1": Family(
        DEEPSEEK_R1, "<｜end▁of▁sentence｜>", "llama3", words=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        start="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>", refused="which is not written before an answer",
    ),
    "GLM-4": Family(
        GLM4, "<|user|>", "llama3", ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"), start="", eos="<|endoftext|>"
    ),
    "Vicuna": Family(VICUNA, "</s>", "llama2"),
    "Command R": Family(
        COMMAND_R, "<|END_OF_TURN_TOKEN|>", "llama3",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        start="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>",
    ),
    "Granite": Family(
        GRANITE, "<|end_of_text|>", "gpt2", ("<|start_of_role|>", "<|end_of_role|>"), start="<|end_of_text|>", eos="<|end_of_text|>"
    ),
    "gpt-oss": Family(
        HARMONY, "<|return|>", "llama3", ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"), start="",
        eos="<|return|>", refused="which the assistant would have to write itself",
    ),
}  # fmt: skip

TEXT = (
    "The mill is by the river and the baker lives on Mill Lane. Anna owns a black cat and a kettle.\n\n"
    "Where does Anna live? She lives at number forty, user and assistant, system and model. I do not know.\n"
    "1. Thank you, and a lovely day to all!\n2. def mill(x):\n    return x + 1\n\nÜber café naïve, 你好, Привет.\n"
)
# Llama 3's way to cut text into words: newlines stay together, digits go by threes
LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = [f"<0x{i:02X}>" for i in range(256)]


@cache
def backend(kind: Kind) -> str:
    """A tokenizer of a kind as JSON, trained on a few sentences, with no token but those of text (and <unk>)."""
    if kind in ("gpt2", "llama3"):
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "llama3":
            split = pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated")
            inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    elif kind == "unigram":
        inner = Tokenizer(models.Unigram())
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(
            vocab_size=550, special_tokens=["<unk>", *BYTES], unk_token="<unk>", show_progress=False
        )  # fmt: skip
    else:
        inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        marks: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *marks] if kind == "llama2" else marks)
        # as SentencePiece trains: no piece goes on over the beginning of a word, or from newlines into text
        words = pre_tokenizers.Split("▁", "merged_with_next")
        inner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Split(Regex("\\n+"), "isolated")])
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *BYTES], show_progress=False)
    inner.train_from_iterator([TEXT] * 4, trainer)
    facts = json.loads(inner.to_str())
    facts["added_tokens"] = [t for t in facts["added_tokens"] if t["content"] not in BYTES]  # byte tokens are no added ones
    if kind in ("llama2", "gemma"):
        facts["pre_tokenizer"] = None
    if kind not in ("gpt2", "llama3"):
        facts["model"]["byte_fallback"] = True
        steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if kind != "gemma" else []
        facts["decoder"] = {"type": "Sequence", "decoders": [*steps, *strip]}
    return json.dumps(facts)


def tokenizer_of(name: str, kind: Kind | None = None, *, tagged: bool = False) -> PreTrainedTokenizerFast:
    """A family's tokenizer, of its own kind or another, with its template; ``tagged``: with the generation tags."""
    family = FAMILIES[name]
    inner = Tokenizer.from_str(backend(kind or family.kind))
    special = [AddedToken(t, special=True, normalized=False, rstrip=family.swallow) for t in family.tokens]
    ends = [AddedToken(t, special=True, normalized=False) for t in (family.start, family.eos) if t and t not in family.tokens]
    inner.add_special_tokens(list({t.content: t for t in (*ends, *special)}.values()))
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.words])
    unknown = {"unk_token": "<unk>"} if inner.token_to_id("<unk>") is not None else {}
    named: Sequence[tuple[str, str]] = [("bos_token", family.start), ("eos_token", family.eos), ("pad_token", family.eos)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **unknown, **{k: v for k, v in named if v})
    tokenizer.name_or_path = name
    tokenizer.chat_template = family.template if tagged else family.plain
    return tokenizer
