"""``trimtab data show``: a page about a data file, in the terminal or as HTML."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from pydantic import Field

from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write, check_writable, refuse_missing_folder
from trimtab.data.files import is_text, scan_rows
from trimtab.data.files.hub import is_hub
from trimtab.data.formats import LookSettings, only_looking

if TYPE_CHECKING:
    from rich.console import RenderableType

HTML_WIDTH = 120  # characters


class Config(LookSettings):
    """What is shown of a file, and how."""

    model: str = Field("", description="a model whose template and tokens to show: what is trained, what is context")
    limit: int = Field(3, ge=0, description="samples to show")
    chat_template: str = Field("", description="file with a chat template (Jinja) to show it in; empty = the model's own")
    max_length: int = Field(0, ge=0, description="longest record that is trained on, tokens; 0 = what the model can take")
    out: str = Field("", description="HTML file to write instead of printing")
    overwrite: bool = Field(False, description="replace the file that is there")


def run(file: str, config: Config) -> None:
    """Prints the page about ``file``, or writes it to ``config.out``.

    Raises:
        UserError: the file, the model or the template cannot be read, or the file holds nothing; ``out`` is there already.
    """
    if not config.model and (config.chat_template or config.max_length):
        raise UserError("--chat-template and --max-length need --model: the tokens are a model's")
    if config.out:
        check_writable(config.out, overwrite=config.overwrite)
    look_inside(file, config)
    print_page(page(file, config), config.out)


def look_inside(file: str, config: Config) -> None:
    """Finds out in a moment that ``file`` or the model is not there, or empty; what a page is made with takes seconds to import.

    Raises:
        UserError: it is so.
    """
    refuse_missing_folder(config.model)
    if not is_hub(file) and (config.fields or not is_text(file)) and next(iter(scan_rows(file)), None) is None:
        raise UserError(f"{file}: holds no rows")


def page(file: str, config: Config) -> RenderableType:
    """What is in ``file``; in the tokens and the template of a model where one is given, as training would take them.

    Raises:
        UserError: the file, the model or the template cannot be read.
    """
    from trimtab.data.preview import show

    settings = only_looking(config)
    if not config.model:
        return show(file, limit=config.limit, settings=settings)
    from trimtab.data.template import Renderer, added_template, ensure_template, read_template
    from trimtab.models.load import load_tokenizer, position_limit

    longest = position_limit(config.model)  # first: it says best that there is no such model
    tokenizer = load_tokenizer(config.model)
    if config.chat_template:
        tokenizer.chat_template = read_template(config.chat_template)
    if not tokenizer.chat_template:
        print(added_template(config.model, ensure_template(tokenizer)))
    return show(file, Renderer(tokenizer, answers=False), config.limit, settings, min(config.max_length or longest, longest))


def print_page(content: RenderableType, path: str = "") -> None:
    """Prints a page, or writes it to an HTML file.

    Raises:
        UserError: the file cannot be written.
    """
    from rich.console import Console

    if not path:
        Console(highlight=False).print(content)
        return
    console = Console(record=True, width=HTML_WIDTH, file=io.StringIO(), highlight=False, force_terminal=True, color_system="truecolor")
    console.print(content)
    html = console.export_html()
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    print(path)
