"""A tokenizer trained on the user's own text, and a corpus as one flat array of its ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedTokenizerBase
from trimtab.data.template import PAD
from trimtab.trees import PromptTree

START, END = "<|start|>", "<|end|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
# GPT-1's start, delimiter and extract tokens (Radford et al. 2018), as a chat: each turn opens with its role, an answer ends with <|end|>.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ENCODE_AT_ONCE = 1000
TRAIN_ON_DOCUMENTS = 50_000


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE of ``vocabulary`` tokens (Sennrich et al. 2016), with a chat template, trained on the first documents."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    special = [START, END, PAD, *ROLE_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(islice(documents, TRAIN_ON_DOCUMENTS), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=START, eos_token=END, pad_token=PAD)
    tokenizer.add_special_tokens({"additional_special_tokens": list(ROLE_TOKENS)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@dataclass(frozen=True)
class CorpusTokens:
    """Documents as one flat array of ids; item i is a piece of at most ``context`` tokens, its end token included."""

    ids: np.ndarray  # (tokens,) uint32
    starts: np.ndarray  # (pieces + 1,) int64
    first: int  # the id every piece is predicted from

    @classmethod
    def encode(cls, documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, context: int) -> "CorpusTokens":
        """Tokenises every document, ends it with the end token, and cuts it into pieces that fit ``context`` with a start token.

        Raises:
            UserError: there is no text.
        """
        end = tokenizer.eos_token_id
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
        pieces: list[np.ndarray] = []
        for group in _grouped(documents, ENCODE_AT_ONCE):
            # a special token typed in a document (wikitext's <unk>) is text there, not a command
            for ids in tokenizer(group, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
                whole = np.asarray([*ids, end], dtype=np.uint32)
                pieces.extend(whole[i : i + context - 1] for i in range(0, len(whole), context - 1))
        if not pieces:
            raise UserError("the text is empty; give a file with at least one document")
        return cls(np.concatenate(pieces), np.concatenate([[0], np.cumsum([len(p) for p in pieces])]), int(first))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def tree(self, index: int) -> PromptTree:
        """Piece ``index`` as a tree: the start token is the prompt, the text the completion."""
        piece = self.ids[self.starts[index] : self.starts[index + 1]]
        return PromptTree((self.first,), (tuple(piece.tolist()),), key=f"document {index}")


def _grouped(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
