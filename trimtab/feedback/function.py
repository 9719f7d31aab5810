"""A reward that somebody wrote: a Python function of (prompt, text), named by its module or its file."""

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from trimtab.common.errors import UserError
from trimtab.feedback.protocol import Rule
from trimtab.records import Prompt

DEFAULT_NAME = "reward"
T = TypeVar("T")


def function_file(name: str) -> tuple[Path, str] | None:
    """``FILE.py:function``, or ``FILE.py`` with a function called ``reward``, as (file, function); None for other names."""
    file, colon, function = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    return (Path(file), function or DEFAULT_NAME) if file.endswith(".py") else None


def function_module(name: str) -> tuple[str, str] | None:
    """``package.module:function`` as (module, function); None for names of another form."""
    module, colon, function = name.partition(":")
    return (module, function) if colon and all(part.isidentifier() for part in [*module.split("."), function]) else None


def named_function(name: str) -> Rule | None:
    """The reward that ``FILE.py``, ``FILE.py:function`` or ``module:function`` means; None for names of another form.

    Raises:
        UserError: there is no such file, module or function, or it cannot be run.
    """
    file, module = function_file(name), function_module(name)
    if file:
        return checked(name, _run(name, lambda: _from_file(file[0])), file[1])
    if module:
        return checked(name, _run(name, lambda: _from_path(module[0])), module[1])
    return None


def checked(name: str, module: ModuleType, function: str) -> Rule:
    """``module``'s function as feedback whose answers are looked at: they must be finite numbers.

    Raises:
        UserError: the module has no such function; later, the function fails or returns something else.
    """
    found: Callable[[Prompt, str], float] | None = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"reward {name!r}: has no function {function!r}; define it as def {function}(prompt, text) -> float")

    def score(prompt: Prompt, text: str) -> float:
        value = _run(f"{name} on prompt {prompt.id}", lambda: found(prompt, text))
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"reward {name} on prompt {prompt.id}: returned {value!r:.60}; it must return a finite number")
        return number

    return Rule(score)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"reward {str(path)!r}: no such file")
    spec = importlib.util.spec_from_file_location(f"reward_of_{path.stem}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _from_path(module: str) -> ModuleType:
    """Imports it as ``python`` in this folder would; the installed command does not look here by itself."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(os.getcwd())


def _run(name: str, call: Callable[[], T]) -> T:
    """``call()``; whatever somebody else's code raises is told in one line."""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"reward {name}: {type(error).__name__}: {' '.join(str(error).split())}") from error
