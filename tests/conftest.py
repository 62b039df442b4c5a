"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# The suite tries the same examples every time, so that a change passes or fails for what it does.
# HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
