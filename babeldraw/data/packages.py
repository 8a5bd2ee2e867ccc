"""Packages of npm and pip as plain files: told before they are fetched, and of one content only.

They come from the registry that the user's own npm or pip asks. Nothing of them is installed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from babeldraw.errors import UserError
from babeldraw.say import say

FETCH_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """A file of a registry.

    Attributes:
        name, version: as the registry has them.
        file: its name there.
        size: in bytes.
        sha256: of the file, in hexadecimal.
        by: 'npm' or 'pip'.
    """

    name: str
    version: str
    file: str
    size: int
    sha256: str
    by: str = "npm"

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.size:,} bytes, SHA-256 {self.sha256})"


def check(package: Package, path: Path) -> None:
    """That a file is the package's.

    Raises:
        UserError: it is not.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise UserError(
            f"{path} is not {package}: it has {len(data):,} bytes and another SHA-256; remove it "
            "and it is fetched again"
        )


def fetch(package: Package, folder: Path) -> str:
    """Brings a package into `folder` unless it is there; what went wrong, '' if nothing did."""
    if (folder / package.file).exists():
        return ""
    if package.by == "npm" and not shutil.which("npm"):
        return f"there is no npm to fetch {package.name} {package.version}"
    say(f"fetching by {package.by}: {package}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        words = _npm(package) if package.by == "npm" else _pip(package, Path(scratch))
        try:
            ran = subprocess.run(
                words, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS
            )
        except subprocess.TimeoutExpired:
            return f"{package.by} did not bring {package.name} in {FETCH_SECONDS} s"
    if ran.returncode or not (folder / package.file).exists():
        said = (ran.stderr.strip() or ran.stdout.strip() or "another file came").splitlines()[-1]
        return f"{package.by} did not bring {package.name} {package.version}: {said}"
    return ""


def _npm(package: Package) -> list[str]:
    return ["npm", "pack", "--loglevel=error", f"{package.name}@{package.version}"]


def _pip(package: Package, scratch: Path) -> list[str]:
    # pip looks into a source package by running its setup: only after it has seen the hash.
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    words += ["--disable-pip-version-check", f"--requirement={wanted}"]
    source = package.file.endswith(".tar.gz")
    return [*words, f"--no-binary={package.name}"] if source else words
