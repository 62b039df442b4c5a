"""Importers of foreign recordings; see ``docs/trace-format.md`` for the layouts they accept."""

from __future__ import annotations

from moesim.routing.importers.registry import (
    import_trace,
    importer_kinds,
    importer_options,
    importer_summary,
)

__all__ = ["import_trace", "importer_kinds", "importer_options", "importer_summary"]
