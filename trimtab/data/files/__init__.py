"""Files of rows and of text: JSON, tables, Parquet, the hub; compressed or not; streamed, and every failure one line.

A new kind of file is one reader in a file of its own here and its suffix in ``rows.READERS``.
"""

from trimtab.data.files.rows import ROW_SUFFIXES, read_rows, scan_rows
from trimtab.data.files.text import is_text, merge_blocks, read_text
from trimtab.data.files.write import write_lines, write_records

__all__ = ["ROW_SUFFIXES", "is_text", "merge_blocks", "read_rows", "read_text", "scan_rows", "write_lines", "write_records"]
