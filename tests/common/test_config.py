"""Settings: what is read from YAML and the command line, and what the one line of an error says."""

import json
from enum import Enum
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, ValidationError, model_validator

from trimtab.common import yamls
from trimtab.common.config import (
    Option,
    Settings,
    commented_yaml,
    describe,
    dump,
    from_mapping,
    help_text,
    load_config,
    type_text,
)
from trimtab.common.errors import UserError


class Kind(Enum):
    FULL = "full"
    HALF = "half"


class Lora(Settings):
    rank: int = Field(0, ge=0, description="Rank of the adapters, 0 trains full weights.")
    alpha: float = Field(16.0, gt=0, description="Scale of the adapters.")


class Train(Settings):
    model: Path = Field(description="Folder of the start model.")
    reward: str | None = Field(None, description="Reward-model folder or rule.")
    batch_size: int = Field(32, ge=1, description="Trees per optimizer step.")
    lr: float = Field(1e-5, gt=0, description="Peak learning rate.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Arithmetic of the forward pass.")
    stop: tuple[str, ...] = Field(("a b", "1"), description="Texts that end a completion.")
    shares: dict[str, float] = Field({"x": 0.5}, description="Share of each source.")
    kind: Kind = Field(Kind.FULL, description="Which checkpoint is kept.")
    resume: bool = Field(True, description="Go on where an interrupted run stopped.")
    lora: Lora = Field(Lora(rank=8), description="Low-rank adapters.")

    @model_validator(mode="after")
    def check(self) -> "Train":
        if self.lora.rank > 0 and self.dtype == "bfloat16":
            raise ValueError("lora.rank > 0 needs dtype=float32")
        return self


def fails(*words: str, yaml: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_config(Train, yaml, words)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_yaml_then_words(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: base\nbatch_size: 4\nlora:\n  alpha: 3\nlora.rank: 2\nstop: [no, 007]\n")
    config = load_config(Train, path, ["batch_size=1e2", "lr=1e-4", "lora.alpha=5", "batch_size=7"])
    assert (config.model, config.batch_size, config.lr) == (Path("base"), 7, 1e-4)
    assert config.lora == Lora(rank=2, alpha=5.0)
    assert config.stop == ("no", "007")


def test_group_keeps_its_own_default_when_one_key_is_given() -> None:
    # the class says rank 0, the field says Lora(rank=8): giving alpha must not bring rank back to 0
    assert load_config(Train, None, ["model=m", "lora.alpha=2"]).lora == Lora(rank=8, alpha=2.0)
    assert load_config(Train, None, ["model=m", "lora={alpha: 2}"]).lora == Lora(rank=8, alpha=2.0)


@pytest.mark.parametrize(
    "word, value",
    [
        ("reward=2024", "2024"),
        ("reward=2024-01-01", "2024-01-01"),
        ("reward=no", "no"),
        ("reward=007", "007"),
        ("reward='null'", "null"),
        ("reward=null", None),
        ("reward=", None),
        ("reward=a: b", "a: b"),
        ("reward=@file", "@file"),
        ("reward={x", "{x"),
        ("reward=a=b", "a=b"),
        ("reward=[1]", "[1]"),
    ],
)
def test_text_needs_no_quoting(word: str, value: str | None) -> None:
    assert load_config(Train, None, ["model=m", word]).reward == value


@pytest.mark.parametrize(
    "word, texts",
    [
        ("stop=.", (".",)), ("stop=:", (":",)), ("stop=#", ("#",)), ("stop=-", ("-",)), ("stop={x", ("{x",)), ("stop=7", ("7",)),
        ("stop=,", (",",)), ("stop='a, b'", ("a, b",)), ("stop=[a,b]", ("a", "b")), ("stop=['[']", ("[",)), ("stop=[]", ()),
        ('stop=["\\n"]', ("\n",)),
    ],
)  # fmt: skip
def test_one_text_is_a_list_of_it(word: str, texts: tuple[str, ...]) -> None:
    assert load_config(Train, None, ["model=m", word]).stop == texts


@pytest.mark.parametrize(("line", "texts"), [("stop: .", (".",)), ("stop: 007", ("007",)), ("stop: 'a, b'", ("a, b",))])
def test_one_text_is_a_list_of_it_in_a_file_too(line: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: m\n{line}\n")
    assert load_config(Train, path).stop == texts
    path.write_text("model: m\nstop: a, b\n")
    assert f"{path}:2: stop is 'a, b', write [a,b]" in fails(yaml=path)
    assert from_mapping(Train, {"model": "m", "stop": "."}, "recipe").stop == (".",)


def test_unknown_keys_name_key_place_and_closest(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: base\nlora:\n\n  rnak: 2\n")
    message = fails("batch_sise=4", "rank=1", "wholly_different=1", yaml=path)
    assert f"{path}:4: unknown key 'lora.rnak', did you mean 'lora.rank'?" in message
    assert "command line: unknown key 'batch_sise', did you mean 'batch_size'?" in message
    assert "unknown key 'rank', did you mean 'lora.rank'?" in message
    assert message.endswith("unknown key 'wholly_different', --help lists the options")  # there are too many for a line


def test_a_key_of_another_library_is_told_by_its_name_here() -> None:
    message = fails("model=m", "learning_rate=1e-4", "lora_r=8", "num_generations=4")
    assert "unknown key 'learning_rate', it is 'lr' here" in message and "unknown key 'lora_r', it is 'lora.rank' here" in message
    assert "num_generations', --help lists the options" in message  # nothing here is called num_completions


def test_a_few_keys_are_listed() -> None:
    with pytest.raises(UserError, match="unknown key 'wholly_different', the keys are rank, alpha"):
        load_config(Lora, None, ["wholly_different=1"])


@pytest.mark.parametrize(
    "word, message",
    [
        ("batch_size=0", "batch_size is 0, expected whole number >= 1"),
        ("batch_size=true", "batch_size is true, expected whole number >= 1"),
        ("batch_size=2.5", "batch_size is 2.5, expected whole number >= 1"),
        ("batch_size=ten", "batch_size is 'ten', expected whole number >= 1"),
        ("batch_size=null", "batch_size is null, expected whole number >= 1"),
        ("lr=.inf", "lr is inf, expected number > 0"),
        ("lr=.nan", "lr is nan, expected number > 0"),
        ("dtype=bf16", "dtype is 'bf16', expected one of float32, bfloat16"),
        ("kind=quarter", "kind is 'quarter', expected one of full, half"),
        ("resume=1", "resume is 1, expected true or false"),
        ("stop=", "stop is null, expected list of texts"),
        ("stop=a, b", """stop is 'a, b', write [a,b] for several texts or ["a, b"] for one with a comma"""),
        ("stop=[a, {b: 1}]", "stop is ['a', {'b': 1}], expected list of texts"),
        ("shares={x: !!binary aGVsbG8=}", "shares is {'x': b'hello'}, expected mapping of texts to numbers"),
        ("shares={x: y}", "shares is {'x': 'y'}, expected mapping of texts to numbers"),
        ("lora=8", "lora is 8, but it is a group of options (lora.rank, lora.alpha)"),
        ("lora.rank=-1", "lora.rank is -1, expected whole number >= 0"),
        ("batch_size=[1,", "batch_size=[1, is not a YAML value"),
        ("lr=!!python/name:os.system x", "is not a YAML value"),
        ("batch_size", "'batch_size' is not key=value"),
    ],
)
def test_wrong_values(word: str, message: str) -> None:
    found = fails("model=m", word)
    assert found.startswith("command line: ") and message in found


def test_wrong_value_in_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: base\n# a comment\nlora:\n  rank: many\n")
    assert fails(yaml=path) == f"{path}:4: lora.rank is 'many', expected whole number >= 0"


def test_missing_key_and_all_problems_in_one_line() -> None:
    message = fails("batch_sise=4", "lr=fast", "lora.rank=-1")
    assert message.count("; ") == 3
    assert "model is missing, write model=<path> (Folder of the start model.)" in message


def test_rule_over_several_options_keeps_its_own_words() -> None:
    assert fails("model=m", "dtype=bfloat16") == "lora.rank > 0 needs dtype=float32"


@pytest.mark.parametrize(
    "text, message",
    [
        ("- a\n- b\n", ":1: a config is lines of 'key: value', this is a list"),
        ("\n\njust text\n", ":3: a config is lines of 'key: value', this is a single value"),
        ("model: m\nlr: [1, 2\n", ":3: bad YAML"),
        ("model: m\n\nmodel: n\n", ":3: bad YAML, key 'model' is given twice"),
        ("model: m\nlora:\n  rank: 1\n  rank: 2\n", ":4: bad YAML, key 'rank' is given twice"),
        ("model: m\nlr: !!python/object/apply:os.getcwd []\n", ":2: bad YAML, could not determine a constructor"),
        ("model: m\n---\nmodel: n\n", ":2: bad YAML"),
        ("model: *nowhere\n", ":1: bad YAML"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert f"{path}{message}" in fails(yaml=path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert fails(yaml=tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: no such file"
    assert "is a folder" in fails(yaml=tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9\n")
    assert "latin.yaml: not UTF-8 text" in fails(yaml=tmp_path / "latin.yaml")


def test_empty_file_and_empty_group_give_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text in ("", "# only a comment\n", "lora:\n", "lora: {}\n"):
        path.write_text(text)
        assert load_config(Train, path, ["model=m"]) == Train(model=Path("m"))


def test_describe_lists_each_option_once() -> None:
    options = describe(Train)
    assert options[0] == Option("model", "path", None, "Folder of the start model.", required=True)
    assert Option("reward", "text or null", None, "Reward-model folder or rule.") in options
    assert Option("lora.rank", "whole number >= 0", 8, "Rank of the adapters, 0 trains full weights.") in options
    assert [o.name for o in options] == [
        *("model", "reward", "batch_size", "lr", "dtype", "stop", "shares", "kind", "resume"),
        *("lora.rank", "lora.alpha"),
    ]


def test_help_has_every_option_and_keeps_its_width() -> None:
    text = help_text(Train, width=60)
    for option in describe(Train):
        assert f"  {option.name}={option.default_text}" in text
        assert option.description.split()[-1] in text
    assert max(map(len, text.splitlines())) <= 60


def test_commented_yaml_reads_back_as_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(commented_yaml(Train))
    assert load_config(Train, path, ["model=m"]) == Train(model=Path("m"))
    assert "model is missing" in fails(yaml=path)
    for option in describe(Train):
        assert option.description in path.read_text()


def test_options_that_mean_nothing_to_a_verb_are_read_and_not_shown() -> None:
    class Without(Train):
        idle: ClassVar[tuple[str, ...]] = ("lr",)

    assert "lr=" in help_text(Train) and "lr=" not in help_text(Without) and "\nlr:" in commented_yaml(Train)
    assert "\nlr:" not in commented_yaml(Without) and load_config(Without, None, ["model=m", "lr=0.5"]).lr == 0.5


def test_dump_is_json_and_reads_back() -> None:
    config = load_config(Train, None, ["model=m", "kind=half", "stop=[x]"])
    values = json.loads(json.dumps(dump(config)))
    assert values["kind"] == "half" and values["lora"] == {"rank": 8, "alpha": 16.0}
    assert from_mapping(Train, values, "run.json") == config
    with pytest.raises(UserError, match=r"^run.json: unknown key 'lora.rnk', did you mean 'lora.rank'\?$"):
        from_mapping(Train, {**values, "lora": {"rnk": 1}}, "run.json")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Lora().rank = 3  # type: ignore[misc]


def test_every_option_must_be_described_and_no_group_optional() -> None:
    with pytest.raises(AssertionError, match="Bare.x: write Field"):

        class Bare(Settings):
            x: int = 1

    with pytest.raises(AssertionError, match="cannot be optional"):

        class Optional(Settings):
            lora: Lora | None = Field(None, description="Adapters.")


def test_type_text_of_unions_and_lists() -> None:
    class Odd(Settings):
        a: int | Literal["auto"] | None = Field(None, description="A.")
        b: list[int] = Field([1], min_length=1, description="B.")
        c: tuple[float, float] = Field((0.9, 0.99), description="C.")

    assert [type_text(f) for f in Odd.model_fields.values()] == [
        "whole number or auto or null", "list of whole numbers (at least 1)", "list of (number, number)",
    ]  # fmt: skip
    assert load_config(Odd, None, ["a=auto", "c=[0.5, 1]"]) == Odd(a="auto", c=(0.5, 1.0))
    with pytest.raises(UserError, match=r"^command line: a is 'autp', expected whole number or auto or null$"):
        load_config(Odd, None, ["a=autp"])


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co", "Zl", "Zp"]))
NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.recursive(st.none() | NUMBERS | PRINTABLE, st.lists))
def test_a_value_on_one_line_reads_back(value: object) -> None:
    text = yamls.one_line(value)
    assert "\n" not in text
    back = yamls.parse_value(text, "here")
    assert back == value and type(back) is type(value)


def test_core_scalars() -> None:
    words = "[1e-5, 010, 0x1F, yes, 1:30, 2024-01-01, ~, -.5, 1_000, -3]"
    assert yamls.parse_value(words, "here") == [1e-5, 10, 31, "yes", "1:30", "2024-01-01", None, -0.5, "1_000", -3]
