"""Published figures, predicted."""

from moesim.papers.paper import load_paper, paper_names
from moesim.papers.reproduction import reproduce

__all__ = ["load_paper", "paper_names", "reproduce"]
