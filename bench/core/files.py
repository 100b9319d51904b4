"""Files that are there whole or not at all."""

import os
import uuid
from pathlib import Path
from tempfile import NamedTemporaryFile

from bench.core.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, it is there whole or not at all."""
    # Process ids repeat across containers that share a folder, so they do not make a unique name.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def require_writable(folder: Path, setting: str) -> None:
    """Raise `UserError` unless files can be written into `folder`, which is made if missing.

    Parameters
    ----------
    folder : Path
        The folder.
    setting : str
        The setting that names it, for the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=".writable.") as probe:
            os.link(probe.name, f"{probe.name}.link")  # what run locks are made of
            os.unlink(f"{probe.name}.link")
    except OSError as error:
        expected = f"a folder that can be written, with hard links ({error.strerror})"
        raise UserError(f"{setting}={folder}", expected, f"set {setting}") from error
