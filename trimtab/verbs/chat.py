"""``trimtab chat``: talk to any stage's model in the terminal."""

import functools
import sys
import time

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.data.template import Renderer
from trimtab.models.load import load_policy, load_tokenizer, max_positions, model_folder
from trimtab.records import Message, Prompt
from trimtab.sampling.engine import NativeEngine
from trimtab.sampling.protocol import LEAST_TEMPERATURE, SamplingOptions

HELP = "/new starts again, /plain switches the chat template off and on, /quit leaves"


def run(
    model: str, *, temperature: float = 1.0, greedy: bool = False, max_tokens: int = 64, seed: int | None = None, plain: bool = False
) -> None:  # fmt: skip
    """Reads lines, answers each, until end of input.

    A base model has never seen the chat template: talk to it with ``plain``.

    Raises:
        UserError: an option or the model is wrong.
    """
    if not temperature >= LEAST_TEMPERATURE:
        least = f"write a number >= {LEAST_TEMPERATURE:g}"
        raise UserError(f"--temperature {temperature:g}: {least}, or --greedy in its place for the likeliest token each time")
    folder = model_folder(model)
    policy, tokenizer = load_policy(folder), load_tokenizer(folder)
    facts = read_json(folder.parent / "run.json") if (folder.parent / "run.json").exists() else {}
    size = sum(p.numel() for p in policy.parameters()) / 1e6
    print(f"{folder}: {size:.1f}M parameters{', trained by ' + facts['verb'] if facts else ''}. {HELP}")
    if not plain and tokenizer.chat_template is None:
        plain = True
        print("No chat template, so this is a base model: it continues plain text rather than answers.")
    elif not plain and facts.get("verb") == "pretrain":
        print("This looks like a base model, which continues text rather than answers; /plain shows it as it is.")
    seed = int(time.time()) if seed is None else seed
    renderers = functools.cache(lambda plain: Renderer(tokenizer, template="plain" if plain else "chat", answers=False))
    messages: list[Message] = []
    turn = 0
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        text = line.strip()
        if not line or text == "/quit":
            return
        if text in ("/new", "/plain", "/help", ""):
            plain = not plain if text == "/plain" else plain
            messages = []
            print({"/new": "(new conversation)", "/plain": f"(plain text {'on' if plain else 'off'})"}.get(text, HELP))
            continue
        messages.append(Message("user", text))
        turn += 1
        renderer = renderers(plain)
        engine = NativeEngine(policy, renderer.end_id)
        room = max_positions(policy) - max_tokens
        while len(ids := renderer.prompt(Prompt("chat", tuple(messages)))) > room and len(messages) > 1:
            messages = messages[2:]  # the oldest turn and its answer
            print("(the beginning of the conversation no longer fits and is forgotten)")
        if len(ids) > room:
            print(f"(too long: {len(ids)} tokens, and the model has room for {max(0, room)} before an answer of {max_tokens})")
            messages = messages[:-1]
            continue
        options = SamplingOptions(max_tokens=max_tokens, temperature=temperature, greedy=greedy, seed=seed)
        answer = renderer.decode(engine.sample([ids], 1, options, [f"turn {turn}"])[0][0].token_ids)
        print(answer, flush=True)
        messages.append(Message("assistant", answer))
        if plain:
            messages = []
