"""How many worlds does a property try? Few where a person waits, many and always the same ones in CI."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True, suppress_health_check=_QUIET)
#: Mutants are run one by one, each against one property.
settings.register_profile(
    "mutants",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=_QUIET,
    # Whether it fails is asked, not how it fails in the fewest words.
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("OROBOROS_HYPOTHESIS") or ("ci" if os.environ.get("CI") == "true" else "quick"))
