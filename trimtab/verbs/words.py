"""What the words of a command tell before anything that takes seconds is imported."""

from collections.abc import Sequence

from trimtab.common.errors import UserError
from trimtab.data.files.hub import is_hub
from trimtab.data.files.opening import must_exist


def look_for_files(words: Sequence[str]) -> None:
    """A mistyped file is told in a moment: what trains takes seconds to import.

    Raises:
        UserError: ``data`` or ``eval_data`` is a path that is not there.
    """
    given_words = dict(word.split("=", 1) for word in words if "=" in word)
    for key in ("data", "eval_data"):
        path = given_words.get(key, "").strip()
        if path and not path.startswith(("[", "{", "'", '"')) and path not in ("null", "~", "village") and not is_hub(path):
            must_exist(path)


def refuse_leaving_out(words: Sequence[str]) -> None:
    """``check`` and ``show`` go on behind a bad row anyway, and write nothing.

    Raises:
        UserError: they are asked to leave rows out.
    """
    for word in words:
        if word.partition("=")[0] in ("skip_bad", "left_out"):
            raise UserError(f"{word}: data check and data show only look at rows that cannot be read; data convert leaves them out")
