"""Check that every tracked Python file of the rooms is in the wheel.

The rooms are reached through symlinks under src/holdfast; where those are not restored (a zip
download, Windows) the wheel would be silently empty, so this builds it and looks.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOMS = ("core", "collectives", "runtime", "launch", "fabric")
TOP = Path(__file__).resolve().parent.parent


def tracked() -> set[str]:
    """Return the wheel's paths of all tracked files that belong in it."""
    listing = subprocess.run(
        ["git", "ls-files", "--", *ROOMS, "src/holdfast"],
        cwd=TOP,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    files = {name for name in listing if name.endswith((".py", "py.typed"))}
    return {
        name.removeprefix("src/") if name.startswith("src/") else f"holdfast/{name}"
        for name in files
    }


def main() -> int:
    for room in ROOMS:
        if not (TOP / "src" / "holdfast" / room / "__init__.py").is_file():
            print(
                f"src/holdfast/{room} does not lead to {room}/: git did not restore the symlinks "
                "(git config core.symlinks true, then check out again)"
            )
            return 1
    with tempfile.TemporaryDirectory() as folder:
        build = subprocess.run(
            [sys.executable, "-m", "build", "--outdir", folder, str(TOP)],
            capture_output=True,
            text=True,
        )
        if build.returncode:
            print(build.stdout[-2000:], build.stderr[-2000:], sep="\n")
            return 1
        (wheel,) = Path(folder).glob("*.whl")
        inside = set(zipfile.ZipFile(wheel).namelist())
    missing = sorted(tracked() - inside)
    if missing:
        print("not in the wheel:", *missing, sep="\n  ")
        return 1
    print(f"wheel: {wheel.name} holds all {len(tracked())} tracked files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
