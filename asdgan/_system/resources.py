"""Folders that come with the package: inside it where it is installed, beside it in a checkout."""

from pathlib import Path


def _folder(name: str) -> Path:
    package = Path(__file__).resolve().parent.parent
    return next(
        (home / name for home in (package, package.parent) if (home / name).is_dir()),
        package.parent / name,
    )


CONF, SWEEPS = _folder("conf"), _folder("sweeps")
