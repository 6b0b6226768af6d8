"""A page in a real browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--virtual-time-budget=4000", "--window-size=1680,1400",
)  # fmt: skip


def browse(page: Path, *actions: str) -> subprocess.CompletedProcess:
    """Open a page in a browser with a profile of its own; a later action wins over an earlier."""
    place = [f"--user-data-dir={page.parent / 'profile'}", page.as_uri()]
    return subprocess.run(
        [CHROMIUM, *FLAGS, *actions, *place],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
