"""Reading a file for a verb: what became of its rows is said in a line, where there is something to say."""

from typing import Any

from trimtab.data.formats.base import ReadSettings
from trimtab.data.formats.read import Kind, left_out_file, read


def read_aloud(verb: str, path: str, kind: Kind | None, settings: ReadSettings) -> list[Any]:
    """The records of one kind (None: of any), after one line where the file is in another format or has rows left out.

    Raises:
        UserError: a row cannot be read and ``settings.skip_bad`` is off.
    """
    found = read(path, kind, settings)
    account = found.account
    if account.skipped or account.notes or set(account.formats) - {"native"}:
        print("\n".join([*account.problems(), *account.remarks(), f"{verb}: {path}: {account}"]))
    if account.bad:
        print(f"{verb}: what was left out is in {left_out_file(path, settings)}")
    return found.records
