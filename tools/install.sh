#!/usr/bin/env bash
# Installs medjax as a link to this clone, and the packages that requirements/ pins: tools/install.sh PYTHON [EXTRA ...]
# Extras without a lock for this Python are left out; a Python without locks gets the newest releases.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

pip_install() { "$python" -m pip install --quiet --no-build-isolation "$@"; }

locked() {
  local name words=()
  for name; do words+=(--requirement "requirements/$name.txt"); done
  pip_install --no-deps --require-hashes "${words[@]}"
}

locked build
if [[ -e requirements/python$version.txt ]]; then
  names=("python$version" data)
  for extra; do
    if [[ -e requirements/python$version-$extra.txt ]]; then names+=("python$version-$extra"); fi
  done
  locked "${names[@]}"
  if [[ " ${names[*]} " == *-reference\ * ]] && ! locked "python$version-torch-cpu"; then
    echo "no build of torch for the CPU is to be had here: taking PyPI's for CUDA, of several gigabytes"
    locked "python$version-torch-cuda"
  fi
  pip_install --no-deps --editable .
else
  echo "requirements/ pins nothing for Python $version: taking the newest releases that setup.py allows, without torch"
  extras=" $* "
  extras=${extras/ reference / }
  pip_install --editable ".[$(tr -s ' ' , <<<"${extras# }" | sed 's/,*$//')]"
  locked data
fi
