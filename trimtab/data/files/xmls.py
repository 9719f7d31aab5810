"""Rows of ``.xml``: what stands right inside the outermost element, each as nested objects of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trimtab.common.errors import RowError, UserError
from trimtab.data.files.opening import ROW_BYTES, open_bytes, read_up_to, too_long
from trimtab.records import JSON

CHUNK = 1 << 16
DEEP = 100


def scan_xml(path: Path | str) -> Iterator[tuple[str, JSON | RowError]]:
    """The rows; ``where`` is ``file[index]``. Attributes are left out; an element that is repeated is a list.

    Raises:
        UserError: it is no XML, or defines entities, with which a few bytes can be made to fill the memory.
    """
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(events=("start", "end"))
    depth = index = unread = 0
    root: ElementTree.Element | None = None
    with open_bytes(path) as f:
        while chunk := read_up_to(f, CHUNK):
            unread += len(chunk)
            if b"<!ENTITY" in chunk:
                raise UserError(f"{path}: defines XML entities; write their text in their place")
            for event, element in _events(parser, chunk, path):
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > DEEP:
                    raise UserError(f"{path}[{index}]: nested too deeply")
                if event == "end" and depth == 1:
                    yield f"{path}[{index}]", _row(element, f"{path}[{index}]")
                    root.clear()
                    index, unread = index + 1, 0
            if unread > ROW_BYTES:
                raise too_long(f"{path}[{index}]")
        _events(parser, None, path)


def _events(parser: Any, chunk: bytes | None, path: Path | str) -> list[tuple[str, ElementTree.Element]]:
    try:
        parser.feed(chunk) if chunk is not None else parser.close()
        return list(parser.read_events())
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that is none
        raise UserError(f"{path}: not XML ({error})") from None


def _row(element: ElementTree.Element, where: str) -> JSON | RowError:
    row = _value(element)
    return row if isinstance(row, dict) else RowError(where, f"<{element.tag[:40]}> holds no fields", reason="no fields")


def _value(element: ElementTree.Element) -> Any:
    if not len(element):
        return element.text or ""
    out: dict[str, Any] = {}
    for child in element:
        value = _value(child)
        if child.tag not in out:
            out[child.tag] = value
        elif isinstance(out[child.tag], list):
            out[child.tag].append(value)
        else:
            out[child.tag] = [out[child.tag], value]
    return out
