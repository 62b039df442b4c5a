"""A run as one self-contained HTML page."""

from __future__ import annotations

from moesim.results.report.page import report_html

__all__ = ["report_html"]
