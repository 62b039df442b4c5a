"""Record a routing trace: train a small mixture-of-experts language model and keep its router decisions."""

from moesim.routing.recorder.architecture import Architecture, Training
from moesim.routing.recorder.corpus import Corpus, standard_library
from moesim.routing.recorder.record import Recording, record

__all__ = ["Architecture", "Corpus", "Recording", "Training", "record", "standard_library"]
