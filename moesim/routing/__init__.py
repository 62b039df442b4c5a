"""Which experts each token takes: recorded traces, generators and loads."""

from __future__ import annotations

from moesim.routing.counts_writer import CountsWriter
from moesim.routing.importers import import_trace, importer_kinds, importer_options, importer_summary
from moesim.routing.interchange import to_parquet
from moesim.routing.load import Load
from moesim.routing.source import RoutingSource, check_fits
from moesim.routing.trace import RoutingTrace
from moesim.routing.trace_source import TraceSource
from moesim.routing.writer import TraceWriter

__all__ = [
    "CountsWriter",
    "Load",
    "RoutingSource",
    "RoutingTrace",
    "TraceSource",
    "TraceWriter",
    "check_fits",
    "import_trace",
    "importer_kinds",
    "importer_options",
    "importer_summary",
    "to_parquet",
]
