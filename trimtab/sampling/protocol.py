"""What every engine takes and gives. The native engine and an outside server (vLLM) stand behind the same protocol."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from trimtab.common.errors import UserError
from trimtab.models.score import refuse_unknown_ids

Stop = Literal["end", "length", "string"]

# A float32 logit of 16 to 32 has steps of 2e-6; divided by this they are 0.002 nats, and below it logprobs are rounding more than anything.
LEAST_TEMPERATURE = 1e-3

# Called now and then with (samples finished, tokens drawn) so far.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn. In this order: logits / ``temperature``, the ``top_k`` largest, the ``top_p`` nucleus.

    ``temperature`` is at least ``LEAST_TEMPERATURE``. ``top_p`` 1 and ``top_k`` 0 switch them off; tokens tied with the last one kept are
    kept. ``greedy`` takes the largest logit and ignores the other three. ``stop`` are strings: a sample ends with the token that completes
    one of them, special tokens counted as their text.

    Raises:
        UserError: a value is out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}: give at least 1")
        if not self.temperature >= LEAST_TEMPERATURE:
            raise UserError(f"temperature is {self.temperature}: give {LEAST_TEMPERATURE} or more, or greedy=true for the likeliest token")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: give a share above 0 and at most 1 (1 switches it off)")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: give a number of tokens, or 0 to switch it off")
        if not all(self.stop):
            raise UserError("stop holds an empty string: every text contains it; leave it out")

    @property
    def truncated(self) -> bool:
        """Whether some tokens can never be drawn: the samples are not of the policy's own distribution."""
        return self.greedy or self.top_k > 0 or self.top_p < 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion.

    ``logprobs[t]`` is the log-probability, in nats, under the distribution that token t was drawn from (0 when greedy);
    ``policy_logprobs[t]`` is the same under the policy itself: temperature 1, nothing cut off.
    """

    token_ids: tuple[int, ...]  # the end token included when stop is "end"
    logprobs: tuple[float, ...]
    policy_logprobs: tuple[float, ...]
    stop: Stop


@dataclass(frozen=True)
class SamplingStats:
    """What one call of ``sample`` did, or several added up."""

    samples: int
    tokens: int  # drawn
    prompt_tokens: int  # computed: once per distinct prompt of a call, the last token of each sample's prompt beside
    steps: int
    rows: int  # sequences drawn at once
    kv_bytes: int  # allocated for keys and values
    packed_bytes: int  # of weights copied into another order for the call
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    def __add__(self, other: "SamplingStats") -> "SamplingStats":
        """Both calls: sums, of rows and memory the larger."""
        one, two = asdict(self), asdict(other)
        larger = {name: max(one[name], two[name]) for name in ("rows", "kv_bytes", "packed_bytes")}
        return SamplingStats(**{name: one[name] + two[name] for name in one} | larger)

    def __str__(self) -> str:
        packed = f", {_size(self.packed_bytes)} of packed weights" if self.packed_bytes else ""
        return (
            f"{self.samples:,} answers, {self.tokens:,} tokens at {self.tokens_per_second:,.0f} tokens/s, {self.prompt_tokens:,} prompt "
            f"tokens computed; {self.rows:,} at once, {_size(self.kv_bytes)} of keys and values{packed}"
        )


def _size(count: int) -> str:
    size, unit = next((size, unit) for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= size or unit == "kB")
    return f"{count / size:.1f} {unit}"


class Engine(Protocol):
    """Anything that completes prompts. ``stats`` tells what the last call did, where the engine knows."""

    stats: SamplingStats | None

    def sample(
        self, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str], *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Sample]]:
        """``k`` completions of each prompt, in the order of ``prompts``.

        ``keys`` name the prompts: sample j of a prompt depends on (options, its key, j, its ids and the weights), not on the
        other prompts, on how many there are or on their order.

        Raises:
            UserError: a prompt is empty, leaves the model no room for ``max_tokens``, or has a token id that it does not know.
            RunFailed: the model's logits are not finite.
        """


def check_prompts(
    prompts: Sequence[Sequence[int]], options: SamplingOptions, keys: Sequence[str], positions: int, vocabulary: int
) -> None:  # fmt: skip
    """What every engine refuses.

    Raises:
        UserError: a prompt is empty, leaves a model of ``positions`` positions no room for ``max_tokens``, or has an id outside its
            ``vocabulary``.
    """
    for prompt, key in zip(prompts, keys, strict=True):
        if not len(prompt):
            raise UserError(f"prompt {key!r} has no tokens: the first one has nothing to be predicted from")
        if len(prompt) > positions - options.max_tokens:
            raise UserError(
                f"prompt {key!r} has {len(prompt)} tokens and max_tokens is {options.max_tokens}, but the model has "
                f"{positions} positions: shorten the prompt or lower max_tokens"
            )
        refuse_unknown_ids(f"prompt {key!r}", (min(prompt), max(prompt)), vocabulary, "encode it with the model's own tokenizer")
