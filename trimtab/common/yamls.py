"""YAML as people mean it: ``1e-5`` is a number, ``no`` and ``2024-01-01`` are text, no key is given twice.

The scalars are YAML 1.2's core schema on top of PyYAML's ``SafeLoader`` (which knows 1.1); merge keys (``<<``) are not
read. Errors are one line with file and line number.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from trimtab.common.errors import UserError

T = TypeVar("T")
NULL_TAG = "tag:yaml.org,2002:null"
SCALARS = {  # tag -> (pattern, possible first characters)
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}


class CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema, and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        refuse_duplicates(node)
        return super().construct_mapping(node, deep)


for _tag, (_pattern, _first) in SCALARS.items():
    _whole = re.compile(f"^(?:{_pattern})$", re.ASCII)
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, list(_first))


def _core_int(loader: CoreLoader, node: yaml.ScalarNode) -> int:
    # SafeLoader's own constructor reads 010 as octal eight and 1:30 as base 60, both gone from YAML 1.2
    text = loader.construct_scalar(node)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


CoreLoader.add_constructor("tag:yaml.org,2002:int", _core_int)


def read_yaml(path: Path | str) -> Any:
    """The one document of a YAML file as plain values (None when it is empty).

    Raises:
        UserError: the file is missing, is not UTF-8 text or is not YAML.
    """
    text = read_text(path)
    return in_one_line(str(path), lambda: yaml.load(text, Loader=CoreLoader))


def parse_value(text: str, where: str) -> Any:
    """The value that ``text`` is, as behind ``key=`` on the command line.

    Raises:
        UserError: it is not YAML; ``where`` opens the message.
    """
    return in_one_line(where, lambda: yaml.load(text, Loader=CoreLoader), lines=False)


def one_line(value: Any) -> str:
    """A JSON value on one line, as ``parse_value`` reads it back; text is left bare where that is safe."""
    if isinstance(value, str) and value.isprintable():
        try:
            if yaml.load(value, Loader=CoreLoader) == value:
                return value
        except yaml.YAMLError:
            pass
    return json.dumps(value, ensure_ascii=False)


def is_null(node: yaml.Node) -> bool:
    """Whether a node is ``null``, ``~`` or nothing at all."""
    return node.tag == NULL_TAG


def refuse_duplicates(node: yaml.MappingNode) -> None:
    """Raises a YAMLError with the line where a key comes a second time: YAML's last-one-wins hides a slip."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)


def read_text(path: Path | str) -> str:
    """A text file's content.

    Raises:
        UserError: it is missing, a folder, unreadable or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, give a file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def in_one_line(where: str, read: Callable[[], T], *, lines: bool = True) -> T:
    """``read()``, with YAML's errors as one line that opens with ``where`` (and the line number, for a file).

    Raises:
        UserError: ``read`` raised a YAMLError, or a scalar that looks like a number and is none.
    """
    try:
        return read()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if lines and error.problem_mark else ""
        raise UserError(f"{where}{line}: bad YAML, {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: bad YAML ({' '.join(str(error).split())})") from None
