"""A labelled contact sheet of MiniCanvas: a row an object, a column a style."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .. import files
from ..errors import UsageError
from ..progress import track
from . import minicanvas

CELL, GAP, TOP, LEFT = 96, 6, 30, 92


def contact_sheet(path: Path | str, index: int = 1200) -> Path:
    """Write a PNG with one picture of every object in every style.

    Args:
        path: file to write.
        index: which picture of each cell; the default is the first of the test split.

    Raises:
        UsageError: if the path is a folder, or not a picture's name.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"{path} is not the name of a picture; give one such as -o sheet.png.")
    step = CELL + GAP
    width = LEFT + step * len(minicanvas.STYLES) + GAP
    height = TOP + step * len(minicanvas.OBJECTS) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, style in enumerate(minicanvas.STYLES):
        draw.text((LEFT + step * column + CELL / 2, TOP / 2), style, "black", font, anchor="mm")
    for row, thing in enumerate(track(minicanvas.OBJECTS, "painting the sheet")):
        y = TOP + step * row
        draw.text((LEFT - 10, y + CELL / 2), thing, "black", font, anchor="rm")
        for column, style in enumerate(minicanvas.STYLES):
            picture = Image.fromarray(minicanvas.render(thing, style, index))
            big = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(big, (LEFT + step * column, y))
    with files.replacing(path) as partial:
        sheet.save(
            partial, format={".png": "PNG", ".webp": "WEBP"}.get(path.suffix.lower(), "JPEG")
        )
    return path
