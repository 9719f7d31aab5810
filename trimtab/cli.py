"""The command line: one verb per task. Reads settings and hands them to a method's ``build`` or a verb's ``run``.

Training verbs, ``sample``, ``rank`` and ``eval`` take an optional YAML file and ``key=value`` words. Exit status 0: done;
1: a run failed; 2: something the user can mend, told in one line.
"""

import ast
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from trimtab.common.config import Settings, Verb, commented_yaml, describe, help_text, load_config
from trimtab.common.errors import RunFailed, UserError
from trimtab.common.files import check_writable, write_text
from trimtab.common.memory import keep_freed_memory
from trimtab.methods import NOT_METHODS
from trimtab.verbs.words import look_for_files, refuse_leaving_out

app = typer.Typer(
    name="trimtab", add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="From a next-token predictor to an assistant people prefer: the whole loop, one verb per task.",
)  # fmt: skip
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at, check and convert data files.")
eval_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure models against each other.")
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
label_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The labelling app: people write, rate, rank and compare.")
app.add_typer(label_app, name="label")

# What typer raises for a misspelt verb or option; it has no public name of its own.
UsageProblem: type[Any] = typer.BadParameter.__mro__[2]

Words = Annotated[list[str] | None, typer.Argument(help="[CONFIG.yaml] key=value ...", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the file that is there")]


def verbs() -> dict[str, Verb]:
    """Every verb that takes settings, by name: the methods and the others. Recipes are made of these."""
    from trimtab.methods.build import methods, run as run_method
    from trimtab.verbs import curate, rank, sample, village, winrate
    from trimtab.verbs.feedback import resolve_feedback

    def training(name: str) -> Callable[[Any], Path]:
        return lambda config: run_method(name, config, resolve_feedback)

    out = {name: Verb(module.Config, training(name)) for name, module in methods().items()}
    out |= {
        name: Verb(module.Config, module.run)
        for name, module in (("sample", sample), ("rank", rank), ("village", village), ("curate", curate))
    }
    return out | {"eval": Verb(winrate.Config, winrate.run)}


def read_config(settings: type[Settings], words: Sequence[str] | None) -> Any:
    """``[CONFIG.yaml] key=value ...`` -> settings."""
    words = list(words or [])
    path = words.pop(0) if words and "=" not in words[0] else None
    return load_config(settings, path, words)


def given(**flags: str | bool | None) -> list[str]:
    """The flags that were given, as ``key=value`` words."""
    return [f"{name}={value}" for name, value in flags.items() if value not in (None, False)]


class OptionsCommand(TyperCommand):
    """A verb whose help ends with every option of its settings; they are imported only when the help is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes ``key=default  sentence`` of each option."""
        formatter.write(f"\nOptions as key=value words:\n{help_text(settings_of(self.name or ''))}\n")


def settings_of(command: str) -> type[Settings]:
    """The settings behind a command's ``key=value`` words."""
    if command == "show":
        from trimtab.verbs.show import Config as ShowSettings

        return ShowSettings
    if command in ("check", "convert"):
        from trimtab.data.convert import ConvertSettings
        from trimtab.data.formats import LookSettings

        return ConvertSettings if command == "convert" else LookSettings
    if command == "doctor":
        from trimtab.doctor.settings import Config

        return Config
    if command in LABEL_VERBS:
        return _label(command)[0]
    return verbs()["eval" if command == "winrate" else command].settings


CALLED_OTHERWISE = {("orpo", "beta"): "odds_weight"}  # TRL's word for it, which is another thing elsewhere


def _training_commands() -> None:
    """Adds one verb for each file in ``methods``; its first line is the summary."""
    folder = Path(__file__).parent / "methods"
    for path in sorted(folder.glob("*.py")):
        if path.stem not in ("__init__", *NOT_METHODS):
            summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
            app.command(path.stem, cls=OptionsCommand, help=summary)(_training_command(path.stem))


def _training_command(name: str) -> Callable[[Words], None]:
    def command(words: Words = None) -> None:
        look_for_files(words or [])
        verb = verbs()[name]
        refuse_others_options(name, words or [])
        warn_of(Path(str(verb.run(read_config(verb.settings, words)))))

    return command


def warn_of(folder: Path) -> None:
    """What the run's report will warn of, said where it ends: a model can be lost although every number was finite."""
    from trimtab.report.checks import run_warnings
    from trimtab.report.read import read_run

    for sentence in run_warnings(read_run(folder, [])):
        print(f"warning: {sentence}")


def refuse_others_options(name: str, words: Sequence[str]) -> None:
    """Words whose key this training verb lacks and others have: told with whose it is (a value head for DPO, a reference for SimPO).

    Raises:
        UserError: there are such words; all are named.
    """
    from trimtab.methods.build import methods

    options = {method: {option.name for option in describe(module.Config)} for method, module in methods().items()}
    refused = []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "loss" and key in options[name] and value in options:
            raise UserError(f"{word}: {value} is a verb of its own: trimtab {value}")
        owners = [method for method, known in options.items() if key in known]
        if equals and owners and key not in options[name]:
            ours = CALLED_OTHERWISE.get((name, key))
            mend = f"{name} calls its own {ours}" if ours else f"{name} has nothing like it, leave it out"
            refused.append(f"{key}= is an option of {', '.join(owners)}; {mend}")
    if refused:
        raise UserError("; ".join(refused))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="seed of labelers, sampling and training")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="two and a half minutes instead of nine, with worse models")] = False,
) -> None:
    """The whole loop on the village: base, SFT, rankings, reward model, DPO, PPO, evaluation, report."""
    words = [f"seed={seed}", *(["size=quick"] if quick else [])]
    _recipe("village", out, words)


@app.command()
def run(
    recipe: str, words: Words = None, out: Annotated[Path | None, typer.Option(help="folder of the run")] = None
) -> None:
    """A recipe's stages; finished ones are skipped, an interrupted one goes on."""
    _recipe(recipe, out or Path("runs") / Path(recipe).stem, list(words or []))


def _recipe(name: str, out: Path, words: list[str]) -> None:
    from trimtab.recipes.recipe import find_recipe
    from trimtab.recipes.runner import run_recipe
    from trimtab.report import write_report

    run_recipe(find_recipe(name), out, words, verbs())
    for result in out.glob("evaluation/results.json"):  # what the recipe concluded, beside its report
        write_text(out / "results.json", result.read_text(encoding="utf-8"))
    print(f"report: {write_report(out).resolve()}")


@app.command(cls=OptionsCommand)
def sample(
    model: str, prompts: str, words: Words = None,
    k: Annotated[str | None, typer.Option("-k", help="num_completions=: a number or a range like 4..9")] = None,
    o: Annotated[str | None, typer.Option("-o", help="out=: file to write")] = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """K answers of a model to each prompt of a file."""
    from trimtab.verbs import sample as verb

    flags = given(model=model, data=prompts, num_completions=k, out=o, overwrite=overwrite)
    print(verb.run(read_config(verb.Config, [*(words or []), *flags])))


@app.command(cls=OptionsCommand)
def rank(
    file: str, words: Words = None,
    by: Annotated[str | None, typer.Option(help="village (its labelers), gold (its judge) or reward:DIR")] = None,
    o: Annotated[str | None, typer.Option("-o", help="out=: file to write")] = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Who says which of the K answers is better."""
    from trimtab.verbs import rank as verb

    print(verb.run(read_config(verb.Config, [*(words or []), *given(data=file, by=by, out=o, overwrite=overwrite)])))


@app.command()
def score(
    model: str, file: str, o: Annotated[str, typer.Option("-o", help="file to write")] = "scores.jsonl", overwrite: Overwrite = False
) -> None:  # fmt: skip
    """A reward model's score of every completion of rankings, answers or demonstrations: (plain score - shift) / scale."""
    from trimtab.verbs.score import run_score

    print(run_score(model, file, o, overwrite=overwrite))


@app.command()
def logprobs(
    model: str, file: str, o: Annotated[str, typer.Option("-o", help="file to write")] = "logprobs.jsonl", overwrite: Overwrite = False
) -> None:  # fmt: skip
    """Sum of token logprobs of every completion of rankings, answers or demonstrations, end token included, and its number of tokens."""
    from trimtab.verbs.score import run_logprobs

    print(run_logprobs(model, file, o, overwrite=overwrite))


@app.command()
def chat(
    model: str, temperature: float = 1.0, max_tokens: int = 64, seed: int | None = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="always the likeliest token")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="bare text without the chat template: for a base model")] = False,
) -> None:  # fmt: skip
    """Talk to any stage's model in the terminal."""
    from trimtab.verbs import chat as verb

    verb.run(model, temperature=temperature, greedy=greedy, max_tokens=max_tokens, seed=seed, plain=plain)


@app.command(cls=OptionsCommand)
def doctor(
    model: str, words: Annotated[list[str] | None, typer.Argument(help="[DATA] key=value ...", show_default=False)] = None,
    o: Annotated[list[str] | None, typer.Option("-o", help="out=: file to write as well, .json or .html; may be given twice")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the files that are there")] = False,
) -> None:  # fmt: skip
    """One page of checks on a model and a data file: what was found, what it means, what to do. Exit status 1 if one fails."""
    words = list(words or [])
    data = words.pop(0) if words and "=" not in words[0] else None
    flags = given(model=model, data=data, out=json.dumps(o) if o else None, overwrite=overwrite)
    look_for_files([*words, *flags])
    from trimtab.doctor.run import run as examine
    from trimtab.doctor.settings import Config

    status = examine(load_config(Config, None, [*words, *flags])).exit_status
    if status:
        raise typer.Exit(status)


@app.command()
def report(run: Path) -> None:
    """A run's or recipe's folder -> report.html in it."""
    from trimtab.report import write_report

    print(write_report(run))


@app.command()
def compare(
    runs: list[Path], o: Annotated[Path, typer.Option("-o", help="page to write")] = Path("compare.html"), overwrite: Overwrite = False
) -> None:  # fmt: skip
    """Several runs on one page."""
    from trimtab.report import write_comparison

    check_writable(o, overwrite=overwrite)
    print(write_comparison(runs, o))


@app.command()
def config(verb: str) -> None:
    """A full YAML of a verb's options, each with its sentence."""
    known = verbs()
    if verb not in known:
        raise UserError(f"no verb '{verb}' with a config; write one of {', '.join(sorted(known))}")
    print(commented_yaml(known[verb].settings), end="")


@app.command(cls=OptionsCommand)
def curate(
    words: Annotated[list[str] | None, typer.Argument(help="FILE... [CONFIG.yaml] key=value ...", show_default=False)] = None,
    o: Annotated[str | None, typer.Option("-o", help="out=: folder to write to")] = None,
) -> None:
    """Raw prompts -> train, validation and test by user: personal data, duplicates, limits, use cases, a data card."""
    from trimtab.verbs import curate as verb

    files, options = verb.sorted_words(words or [])
    verb.run(read_config(verb.Config, [*options, *given(data=json.dumps(files) if files else None, out=o)]))


@app.command(cls=OptionsCommand)
def village(words: Words = None) -> None:
    """The embedded world as files: prompts, demonstrations, base text."""
    from trimtab.verbs import village as verb

    print(verb.run(read_config(verb.Config, words)))


@eval_app.command(cls=OptionsCommand)
def winrate(words: Words = None) -> None:
    """Several models' answers to the same prompts, by a judge they were not trained on."""
    from trimtab.verbs import winrate as verb

    verb.run(read_config(verb.Config, words))


@data_app.command(cls=OptionsCommand)
def show(
    file: str, words: Words = None,
    model: Annotated[str | None, typer.Option(help="model=: a model whose template and tokens to show")] = None,
    limit: Annotated[str | None, typer.Option(help="limit=: samples to show")] = None,
    chat_template: Annotated[str | None, typer.Option(help="chat_template=: file with a chat template (Jinja)")] = None,
    max_length: Annotated[str | None, typer.Option(help="max_length=: longest record that is trained on, tokens")] = None,
    o: Annotated[str | None, typer.Option("-o", help="out=: HTML file to write instead of printing")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Counts, lengths and samples of a file (or of the village); with a model, every record is made ready for training and verified."""
    if file == "village":
        from rich.console import Console

        from trimtab.village import summary

        Console().print_json(data=summary())
        return
    from trimtab.verbs import show as verb

    refuse_leaving_out(words or [])
    flags = given(model=model, limit=limit, chat_template=chat_template, max_length=max_length, out=o, overwrite=overwrite)
    verb.run(file, load_config(verb.Config, None, [*(words or []), *flags]))


@data_app.command(cls=OptionsCommand)
def check(file: str, words: Words = None) -> None:
    """Reads every row, says which format it has, and lists what is wrong: the first 20 and a count."""
    from trimtab.data.convert import check_file
    from trimtab.data.formats import LookSettings, only_looking

    refuse_leaving_out(words or [])
    account = check_file(file, only_looking(load_config(LookSettings, None, words or [])))
    print("\n".join([*account.problems(), *account.remarks(), f"{file}: {account}"]))
    if account.bad:
        raise typer.Exit(2)


@data_app.command(cls=OptionsCommand)
def convert(
    file: str, words: Words = None, o: Annotated[str, typer.Option("-o", help="file to write")] = "records.jsonl",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out rows that cannot be read: FILE.left-out.jsonl")] = False,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Any format that is read -> native records or TRL's rows. Say here what a file does not: ranks.best=high, fields.prompt=question."""
    from trimtab.data.convert import ConvertSettings, convert_file, left_out_of

    flags = [name for name, value in (("skip_bad=true", skip_bad), ("overwrite=true", overwrite)) if value]
    settings = load_config(ConvertSettings, None, [*(words or []), *flags])
    account = convert_file(file, o, settings)
    left_out = left_out_of(file, o, settings)
    said = [f"left out: {left_out}" if settings.skip_bad else f"(--skip-bad writes what was left out to {left_out})"]
    print("\n".join([*account.problems(), *account.remarks(), f"{file}: {account}", *(said if account.skipped else []), f"written: {o}"]))


# name -> the words that stand first, and what it does; its options and function are in verbs/label.py (`next`: verbs/label_next.py).
LABEL_VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "serve": (("database",), "Runs the app; the first start prints a one-time link for the first admin."),
    "add": (("database", "data"), "A file of prompts or answers -> tasks of a project."),
    "export": (("database",), "Labels -> files that trimtab sft, reward and dpo take as they are."),
    "agreement": (("database",), "How alike people label: raw, alpha, AC1, each labeler, alarms."),
    "next": (("database",), "Orders the open tasks by what a reward model knows least: by=reward:DIR."),
    "user": (("database", "name"), "A new account, or a new one-time link for an old one."),
    "backup": (("database", "out"), "A copy of an SQLite database while it is in use."),
}


def _label(name: str) -> tuple[type[Settings], Callable[[Any], Any]]:
    """A verb's settings and function.

    Raises:
        UserError: the packages of the extra are not installed.
    """
    try:
        from trimtab.verbs import label as verb
    except ModuleNotFoundError as error:
        raise UserError(f"the labelling app needs {error.name}: pip install 'trimtab[label]'") from None
    if name == "next":
        from trimtab.verbs import label_next

        return label_next.Next, label_next.run
    found: dict[str, tuple[type[Settings], Callable[[Any], Any]]] = {
        "serve": (verb.Serve, verb.serve), "add": (verb.Add, verb.add), "export": (verb.Export, verb.export),
        "agreement": (verb.Agreement, verb.agreement), "user": (verb.Person, verb.user), "backup": (verb.Backup, verb.backup),
    }  # fmt: skip
    return found[name]


def _label_commands() -> None:
    for name, (first, summary) in LABEL_VERBS.items():
        label_app.command(name, cls=OptionsCommand, help=f"{summary} [{' '.join(w.upper() for w in first)}] key=value ...")(
            _label_command(name, first)
        )


def _label_command(name: str, first: tuple[str, ...]) -> Callable[..., None]:
    def run_words(words: Words, **flags: str | bool | None) -> None:
        given_words = [*(words or []), *given(**flags)]
        for i, key in enumerate(first):
            if i < len(given_words) and "=" not in given_words[i].split("://")[0]:
                given_words[i] = f"{key}={given_words[i]}"
        settings, run = _label(name)
        if (said := run(load_config(settings, None, given_words))) is not None:
            print(said)

    def chooses(words: Words = None, by: Annotated[str | None, typer.Option(help="by=: reward:DIR, or mean:A,B")] = None) -> None:
        run_words(words, by=by)

    def exports(
        words: Words = None, o: Annotated[str | None, typer.Option("-o", help="out=: where to write")] = None,
        overwrite: Overwrite = False,
    ) -> None:  # fmt: skip
        run_words(words, out=o, overwrite=overwrite)

    def writes(words: Words = None, o: Annotated[str | None, typer.Option("-o", help="out=: where to write")] = None) -> None:
        run_words(words, out=o)

    def plain(words: Words = None) -> None:
        run_words(words)

    special: dict[str, Callable[..., None]] = {"next": chooses, "export": exports, "backup": writes}
    return special.get(name, plain)


def _usage_hint(error: Any) -> str:
    """What to write for an option that a verb may have as a word, ``model=`` for ``--model``; else where the verbs are listed."""
    option, command = getattr(error, "option_name", ""), getattr(getattr(error, "ctx", None), "command", None)
    key = option.lstrip("-").replace("-", "_")
    if not key or not isinstance(command, OptionsCommand):
        return "trimtab --help lists the verbs"
    if command.name in ("check", "show") and key == "skip_bad":
        return "it only looks at rows that cannot be read; data convert leaves them out"
    return f"options are words here: {key}=VALUE, and --help lists them"


_training_commands()
_label_commands()


STOPPED = 130  # typer's exit status after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    keep_freed_memory()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        status = app(
            args=list(arguments) if arguments is not None else None, standalone_mode=False, prog_name="trimtab"
        )
    except UserError as error:
        print("\n".join([*error.details, f"trimtab: {error}"]), file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
    except UsageProblem as error:
        if getattr(error, "possibilities", None) == ["--help"]:  # of a verb whose options are words
            error.possibilities = None
        print(f"trimtab: {error.format_message()} ({_usage_hint(error)})", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("trimtab: interrupted", file=sys.stderr)
        return 2
    except typer.Exit as stop:
        return stop.exit_code
    if status == STOPPED:
        print("trimtab: interrupted; the same command begins again", file=sys.stderr)
    return status if isinstance(status, int) else 0
