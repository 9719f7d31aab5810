"""``trimtab sample``: prompts -> K answers each, as comparisons that nobody has ranked yet."""

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field

from trimtab.common.errors import UserError
from trimtab.common.precision import DTYPE_SENTENCE, Dtype
from trimtab.common.progress import Progress
from trimtab.common.rng import generator
from trimtab.data.files import write_records
from trimtab.data.formats import ReadSettings, read_demonstrations, refuse_shared_ids
from trimtab.data.formats.aloud import read_aloud
from trimtab.data.template import Renderer, read_template
from trimtab.models.load import load_policy, load_tokenizer, max_positions, model_folders
from trimtab.records import Comparison, Completion, Demonstration, Message, Prompt
from trimtab.sampling.choose import ENGINE_SENTENCE, KV_SENTENCE, EngineName, engine_for
from trimtab.sampling.protocol import LEAST_TEMPERATURE, Sample, SamplingOptions, SamplingStats
from trimtab.verbs.outputs import FILES, OVERWRITE_SENTENCE, open_output

PROMPTS_AT_ONCE = 512


def _not_zero(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        raise ValueError(f"write greedy=true in its place for the likeliest token each time, or a number >= {LEAST_TEMPERATURE:g}")
    return value


def _no_escapes(texts: list[str]) -> list[str]:
    """Refuses what the shell and YAML leave as a backslash and a letter; ``\\nabla`` and the like are let through."""
    if any(re.search(r"\\[nrt](?![a-z])", text) for text in texts):
        raise ValueError("""a backslash and a letter; a line break is read in double quotes, for the shell: 'stop=["\\n"]'""")
    return texts


class Config(ReadSettings):
    """Settings of ``trimtab sample``."""

    model: str = Field("", description="model to sample from: a Hugging Face folder, a run folder or a hub name")
    data: str = Field("", description="prompts, a file in any format or hub:owner/name")
    out: str = Field("samples.jsonl", description="file to write, or a folder (then answers.jsonl in it)")
    overwrite: bool = Field(False, description=OVERWRITE_SENTENCE)
    num_completions: int | str = Field(
        1, description="answers for each prompt: a number, or a range like 4..9 to draw from"
    )
    max_tokens: int = Field(64, ge=1, description="longest answer, tokens")
    temperature: Annotated[float, BeforeValidator(_not_zero)] = Field(
        1.0, ge=LEAST_TEMPERATURE, description="sampling temperature"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus: smallest set of tokens with this probability")
    top_k: int = Field(0, ge=0, description="only the k most likely tokens; 0 = all")
    greedy: bool = Field(False, description="always the most likely token")
    template: Literal["chat", "plain"] = Field(
        "chat", description="chat = the tokenizer's chat template; plain = the bare text, for a base model"
    )
    chat_template: str = Field("", description="file with a chat template (Jinja) to ask in; empty = the model's own")
    stop: Annotated[list[str], AfterValidator(_no_escapes)] = Field([], description="an answer ends before the first of these strings")
    shots: int = Field(0, ge=0, description="demonstrations put before each prompt (GPT-3's few-shot prompting)")
    demonstrations: str = Field("", description="where shots come from, a file of demonstrations")
    name: str = Field("", description="what to call the model in the records; empty = its folder, or the run that holds a folder 'model'")
    limit: int = Field(0, ge=0, description="only the first so many prompts; 0 = all")
    skip: int = Field(0, ge=0, description="leave out so many prompts before that")
    seed: int = Field(0, description="seed of the draws")
    stream: int = Field(0, ge=0, description="another number draws other answers with the same seed")
    engine: EngineName = Field("native", description=ENGINE_SENTENCE)
    kv_gb: float = Field(0.0, ge=0, description=KV_SENTENCE)
    dtype: Dtype = Field("auto", description=DTYPE_SENTENCE)


def run(config: Config) -> Path:
    """Samples and writes; returns the file.

    Raises:
        UserError: an option, the model or the prompts are wrong.
    """
    low, high = completions_range(str(config.num_completions))
    if not config.model or not config.data:
        raise UserError("sample needs a model and a file of prompts: trimtab sample MODEL PROMPTS -k K -o FILE")
    if config.shots and not config.demonstrations:
        raise UserError(f"shots={config.shots} needs demonstrations=: {Config.model_fields['demonstrations'].description}")
    if config.chat_template and config.template == "plain":
        raise UserError("chat_template= is for template=chat; with template=plain nothing is put around a prompt")
    folder = Path(config.out).parent if config.out.endswith(FILES) else Path(config.out)
    read = read_aloud("sample", config.data, "prompt", config.model_copy(update={"left_out": config.left_out or str(folder)}))
    if read and not (prompts := read[config.skip :]):
        raise UserError(f"{config.data}: skip={config.skip} leaves none of its {len(read)} prompts")
    prompts = prompts[: config.limit] if config.limit else prompts
    refuse_shared_ids(prompts, config.data)  # draws depend on the id: theirs would be of one random stream
    inputs = [config.data, *([config.demonstrations] if config.shots else [])]
    parents = [str(folder) for folder in model_folders(config.model)]
    place = open_output(config.out, "sample", config, "answers.jsonl", overwrite=config.overwrite, inputs=inputs, parents=parents)
    with place as out:
        if out.done:
            return out.path
        policy, tokenizer = load_policy(config.model), load_tokenizer(config.model)
        if config.chat_template:
            tokenizer.chat_template = read_template(config.chat_template)
        renderer = Renderer(tokenizer, template=config.template, answers=False)
        shots = read_demonstrations(config.demonstrations) if config.shots else []
        options = SamplingOptions(
            max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k,
            greedy=config.greedy, stop=(*config.stop, *(("\n\n",) if config.shots else ())), seed=config.seed,
        )  # fmt: skip
        name = config.name or name_of(config.model)
        positions = max_positions(policy)
        if positions <= config.max_tokens:
            raise UserError(f"max_tokens={config.max_tokens} leaves no room for a prompt: the model has {positions} positions")
        limit, wanted_shots = positions - config.max_tokens, min(config.shots, len(shots))
        fitted = [(p, *fit(p, renderer, shots, wanted_shots, config.seed, limit)) for p in prompts]
        prompts, tokens = [p for p, ids, _ in fitted if ids], [ids for _, ids, _ in fitted if ids]
        if len(prompts) < len(fitted):
            print(f"sample: {len(fitted) - len(prompts)} prompts left out: over {limit} tokens")
        if fewer := sum(count < wanted_shots for _, ids, count in fitted if ids):
            print(f"sample: {fewer} prompts with fewer than {wanted_shots} examples: over {limit} tokens with all of them")
        longest = max(map(len, tokens), default=0) + config.max_tokens
        engine = engine_for(
            config.engine, policy, tokenizer, renderer.end_id, dtype=config.dtype, longest=longest, kv_gb=config.kv_gb,
            decode=renderer.written,
        )  # fmt: skip
        wanted = [int(generator(config.seed, "num_completions", p.id).integers(low, high + 1)) for p in prompts]
        records: dict[int, Comparison] = {}
        stats: list[SamplingStats] = []
        keys = [f"{p.id}/stream {config.stream}" if config.stream else p.id for p in prompts]
        with Progress(f"sample {name}", sum(wanted), "answers") as bar, torch.no_grad():
            for k, group in _by_count(wanted):
                before, began = bar.done, time.monotonic()

                def show(answers: int, tokens: int, before: int = before, began: float = began) -> None:
                    bar.advance(before + answers - bar.done, tokens_per_second=tokens / (time.monotonic() - began))

                answers = engine.sample([tokens[i] for i in group], k, options, [keys[i] for i in group], on_progress=show)
                stats += [engine.stats] if engine.stats else []
                for i, row in zip(group, answers, strict=True):
                    completions = tuple(completion(s, renderer, name, options.stop) for s in row)
                    records[i] = Comparison(prompts[i], completions, (None,) * k)
        write_records(out.path, [records[i] for i in range(len(prompts))])
        if stats:
            print(f"sample: {reduce(add, stats)}")
    return out.path


def name_of(model: str) -> str:
    """What a model's answers are called after: ``runs/dpo/model`` and ``runs/dpo`` are dpo's."""
    place = Path(model)
    inside = place.name in ("model", "adapter") and place.exists()
    return (place.resolve().parent if inside else place).name or place.name


def completion(sample: Sample, renderer: Renderer, name: str, stop: Sequence[str]) -> Completion:
    """A sampled answer as a record: its own token ids travel with it and are what is trained on.

    One that ran into a string of ``stop`` ends before it, and has no ids: theirs are of a longer text.
    """
    if sample.stop == "string":
        return Completion(renderer.decode_before(sample.token_ids, stop), name, stop="string")
    return Completion(renderer.decode(sample.token_ids), name, sample.token_ids, renderer.sha, sample.stop)


def completions_range(text: str) -> tuple[int, int]:
    """``4`` -> (4, 4); ``4..9`` -> (4, 9).

    Raises:
        UserError: it is neither.
    """
    low, dots, high = text.partition("..")
    if low.isdigit() and (high.isdigit() if dots else True):
        ends = int(low), int(high or low)
        if 1 <= ends[0] <= ends[1]:
            return ends
    raise UserError(f"num_completions={text}: write a number from 1, or a range like 4..9")


def fit(
    prompt: Prompt, renderer: Renderer, shots: Sequence[Demonstration], most: int, seed: int, limit: int
) -> tuple[list[int], int]:
    """The prompt's tokens behind as many examples, at most ``most``, as fit ``limit`` tokens, and how many these are; no tokens
    where the prompt alone does not fit."""
    for count in range(most, -1, -1):
        ids = renderer.prompt(few_shot(prompt, shots, count, seed) if count else prompt)
        if len(ids) <= limit:
            return ids, count
    return [], 0


def few_shot(prompt: Prompt, shots: Sequence[Demonstration], count: int, seed: int) -> Prompt:
    """The prompt behind ``count`` demonstrations drawn for it, as one text (Brown et al. 2020)."""
    drawn = generator(seed, "shots", prompt.id).choice(len(shots), size=count, replace=False)
    examples = "".join(f"{shots[i].prompt.text}\n{shots[i].completion}\n\n" for i in drawn)
    return replace(prompt, messages=(*prompt.messages[:-1], Message("user", examples + prompt.text)))


def _by_count(wanted: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Prompt indices grouped by how many answers they get, in groups of at most ``PROMPTS_AT_ONCE``."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i, k in enumerate(wanted):
        groups[k].append(i)
    return [
        (k, members[i : i + PROMPTS_AT_ONCE])
        for k, members in sorted(groups.items())
        for i in range(0, len(members), PROMPTS_AT_ONCE)
    ]
