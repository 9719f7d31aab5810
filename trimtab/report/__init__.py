"""Run folders -> one self-contained HTML page. Reads files only: it imports none of the rooms that wrote them."""

from trimtab.report.page import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
