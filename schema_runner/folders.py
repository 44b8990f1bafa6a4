"""Folders in which runs store files for later runs."""

import os
from pathlib import Path


def make_gitignored(folder: Path) -> None:
    """Create a folder with a .gitignore that excludes it. Leave an existing folder as it is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")


def find_write_obstacle(folder: Path) -> str | None:
    """Return why permissions prevent writing files to a folder; None if they do not."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"{nearest}: not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest}: permission denied"
