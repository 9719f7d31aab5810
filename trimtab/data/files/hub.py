"""Rows of a data set of the Hugging Face hub, as they arrive: ``hub:owner/name[@revision][:config][:split]``."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common.errors import RowError, UserError
from trimtab.data.files.columns import plain_row
from trimtab.records import JSON

PREFIX = "hub:"
NAME = re.compile(r"hub:(?P<name>[\w-][\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?(?::(?P<rest>[^:]*(?::[^:]+)?))?")
SECONDS = 10.0  # how long the hub may take to say what it has


@dataclass(frozen=True, slots=True)
class HubName:
    """A data set of the hub. An empty ``config`` or ``split`` is the only one, or ``train``."""

    name: str
    revision: str | None = None
    config: str = ""
    split: str = ""


def is_hub(path: Path | str) -> bool:
    """Whether ``path`` names a data set of the hub."""
    return str(path).startswith(PREFIX)


def parse_hub(path: Path | str) -> HubName:
    """``hub:owner/name``, ``hub:owner/name:config:split``, each with ``@revision`` behind the name.

    A single word behind the name comes as the split; it is the config where the data set has one of that name.

    Raises:
        UserError: it is none of these.
    """
    match = NAME.fullmatch(str(path))
    if match is None:
        raise UserError(f"{path}: write hub:owner/name, with :config, :split or :config:split, and @revision before these")
    config, _, split = (match["rest"] or "").rpartition(":")
    return HubName(match["name"], match["revision"], config, split)


def scan_hub(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    """The rows, streamed; where HF_HUB_OFFLINE is set, those that ``datasets`` has in its cache. ``where`` is ``NAME[index]``.

    Raises:
        UserError: the hub cannot be reached, or has no such data set, config or split; or it breaks off.
    """
    for index, row in enumerate(_opened(path)):
        where = f"{path}[{index}]"
        yield where, plain_row(row, where)


def _opened(path: Path | str) -> Iterator[dict[str, Any]]:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    wanted = parse_hub(path)
    try:
        yield from _rows(path, wanted)
    except UserError:
        raise
    except GatedRepoError:
        page = f"https://huggingface.co/datasets/{wanted.name}"
        raise UserError(f"{path}: asks for your consent first; give it on {page} and log in (hf auth login)") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(f"{path}: is not on the hub, or private; check the name, and log in if it is yours (hf auth login)") from None
    except (ValueError, KeyError) as error:  # no such config or split; a file that is not what its name says
        raise UserError(f"{path}: {_line(error)}") from None
    except Exception as error:  # every version of the hub's client and of what it is built on raises kinds of its own
        raise UserError(
            f"{path}: the hub cannot be reached ({_line(error)}); bring the files here another way "
            f"(hf download {wanted.name} --repo-type dataset) and give one of them"
        ) from None


def _rows(path: Path | str, wanted: HubName) -> Iterator[dict[str, Any]]:
    import datasets
    from huggingface_hub import HfApi

    config, split, offline = wanted.config, wanted.split, bool(datasets.config.HF_HUB_OFFLINE)
    if not offline:  # one question first: datasets asks six times, and says so each time, before it gives up
        HfApi().dataset_info(wanted.name, revision=wanted.revision, timeout=SECONDS)
    if split and not config and split in datasets.get_dataset_config_names(wanted.name, revision=wanted.revision):
        config, split = split, ""
    loaded = datasets.load_dataset(
        wanted.name, config or None, split=split or None, revision=wanted.revision, streaming=not offline
    )
    yield from loaded if split else _only_split(path, loaded)


def _only_split(path: Path | str, splits: Any) -> Any:
    names = list(splits)
    name = "train" if "train" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise UserError(f"{path}: has the splits {', '.join(names)}; add one, {path}:{names[0]}")
    return splits[name]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
