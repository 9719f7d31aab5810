"""Models and tokenizers with one known fault each, and the check that must find it."""

import unittest.mock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from doctor_cases import (
    CALL,
    ENDED,
    MARKED,
    ROLES,
    Case,
    Fault,
    chatml,
    edit,
    edit_weights,
    of_model,
    save,
    templated,
    trained,
    with_template,
)
from tiny_models import pair, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trimtab.doctor import subject
from trimtab.doctor.probes import ANSWERS, BEGINNINGS
from trimtab.doctor.settings import Config
from trimtab.doctor.subject import Subject
from trimtab.models import score
from trimtab.models.attention import TreeLayout
from trimtab.models.load import save_model
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import Engine, Sample, SamplingOptions, SamplingStats
from trimtab.trees import Segments, TreeSpan

# ---- special tokens


def pad_is_end(folder: Path, *, scorer: bool = False) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return save(folder, tokenizer, scorer=scorer)


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


def start_left_out(folder: Path) -> Path:
    """The tokenizer puts its start token before plain text, as the model was pretrained; the template does not."""
    tokenizer = templated(ROLES.removeprefix("{{ bos_token }}") + ENDED + CALL)
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return save(folder, tokenizer)


OF_TOKENS = (
    Fault("pad token = end token", 9, "pad token", "fail", of_model(pad_is_end)),
    Fault("pad token in the list of end tokens", 9, "pad token", "fail", of_model(pad_among_ends)),
    Fault("pad token is another stop token", 9, "pad token", "warning", of_model(pad_is_another_end)),
    Fault("chat end token not in generation_config", 9, "generation stops", "fail", of_model(chat_end_missing), "<|im_end|>"),
    Fault("tokenizer and configuration name different end tokens", 9, "end token", "fail", of_model(chat_end_missing)),
    Fault("generation_config without an end token", 9, "generation stops", "fail", of_model(no_end_configured), "no end token"),
    Fault("template with two start tokens", 22, "start token once", "fail", with_template("{{ bos_token }}" + ROLES + ENDED + CALL)),
    Fault("template that leaves the start token out", 0, "start token", "warning", of_model(start_left_out), "leaves it out"),
)

# ---- chat templates

ENDLESS = ROLES + "{% endfor %}" + CALL
LAST_ENDED = ROLES + "{% endfor %}{% if messages[-1]['role'] == 'assistant' %}{{ eos_token }}{% endif %}" + CALL
UNMARKED_END = MARKED.replace("m['content'] + eos_token }}{% endgeneration %}", "m['content'] }}{% endgeneration %}{{ eos_token }}")
MARKS_NOTHING = ROLES + ENDED + CALL + "{% if false %}{% generation %}{{ 'x' }}{% endgeneration %}{% endif %}"
OTHER_CALL = ROLES + ENDED + "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
ANSWER_ALONE = "{{ messages[-1]['content'] + eos_token }}"
FORGETFUL = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% if loop.last %}{{ '(thought) ' }}{% endif %}{{ m['content'] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)
SURPRISING = FORGETFUL + CALL  # the prompt does not say that a thought comes first
FORGETFUL += "{% if add_generation_prompt %}{{ '<|assistant|>(thought) ' }}{% endif %}"


def merging(folder: Path, before: str, texts: Sequence[str]) -> Path:
    """A tokenizer that was trained on ``texts``, and a template with ``before`` in front of every answer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    out = trained(tokenizer, list(texts) * 9)
    ended = "{% if m['role'] == 'assistant' %}{{ 'BEFORE' + m['content'] + eos_token }}{% else %}{{ m['content'] }}{% endif %}"
    template = "{{ bos_token }}{% for m in messages %}" + ended + "{% endfor %}{% if add_generation_prompt %}{{ 'BEFORE' }}{% endif %}"
    out.chat_template = template.replace("BEFORE", before)
    return save(folder, out)


def merging_with_all(folder: Path) -> Path:
    return merging(folder, "Answer: ", [f" {a}" for a in (*ANSWERS, *BEGINNINGS)])


def merging_with_quotes(folder: Path) -> Path:
    return merging(folder, "", ['the mill?"Well"'])


OF_TEMPLATES = (
    Fault("template without an end token after answers", 10, "end of answers", "fail", with_template(ENDLESS)),
    Fault("template that ends the last answer only", 10, "end of answers", "fail", with_template(LAST_ENDED), "last answer only"),
    Fault("{% generation %} closed before the end token", 10, "assistant mask", "fail", with_template(UNMARKED_END), "leaves the end"),
    Fault("{% generation %} that marks nothing", 11, "assistant mask", "fail", with_template(MARKS_NOTHING), "none of"),
    Fault("no {% generation %} in the template", 11, "assistant mask", "n/a", of_model(save), "no {% generation %}"),
    Fault("prompt that is no beginning of prompt + answer", 12, "prompt is a prefix", "fail", with_template(OTHER_CALL)),
    Fault("prompt whose last token merges with every answer", 12, "prompt is a prefix", "fail", of_model(merging_with_all), "11 of 11"),
    Fault("prompt whose last token merges with rare answers", 12, "prompt is a prefix", "warning", of_model(merging_with_quotes), "1 of"),
    Fault("template that cannot be trained on", 12, "what is trained", "fail", with_template(SURPRISING), "refuses"),
    Fault("template that leaves questions out", 0, "renders", "fail", with_template(ANSWER_ALONE), "leaves out"),
    Fault("template that drops thoughts of earlier turns", 0, "several turns", "warning", with_template(FORGETFUL), "otherwise"),
)

# ---- tokenizers


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


def without_tokenizer(folder: Path) -> Path:
    for path in save(folder).glob("tokenizer*"):
        path.unlink()
    return folder


OF_TOKENIZERS = (
    Fault("tokenizer that lowercases", 13, "round trip", "fail", of_model(lowercasing)),
    Fault("ids that change when their text is encoded again", 13, "re-encoding", "fail", of_model(drifting)),
    Fault("decoding that takes spaces out", 13, "decoding", "warning", of_model(cleaning)),
    Fault("no tokenizer beside the model", 0, "loads", "fail", of_model(without_tokenizer)),
)

# ---- engines


@dataclass
class FakeEngine:
    """The native engine with something changed: the options that it is given, or what it says of its samples."""

    inner: NativeEngine
    options: dict[str, Any]
    says: Callable[[Sample], Sample]
    stats: SamplingStats | None = None

    def sample(
        self, prompts: Sequence[Sequence[int]], k: int, options: SamplingOptions, keys: Sequence[str], **_: Any
    ) -> list[list[Sample]]:
        """See ``Engine.sample``."""
        drawn = self.inner.sample(prompts, k, replace(options, **self.options), keys)
        return [[self.says(sample) for sample in row] for row in drawn]


def as_it_is(a: Sample) -> Sample:
    return a


def uncut_logprobs(a: Sample) -> Sample:
    return replace(a, logprobs=a.policy_logprobs)


def without_end(a: Sample) -> Sample:
    """As servers give it: an answer that ended, without the token that ended it."""
    cut = len(a.token_ids) - (a.stop == "end" and len(a.token_ids) > 1)
    return replace(a, token_ids=a.token_ids[:cut], logprobs=a.logprobs[:cut], policy_logprobs=a.policy_logprobs[:cut])


def engine_with(says: Callable[[Sample], Sample] = as_it_is, **options: Any) -> Callable[[Path], Case]:
    def engine(s: Subject) -> Engine:
        return FakeEngine(NativeEngine(s.policy, s.answer_end or 0), options, says)

    return lambda folder: Case(Config(model=str(save(folder / "model"))), engine)


def engine_with_old_weights(folder: Path) -> Case:
    def engine(s: Subject) -> Engine:
        model, _ = pair(s.policy.config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        return NativeEngine(model, s.answer_end or 0)

    return Case(Config(model=str(save(folder / "model"))), engine)


def bent_defaults(folder: Path) -> Path:
    return edit(save(folder), "generation_config.json", top_k=50, min_length=8, repetition_penalty=1.1, do_sample=True)


OF_ENGINES = (
    Fault("engine at temperature 0.7", 14, "engine = trainer", "fail", engine_with(temperature=0.7), "temperature 0.70"),
    Fault("engine that drops top-k mass", 14, "engine = trainer", "fail", engine_with(top_k=5), "cuts off"),
    Fault("engine that drops top-p mass", 14, "engine = trainer", "fail", engine_with(top_p=0.8), "cuts off"),
    Fault("engine that cuts and does not say so", 14, "engine's draws", "fail", engine_with(uncut_logprobs, top_k=5), "likelier"),
    Fault("engine with old weights", 14, "engine = trainer", "fail", engine_with_old_weights, "other weights"),
    Fault("engine that leaves the end token out", 14, "sampled ids", "fail", engine_with(without_end), "wrong place"),
    Fault("generation_config with top_k=50 and penalties", 14, "sampling defaults", "warning", of_model(bent_defaults), "top_k=50"),
)

# ---- weights and logprobs


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


def unusual_format(folder: Path) -> Path:
    return edit(save(folder), "config.json", dtype="float64")


def loaded_with(change: Callable[[Any], None]) -> Callable[[Path], Case]:
    """A family whose own code does something to the loaded model that no configuration tells."""

    def load(source: str, **options: Any) -> Any:
        model = real(source, **options)
        change(model)
        return model

    real = subject.load_policy
    during = unittest.mock.patch.object(subject, "load_policy", load)
    return lambda folder: Case(Config(model=str(save(folder / "model"))), during=during)


def drop_in_training(model: Any) -> None:
    """Dropout that is no module."""
    model.model.layers[0].mlp.register_forward_hook(lambda module, _, out: torch.nn.functional.dropout(out, 0.2, module.training))


def add_dropout(model: Any) -> None:
    model.model.layers[0].mlp.drop = torch.nn.Dropout(0.1)


def contaminated(*, scorer: bool) -> Callable[[Path], Case]:
    """Samples packed end to end behind one causal mask, as 'wrapped' packing does: each sees all that stands before it."""

    def wrapped(segments: Segments, kernel: str = "auto") -> TreeLayout:
        return TreeLayout(Segments((TreeSpan(0, segments.tokens, ()),), segments.tokens), kernel)

    during = unittest.mock.patch.object(score, "TreeLayout", wrapped)
    return lambda folder: Case(Config(model=str(save(folder / "model", scorer=scorer))), during=during)


OF_WEIGHTS = (
    Fault("packing that lets samples see each other", 21, "packed = alone", "fail", contaminated(scorer=False)),
    Fault("architecture that hides a rule in its mask", 21, "model loads", "fail", of_model(alibi), "not supported"),
    Fault("dropout at work in training", 3, "KL to itself", "fail", loaded_with(drop_in_training)),
    Fault("a dropout module still at work", 3, "dropout", "fail", loaded_with(add_dropout), "mlp.drop"),
    Fault("tokenizer ids beyond the embeddings", 0, "vocabulary", "fail", of_model(too_many_tokens), "<|im_"),
    Fault("NaN in a weight", 0, "finite", "fail", of_model(with_nan), "up_proj"),
    Fault("two tables where the configuration says one", 0, "tied weights", "fail", of_model(half_tied)),
    Fault("added tokens without rows of their own", 0, "trained tokens", "warning", of_model(untrained_end), "<|im_end|>"),
    Fault("weights stored in an unusual format", 0, "number format", "warning", of_model(unusual_format), "float64"),
)

# ---- reward models


def reward_without_pad(folder: Path) -> Path:
    return edit(save(folder, scorer=True), "config.json", pad_token_id=None)


def reward_other_pad(folder: Path) -> Path:
    """The tokenizer pads with one token, the model skips another."""
    return edit(save(folder, scorer=True), "config.json", pad_token_id=5)


def reward_headless(folder: Path) -> Path:
    return edit_weights(save(folder, scorer=True), lambda w: w["score.weight"].zero_())


def reward_scale(folder: Path) -> Path:
    return edit(save(folder, scorer=True), "reward.json", shift=0.5, scale=0.0)


OF_REWARD_MODELS = (
    Fault("reward model with pad token = end token", 22, "reward padding", "fail", of_model(lambda f: pad_is_end(f, scorer=True))),
    Fault("reward model without a pad token", 22, "reward padding", "fail", of_model(reward_without_pad), "refuses batches"),
    Fault("reward model scored at a padded position", 22, "reward padding", "fail", of_model(reward_other_pad)),
    Fault("packing that lets a reward model see other samples", 22, "reward packing", "fail", contaminated(scorer=True)),
    Fault("reward model whose head was lost", 0, "scores differ", "fail", of_model(reward_headless)),
    Fault("reward model with scale 0", 0, "calibration", "fail", of_model(reward_scale)),
)

FAULTS: tuple[Fault, ...] = (*OF_TOKENS, *OF_TEMPLATES, *OF_TOKENIZERS, *OF_ENGINES, *OF_WEIGHTS, *OF_REWARD_MODELS)

