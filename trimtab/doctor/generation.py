"""What draws answers: the defaults that come with the model, and whether the engine's logprobs are the trainer's."""

import math
from collections.abc import Sized

import numpy as np

from trimtab.doctor.check import Group, Number, Result, fail, judged, ok, small, warning
from trimtab.doctor.draws import Draws, Values
from trimtab.doctor.logprobs import TOLERANCE
from trimtab.doctor.subject import Subject

GROUP = Group("Sampling")
# An engine in bf16 (vLLM) is some thousandths of a nat from the trainer on average; one at a wrong temperature, tenths.
MEAN_TOLERANCE = {"native": 1e-4, "vllm": 2e-2}
MOST_TOLERANCE = {"native": TOLERANCE, "vllm": math.inf}
SURPRISE = 5.0  # standard errors
# Options of generate that change the distribution, and the value at which they do not.
NEUTRAL = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "top_h": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "min_length": 0, "min_new_tokens": 0, "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "sequence_bias": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0, "penalty_alpha": 0.0, "watermarking_config": None,
}  # fmt: skip


@GROUP.check(
    "sampling defaults",
    means="RL needs samples of the policy itself. Programs that draw with the model's own defaults (generate, vLLM) draw from another "
    "distribution: KL turns negative, ratios carry the cut-off mass, a minimum length forbids the end token.",
    do="In RL, draw with temperature 1, top_k 0, top_p 1 and no penalties. trimtab does, whatever this file says; for chat they may stay.",
)
def sampling_defaults(s: Subject) -> Result:
    given = {name: getattr(s.generation, name, None) for name in NEUTRAL}
    bent = {n: v for n, v in given.items() if v is not None and v != NEUTRAL[n] and not (isinstance(v, Sized) and not len(v))}
    if bent:
        shown = ", ".join(f"{name}={value}" for name, value in bent.items())
        return warning(f"generation_config.json bends the distribution: {shown}", options=len(bent))
    note = " (generate with do_sample=True itself takes top_k=50 where none is given)" if s.generation.top_k is None else ""
    return ok(f"nothing that bends the distribution{note}", options=0)


@GROUP.check(
    "engine = trainer",
    means="RL's ratios are trainer over engine. If the two give the same token different logprobs, every update is off policy from the "
    "first step: a wrong temperature, cut-off mass (top-k, top-p) or old weights in the engine look like learning.",
    do="Give the engine temperature 1, top_k 0, top_p 1 and the trainer's weights; compare again.",
)
def engine_is_trainer(s: Subject) -> Result:
    found, mean_most, most = s.draws, MEAN_TOLERANCE[s.config.engine], MOST_TOLERANCE[s.config.engine]
    engine, own, trainer = found.drawn_logprobs, found.policy_logprobs, found.trainer_logprobs()
    if not len(engine) == len(own) == len(trainer):
        return fail(f"the engine gives {len(engine)} logprobs for {len(trainer)} tokens")
    off = np.abs(engine - trainer)
    numbers: dict[str, Number] = {"mean": float(off.mean()), "max": float(off.max()), "tokens": len(off)}
    said = f"{len(off)} drawn tokens differ by {small(off.mean())} nats on average, {small(off.max())} at most"
    if not (off.mean() <= mean_most and off.max() <= most):
        return fail(f"{said}; {_cause(found, engine, trainer)}").also(numbers)
    if not np.abs(own - trainer).mean() <= mean_most:
        return fail(f"{said}, but the logprobs that it reports as the policy's by {np.abs(own - trainer).mean():.1e}").also(numbers)
    return ok(said).also(numbers)


def _cause(found: Draws, engine: Values, trainer: Values) -> str:
    """What the differences look like."""
    if not np.isfinite(engine).all():
        return "the engine's are not numbers"
    grid = np.exp(np.linspace(np.log(0.2), np.log(5.0), 81))
    errors = [float(np.abs(engine - found.trainer_logprobs(float(t))).mean()) for t in grid]
    best = int(np.argmin(errors))
    if errors[best] < 0.2 * np.abs(engine - trainer).mean():
        return f"the engine draws at temperature {grid[best]:.2f}, not 1"
    if (engine >= trainer - TOLERANCE).all():
        cut, deepest = 1 - float(np.exp(trainer - engine).mean()), int(found.trainer().rank.max()) + 1
        return f"the engine cuts off {100 * cut:.0f} % of the probability (top_k or top_p: no token below rank {deepest} was drawn)"
    return "no temperature and no cut-off explains it: other weights, another number format or other positions"


@GROUP.check(
    "engine's draws",
    means="Logprobs may agree while the draws do not: tokens that are likelier on average than the policy's own entropy says come from a "
    "sharpened or cut-off distribution, and rare tokens are never explored.",
    do="Switch top_k, top_p, min_p and penalties off in the engine.",
)
def engine_draws_the_policy(s: Subject) -> Result:
    scores = s.draws.trainer()
    # The mean of -log p of a drawn token is the entropy, whatever was drawn before it: the differences are uncorrelated.
    surprise = (-scores.logprobs - scores.entropy).double().cpu().numpy()
    mean, error = float(surprise.mean()), float(surprise.std() / np.sqrt(len(surprise)))
    z = mean / error if error > 0 else 0.0
    side = "likelier" if mean < 0 else "less likely"
    found = f"{len(surprise)} drawn tokens are {abs(mean):.3f} nats {side} than the policy's entropy ({z:+.1f} standard errors)"
    return judged(found, bad=False, grave=abs(z) > SURPRISE, surprise=mean, z=z, tokens=len(surprise))


@GROUP.check(
    "sampled ids",
    means="An answer that ended has one end token, its last; and ids that its text would not be encoded to again are why answers travel as "
    "ids.",
    do="Never encode a sampled answer's text again for training: keep its token_ids (trimtab sample writes them).",
)
def sampled_ids(s: Subject) -> Result:
    answers, end = s.draws.answers, s.answer_end
    rows = s.policy.get_input_embeddings().num_embeddings
    for a in answers:
        if not a.token_ids or not all(0 <= i < rows for i in a.token_ids):
            return fail("the engine drew no token, or one that the model does not know")
        if end in a.token_ids[:-1] or (a.stop == "end") != (a.token_ids[-1] == end):
            return fail(f"an answer that stopped by '{a.stop}' has {s.named(end)} in the wrong place, or not at all")
    bare = [[i for i in a.token_ids if i != end] for a in answers]
    changed = sum(s.encode(s.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) != ids for ids in bare)
    return ok(
        f"{len(answers)} answers, end tokens where they belong; {changed} would have other ids if their text were encoded again",
        answers=len(answers), changed=changed,
    )  # fmt: skip
