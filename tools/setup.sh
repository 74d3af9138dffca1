#!/usr/bin/env bash
# Make .venv and install Holdfast into it, editable, with the developers' tools; say what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

command -v "$python" >/dev/null 2>&1 || {
  echo "holdfast: '$python' was not found. Install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python" >&2
  exit 1
}
"$python" - <<'EOF' || exit 1
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"holdfast: Python 3.11 to 3.13 is needed, {sys.executable} is "
             f"{sys.version_info.major}.{sys.version_info.minor}. Name another: make PYTHON=python3.12")
try:
    import ensurepip, venv
except ImportError:
    sys.exit("holdfast: this Python cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv")
EOF

if [ ! -x .venv/bin/python ]; then
  echo "holdfast: making .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
echo "holdfast: installing Holdfast and its developers' tools into .venv (a minute or two, once)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || {
  echo "holdfast: the installation failed; the lines above say why (pip needs to reach a package index)" >&2
  exit 1
}
touch .venv/.ready
