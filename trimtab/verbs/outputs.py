"""Where a verb that writes one file writes it: a file, or a run folder that says what was run."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.common.config import Settings, dump
from trimtab.common.errors import UserError
from trimtab.common.files import check_writable
from trimtab.training.folder import RunFolder

FILES = (".jsonl", ".gz", ".json")


@dataclass
class Output:
    """``path`` is the file to write; ``done`` says that this very run has written it already."""

    path: Path
    done: bool = False


@contextlib.contextmanager
def open_output(
    out: str, verb: str, config: Settings, name: str, *, inputs: Sequence[str] = (), parents: Sequence[str] = ()
) -> Iterator[Output]:
    """``out`` itself when it is a file name, else ``out/name`` in a run folder that is begun here and ended with the block."""
    if out.endswith(FILES):
        if not out.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(f"{out}: records are written as .jsonl or .jsonl.gz; choose such a name, or a folder")
        check_writable(out)
        yield Output(Path(out))
        return
    folder = RunFolder(out)
    output = Output(folder.path / name)
    output.done = not folder.begin(verb, dump(config), inputs=inputs, parents=parents)
    if output.done:
        print(f"{folder.path}: already done; delete it to run again")
        yield output
        return
    with folder.running():
        yield output
        folder.end("done")
