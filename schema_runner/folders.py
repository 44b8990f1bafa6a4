"""Folders in which runs keep files for later runs."""

import os
from pathlib import Path


def make_hidden(folder: Path) -> None:
    """Make a folder that keeps itself out of version control; one that exists stays as it is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")


def why_not_writable(folder: Path) -> str | None:
    """Say why files cannot be written there, where that shows without trying; None if they can."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"{nearest}: not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest}: permission denied"
