"""``trimtab doctor`` from the command line: examine, print, write."""

from pathlib import Path

from trimtab.common.files import write_json, write_text
from trimtab.doctor.examine import Examination, examine
from trimtab.doctor.html import html
from trimtab.doctor.page import print_page
from trimtab.doctor.settings import Config


def run(config: Config) -> Examination:
    """Examines, prints the page, and writes it to the files of ``config.out``.

    Raises:
        UserError: as ``examine``; or a file cannot be written.
    """
    found = examine(config)
    print_page(found)
    for path in config.out:
        if Path(path).suffix == ".json":
            write_json(path, found.to_json())
        else:
            write_text(path, html(found))
    return found
