"""The report of a run, one HTML file.

``mu_vision.report(folder)`` is a verb of the Python API and this is a package of the same name,
so the module can be called.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path


class _Verb(types.ModuleType):
    def __call__(self, folder: Path | str) -> Path:
        """Rebuild ``report.html`` from what is in a run folder; see ``mu_vision.api.report``."""
        from ..api import report

        return report(folder)


sys.modules[__name__].__class__ = _Verb
