"""Small tokenizers trained in the test process, of two kinds: byte-level (GPT) and word-marking (Llama 2)."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "the mill is by the river and the baker lives on Mill Lane. Anna owns a black cat and a kettle. "
    "Where does Anna live? She lives at number forty, user and assistant, system and model. I do not know. "
    "Thank you, and a lovely day to all!\n\n"
)


def _train(inner: Tokenizer, **options: object) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, **options
    )
    inner.train_from_iterator([WORDS] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's kind: bytes, a space belongs to the word after it. No chat template."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return _train(inner, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture
def word_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 2's kind: a mark before each word, and before the first word of a text. No chat template."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    return _train(inner, initial_alphabet=[chr(c) for c in range(32, 127)] + ["▁", "\n"])
