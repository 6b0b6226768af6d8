"""The page on which a person ticks the pictures of a GAN that are to be forgotten."""

from __future__ import annotations

from pathlib import Path

from ..data.feedback import SHEET, quantised, restored
from ..errors import UsageError
from ..models.gan import Gan, to_uint8
from .build import write_plain
from .pictures import data_uri


def write_sheet(gan: Gan, path: Path | str, count: int = 192, seed: int = 0) -> Path:
    """Write the page; it saves the ticks as a file for ``data.feedback.load_marks``.

    Args:
        gan: whose pictures.
        path: an .html file.
        count: pictures on the sheet.
        seed: of the sheet.

    Raises:
        UsageError: if the path is not the name of a page.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path} is not the name of a page; give one such as -o sheet.html.")
    pictures = to_uint8(restored(quantised(gan.draw(count, *SHEET, seed))))
    facts = {"name": gan.name, "gan": gan.fingerprint(), "seed": seed, "count": count}
    return write_plain("mark.html.j2", {**facts, "pictures": map(data_uri, pictures)}, path)
