"""What is examined: a model's folder and a data file, each part loaded when the first check asks for it, once.

A part that cannot be had raises ``NotApplicable`` for every check that needs it; the one check whose matter it is looks at the
``Attempt`` and fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import transformers

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel, PreTrainedTokenizerBase
from trimtab.data.template import Renderer
from trimtab.doctor.check import NotApplicable
from trimtab.doctor.draws import Draws
from trimtab.doctor.probes import FIRST, OPENINGS, PASSAGE, trees_of
from trimtab.doctor.settings import Config
from trimtab.doctor.survey import Survey, survey
from trimtab.models.load import (
    adapter_base,
    hub_reachable,
    is_scorer,
    load_policy,
    load_scorer,
    max_positions,
    model_folder,
)
from trimtab.records import Message, Prompt
from trimtab.sampling.choose import engine_for
from trimtab.sampling.protocol import Engine
from trimtab.trees import PromptTree

T = TypeVar("T")
MakeEngine = Callable[["Subject"], Engine]


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """Something that was loaded, or why it could not be."""

    value: T | None
    error: str = ""

    def needed(self, what: str) -> T:
        """The value.

        Raises:
            NotApplicable: there is none; ``what`` says so.
        """
        if self.value is None:
            raise NotApplicable(what)
        return self.value


def attempt(make: Callable[[], T]) -> Attempt[T]:
    """``make()``, or the words of its ``UserError``."""
    try:
        return Attempt(make())
    except UserError as error:
        return Attempt(None, str(error))


def _described(model: Path | str) -> Path:
    """Where a model's configuration is: of an adapter, its base's folder (or hub name)."""
    base = adapter_base(model)
    return _described(base) if base else model_folder(model)


class Subject:
    """A model and perhaps a data file. ``engine`` replaces the engine that the settings name.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, config: Config, engine: MakeEngine | None = None) -> None:
        self.config, self._make_engine = config, engine
        self._made: dict[str, Any] = {}
        self.scores = is_scorer(config.model)  # whether it is a reward or value model
        self.source = model_folder(config.model)
        self._described = _described(config.model)
        own = self._described == self.source or (self.source / "tokenizer_config.json").exists()
        self._tokenizer_at = self.source if own else self._described
        self._where: dict[str, Any] = {} if self._described.exists() or hub_reachable() else {"local_files_only": True}

    # ---- files -----------------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Any:
        """The model's configuration."""
        return transformers.AutoConfig.from_pretrained(str(self._described), **self._where)

    @cached_property
    def generation(self) -> Any:
        """What ``generate`` goes by: generation_config.json, or what transformers makes of config.json where there is none."""
        if self.scores:
            raise NotApplicable("a reward model generates nothing")
        try:
            return transformers.GenerationConfig.from_pretrained(str(self._described), **self._where)
        except OSError:
            return transformers.GenerationConfig.from_model_config(self.settings)

    @cached_property
    def tokenizer_attempt(self) -> Attempt[PreTrainedTokenizerBase]:
        """The tokenizer as plain transformers loads it, with or without an end token."""

        def load() -> PreTrainedTokenizerBase:
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(str(self._tokenizer_at), **self._where)
            except Exception as error:  # every tokenizer class fails in its own way
                raise UserError((str(error).strip().splitlines() or [type(error).__name__])[0][:160]) from None
            if tokenizer is None or not len(tokenizer):
                raise UserError("there is none beside the model")
            if getattr(tokenizer, "backend_tokenizer", None) is None:
                raise UserError("it is not a fast one (it has no tokenizer.json)")
            return tokenizer

        return attempt(load)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See ``tokenizer_attempt``."""
        return self.tokenizer_attempt.needed("the tokenizer cannot be loaded")

    # ---- text and tokens -------------------------------------------------------------------------------------------

    def named(self, token: int | None) -> str:
        """``<|end|> (2)``."""
        if token is None:
            return "none"
        text = self.tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(self.tokenizer) else None
        return f"{text} ({token})" if text else f"id {token}"

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens in it read as such, none added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def rendered(self, messages: Sequence[Message], *, generation: bool = False) -> Attempt[str]:
        """The chat template's text, by plain transformers, or what the template says against these messages.

        Raises:
            NotApplicable: there is no chat template.
        """
        if not self.tokenizer.chat_template:
            raise NotApplicable("no chat template: a base model")
        rows = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return Attempt(str(self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation)))
        except Exception as error:  # a template is somebody's program
            return Attempt(None, " ".join(str(error).split())[:120] or type(error).__name__)

    def render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        """The text of ``rendered``, which the check 'renders' answers for."""
        return self.rendered(messages, generation=generation).needed("the chat template does not render the example")

    @cached_property
    def chat_attempt(self) -> Attempt[Renderer]:
        """Our own renderer of the chat template, which refuses templates that cannot be trained on."""
        if not self.tokenizer.chat_template:
            raise NotApplicable("no chat template: a base model")
        return attempt(lambda: Renderer(self.tokenizer))

    @property
    def renderer(self) -> Renderer:
        """The chat template's, or plain text's for a model without one."""
        if self.tokenizer.chat_template:
            return self.chat_attempt.needed("the chat template is refused")
        return attempt(lambda: Renderer(self.tokenizer, "plain")).needed("there is neither a chat template nor an end token")

    @property
    def answer_end(self) -> int | None:
        """The token that ends an answer: what the chat template ends it with, else the tokenizer's end token."""
        if self.tokenizer.chat_template and self.chat_attempt.value is not None:
            return self.chat_attempt.value.end_id
        return self.tokenizer.eos_token_id

    @property
    def stops(self) -> list[int]:
        """The tokens at which transformers' ``generate`` ends."""
        return as_list(self.generation.eos_token_id)

    # ---- the model -------------------------------------------------------------------------------------------------

    @cached_property
    def model_attempt(self) -> Attempt[PreTrainedModel]:
        """The model as every verb loads it, in float32."""
        return attempt(lambda: (load_scorer if self.scores else load_policy)(self.config.model, dtype=torch.float32))

    @property
    def model(self) -> PreTrainedModel:
        """See ``model_attempt``."""
        return self.model_attempt.needed("the model cannot be loaded")

    @property
    def size(self) -> str:
        """``134.5 million weights``."""
        count = sum(p.numel() for p in self.model.parameters())
        return f"{count / 1e6:,.1f} million weights" if count >= 1e5 else f"{count:,} weights"

    @property
    def policy(self) -> PreTrainedModel:
        """The model, if it is a language model whose weights are numbers."""
        if self.scores:
            raise NotApplicable("a reward model")
        return self._finite()

    @property
    def scorer(self) -> PreTrainedModel:
        """The model, if it is a reward model whose weights are numbers."""
        if not self.scores:
            raise NotApplicable("a language model")
        return self._finite()

    def _finite(self) -> PreTrainedModel:
        if self.broken_weights:
            raise NotApplicable("its weights are not numbers")
        return self.model

    @cached_property
    def broken_weights(self) -> list[str]:
        """Names of tensors with NaN or infinite values."""
        # a NaN or an infinity makes the sum one, and a sum needs no second copy; one that overflows is looked at again
        return [n for n, w in self.model.state_dict().items() if not w.sum().isfinite() and not bool(w.isfinite().all())]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt + completion: the training's, if it was said, else the model's."""
        positions = max_positions(self.model)
        return min(self.config.max_length or positions, positions)

    @cached_property
    def trees(self) -> list[PromptTree]:
        """Trees of many shapes, of English text where there is a tokenizer."""
        rows = self.model.get_input_embeddings().num_embeddings
        ids = self.encode(PASSAGE) if self.tokenizer_attempt.value is not None else []
        return trees_of([i for i in ids if i < rows] or list(range(rows)), max_positions(self.model))

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Prompts to sample from, in ids."""
        if self.tokenizer.chat_template:
            asked = [Prompt("probe", (Message("user", text),)) for text in (FIRST[0].content, *OPENINGS[:3])]
            out = [self.renderer.prompt(prompt) for prompt in asked]
        else:
            out = [self.encode(text) for text in OPENINGS]
        if max(map(max, out)) >= self.model.get_input_embeddings().num_embeddings:
            raise NotApplicable("the tokenizer has ids that the embeddings have no rows for")
        return out

    @cached_property
    def engine(self) -> Engine:
        """What draws answers."""
        if self._make_engine:
            return self._make_engine(self)
        end = self.answer_end
        if end is None:
            raise NotApplicable("the tokenizer has no end token")
        dtype = "float32" if self.config.engine == "native" else "auto"
        return engine_for(self.config.engine, self.policy, self.tokenizer, end, dtype=dtype, longest=max_positions(self.policy))

    @cached_property
    def draws(self) -> Draws:
        """Answers that the engine drew, shared by the checks that look at them."""
        return Draws(self.policy, self.engine, self.prompts, self.config.seed)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """``make()`` the first time that ``name`` is asked for: what the checks of one file share."""
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    # ---- the data --------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> Survey:
        """The data file, read once."""
        if not self.config.data:
            raise NotApplicable("no DATA was given")
        return survey(self.config)


def as_list(ids: int | list[int] | None) -> list[int]:
    """Token ids as configurations have them: one, several or none."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
