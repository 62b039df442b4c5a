"""Scenarios: read, checked and built.

``load_scenario`` reads and validates a file without touching any model, cluster or trace; the
``build_*`` functions of ``moesim.scenario.build`` make those, and point errors at the scenario's lines.
"""

from moesim.scenario.loading import load_scenario, loads_scenario
from moesim.scenario.reference import json_schema
from moesim.scenario.scenario import Scenario

__all__ = ["Scenario", "json_schema", "load_scenario", "loads_scenario"]
