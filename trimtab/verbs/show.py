"""``trimtab data show``: a page about a data file, in the terminal or as HTML."""

import io

from rich.console import Console, RenderableType

from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write
from trimtab.data.formats import ReadSettings
from trimtab.data.preview import show
from trimtab.data.template import Renderer, added_template, ensure_template, read_template
from trimtab.models.load import load_tokenizer, position_limit

HTML_WIDTH = 120  # characters


def page(
    file: str, settings: ReadSettings, *, model: str = "", limit: int = 3, chat_template: str = "", max_length: int = 0
) -> RenderableType:
    """What is in ``file``; in the tokens and the template of ``model`` where one is given, as training would take them.

    Raises:
        UserError: the file, the model or the template cannot be read; a template without a model.
    """
    if not model:
        if chat_template or max_length:
            raise UserError("--chat-template and --max-length need --model: the tokens are a model's")
        return show(file, limit=limit, settings=settings)
    tokenizer = load_tokenizer(model)
    if chat_template:
        tokenizer.chat_template = read_template(chat_template)
    if not tokenizer.chat_template:
        print(added_template(model, ensure_template(tokenizer)))
    longest = position_limit(model)
    return show(file, Renderer(tokenizer, answers=False), limit, settings, min(max_length or longest, longest))


def print_page(content: RenderableType, path: str = "") -> None:
    """Prints a page, or writes it to an HTML file.

    Raises:
        UserError: the file cannot be written.
    """
    if not path:
        Console(highlight=False).print(content)
        return
    console = Console(record=True, width=HTML_WIDTH, file=io.StringIO(), highlight=False, force_terminal=True, color_system="truecolor")
    console.print(content)
    html = console.export_html()
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    print(path)
