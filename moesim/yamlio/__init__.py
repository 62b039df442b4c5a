"""Strict YAML: what is written is what is read, and every value knows where it stands.

Scalars follow the YAML 1.2 core rules (``900e9`` is a number, ``yes`` a string, ``010`` is ten,
``1:30`` a string). Duplicate keys, tags, merge keys, NaN and infinities are refused, and so are files
that grow beyond their limits when aliases are expanded.
"""

from moesim.yamlio.nodes import Document, Node, Place
from moesim.yamlio.parser import MAX_BYTES, MAX_DEPTH, MAX_NODES, load, loads

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Document", "Node", "Place", "load", "loads"]
