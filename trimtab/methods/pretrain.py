"""Pretraining: left-to-right next-token cross-entropy of a decoder-only transformer, on plain text.

L = -(1 / #tokens) * sum log P(x_t | x_<t). Radford et al. 2018, 2019. The tokenizer is trained on the same text unless one is
given; a document is a tree whose prompt is the start token alone.
"""

from collections.abc import Sequence
from typing import Any, Literal

import transformers
from pydantic import Field

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.data.files import read_text
from trimtab.data.tokenizer import CorpusTokens, train_tokenizer
from trimtab.methods.build import DROPOUT_SENTENCE, Rewards, Trained, announce, length_limit, need, refuse_idle
from trimtab.methods.offline import FixedData, micro_batches, trained_tokens
from trimtab.methods.sft import SFT
from trimtab.models.load import load_policy, load_tokenizer, new_policy
from trimtab.training.method import OptimizerStep, State
from trimtab.training.settings import TrainingSettings
from trimtab.trees import step_indices


class Config(TrainingSettings):
    """Settings of ``trimtab pretrain``. ``batch_size`` counts documents (pieces of at most ``context`` tokens)."""

    data: str = Field("", description="plain text: a .txt or .jsonl file (field text), a folder or a .zip of them")
    model: str = Field("", description="go on from this model; empty = a new one of the size below")
    tokenizer: str = Field("", description="tokenizer folder of a new model; empty = one trained on the text")
    vocabulary: int = Field(2048, ge=300, description="tokens of a new tokenizer")
    architecture: Literal["gpt2", "llama"] = Field("llama", description="kind of a new model")
    hidden: int = Field(192, ge=8, description="width of a new model")
    layers: int = Field(4, ge=1, description="layers of a new model")
    heads: int = Field(6, ge=1, description="attention heads of a new model")
    context: int = Field(256, ge=8, description="longest piece of text that is trained on, tokens; a new model can take no more")
    dropout: float = Field(0.0, ge=0, lt=1, description=DROPOUT_SENTENCE)
    held_out: int = Field(200, ge=0, description="documents kept out of training to measure the loss on")


class Pretrain(SFT):
    """The same loss on documents that are cut from one flat array of ids when their turn comes."""

    name = "pretrain"

    def __init__(
        self, policy: PreTrainedModel, corpus: CorpusTokens, held_out: int, *, batch_size: int, budget: int, seed: int, dropout: float = 0.0
    ) -> None:  # fmt: skip
        last = [corpus.tree(i) for i in range(len(corpus) - held_out, len(corpus))]
        super().__init__(policy, FixedData((), last, batch_size, budget, seed), dropout=dropout)
        self.corpus, self.count = corpus, len(corpus) - held_out

    def batches(self, state: State) -> Sequence[OptimizerStep]:
        chosen = step_indices(self.count, self.data.batch_size, self.data.seed, state.step)
        return [micro_batches([self.corpus.tree(i) for i in chosen], self.data.budget, trained_tokens)]


def build(config: Config, rewards: Rewards) -> Trained:
    """Reads the text, trains or loads the tokenizer, makes or loads the model."""
    need(config, "data")
    of_new = ("tokenizer", "vocabulary", "architecture", "hidden", "layers", "heads")
    if config.model:
        refuse_idle(config, "to a model that is there already, which has its own; leave it out, or model=", *of_new)
    elif config.tokenizer:
        refuse_idle(config, "beside tokenizer=, which has its own; leave one of the two out", "vocabulary")
    if not config.held_out:
        refuse_idle(config, "without documents to measure on; write held_out=200, or leave it out", "eval_every")
    if config.model:
        policy, tokenizer = load_policy(config.model), load_tokenizer(config.model)
    else:
        tokenizer = (
            load_tokenizer(config.tokenizer)
            if config.tokenizer
            else train_tokenizer(read_text(config.data), config.vocabulary)
        )
        policy = new_policy(model_config(config, tokenizer), seed=config.seed)
    corpus = CorpusTokens.encode(read_text(config.data), tokenizer, min(config.context, length_limit(config, policy)))
    if len(corpus) <= config.held_out:
        raise UserError(
            f"{config.data}: {len(corpus)} documents, of which held_out={config.held_out} are kept out; give more text or lower held_out"
        )
    announce(
        "pretrain", config.data, f"{len(corpus):,} documents, {corpus.tokens:,} tokens, vocabulary {len(tokenizer):,}"
    )
    method = Pretrain(
        policy,
        corpus,
        config.held_out,
        batch_size=config.batch_size,
        budget=config.micro_batch_tokens,
        seed=config.seed,
        dropout=config.dropout,
    )
    return Trained(method, method.count, {"model": (policy, tokenizer)})


def model_config(config: Config, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The Hugging Face configuration of a new model."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if config.hidden % config.heads:
        raise UserError(
            f"hidden={config.hidden} is not a multiple of heads={config.heads}; choose heads that divide it"
        )
    if config.architecture == "llama" and config.hidden // config.heads % 2:
        raise UserError(f"hidden={config.hidden} heads={config.heads}: rotary positions need an even hidden / heads")
    if config.architecture == "gpt2":
        return transformers.GPT2Config(
            vocab_size=len(tokenizer), n_positions=config.context, n_embd=config.hidden, n_layer=config.layers, n_head=config.heads,
            activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ends,
        )  # fmt: skip
    return transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=config.context, hidden_size=config.hidden,
        intermediate_size=-(-8 * config.hidden // 3 // 32) * 32, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        tie_word_embeddings=True, **ends,
    )  # fmt: skip
