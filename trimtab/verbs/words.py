"""What the words of a command tell before anything that takes seconds is imported."""

from collections.abc import Sequence

from trimtab.common.errors import UserError
from trimtab.common.files import refuse_missing_folder
from trimtab.data.files.hub import is_hub
from trimtab.data.files.opening import must_exist

NO_PATHS = ("", "~", "null", "Null", "NULL")  # what YAML reads as nothing


def look_for_files(words: Sequence[str]) -> None:
    """A mistyped file is told in a moment: what trains takes seconds to import.

    Raises:
        UserError: ``model``, ``data`` or ``eval_data`` is a path that is not there.
    """
    values = {key.strip(): value.strip() for key, equals, value in (word.partition("=") for word in words) if equals}
    paths = {key: path for key, path in values.items() if path not in NO_PATHS and not path.startswith(tuple("[{'\""))}
    refuse_missing_folder(paths.get("model", ""))
    for key in ("data", "eval_data"):
        if key in paths and not is_hub(paths[key]):
            must_exist(paths[key])


def refuse_leaving_out(words: Sequence[str]) -> None:
    """``check`` and ``show`` go on behind a bad row anyway, and write nothing.

    Raises:
        UserError: they are asked to leave rows out.
    """
    for word in words:
        if word.partition("=")[0] in ("skip_bad", "left_out"):
            raise UserError(f"{word}: data check and data show only look at rows that cannot be read; data convert leaves them out")
