"""Where a verb that writes one file writes it: a file, or a run folder that says what was run.

A file that is there already is not replaced unless ``overwrite`` says so; a run folder never is: what is done in it is kept.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.common.config import Settings, defaults_of, dump
from trimtab.common.errors import UserError
from trimtab.common.files import check_writable
from trimtab.training.folder import RunFolder

FILES = (".jsonl", ".gz", ".json")
OVERWRITE_SENTENCE = "replace the file out= where there is one; a run's folder is never replaced"


@dataclass
class Output:
    """``path`` is the file to write; ``done`` says that this very run has written it already."""

    path: Path
    done: bool = False


@contextlib.contextmanager
def open_output(
    out: str, verb: str, config: Settings, name: str, *, overwrite: bool = False, inputs: Sequence[str] = (),
    parents: Sequence[str] = (),
) -> Iterator[Output]:  # fmt: skip
    """``out`` itself when it is a file name, else ``out/name`` in a run folder that is begun here and ended with the block.

    Raises:
        UserError: the file is there and ``overwrite`` is not set, or it is set for a folder; the place cannot be written.
    """
    if out.endswith(FILES):
        if not out.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(f"{out}: records are written as .jsonl or .jsonl.gz; choose such a name, or a folder")
        check_writable(out, overwrite=overwrite)
        yield Output(Path(out))
        return
    if overwrite:
        raise UserError(f"{out}: overwrite=true replaces a file, and this is a run's folder; delete it, or choose another out=")
    folder = RunFolder(out)
    output = Output(folder.path / name)
    output.done = not folder.begin(verb, dump(config), inputs=inputs, parents=parents, defaults=defaults_of(type(config)))
    if output.done:
        print(f"{folder.path}: already done; delete it to run again")
        yield output
        return
    with folder.running():
        yield output
        folder.end("done")
