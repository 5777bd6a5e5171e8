#!/usr/bin/env bash
# Writes the path of a Chromium into a file, installing one where there is none: tools/chromium.sh FILE
# As root from the system's packages, else from the npm package that has one in it; an empty file where neither works.
set -euo pipefail
file=$1
package=@sparticuz/chromium@147.0.0
sha256=64d813a054f76fc32b8010e305d87e6d7a45aa76ee02d36e66c03c8ca6667e8d

at_hand() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" && return
  done
  return 1
}

from_system() {
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || true # the lists at hand may do
  apt-get install -y -qq --no-install-recommends chromium || return
} >&2

# The package holds the program and its libraries compressed.
from_npm() {
  [[ $(uname -sm) == "Linux x86_64" ]] && command -v npm >/dev/null || return
  local folder
  folder=$(realpath "$file").npm
  mkdir -p "$folder"
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder" "$package" || return
  cd "$folder/node_modules/@sparticuz/chromium/bin"
  sha256sum --quiet --check <<<"$sha256  chromium.br" || return
  node -e '
    const fs = require("fs"), zlib = require("zlib")
    for (const name of ["chromium", "al2023.tar", "swiftshader.tar"])
      fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync(name + ".br")))
  '
  tar -xf al2023.tar
  tar -xf swiftshader.tar
  printf '#!/bin/sh\nhere=$(dirname "$0")\nLD_LIBRARY_PATH=$here/lib exec "$here/chromium" "$@"\n' >run
  chmod +x chromium run
  ./run --version || return
} >&2

if ! found=$(at_hand); then
  found=
  if (from_system); then
    found=$(at_hand)
  elif (from_npm); then
    found=$(realpath "$file").npm/node_modules/@sparticuz/chromium/bin/run
  else
    echo "no Chromium can be installed here: apt-get install -y chromium as root; tests of the report's page go without" >&2
  fi
fi
mkdir -p "$(dirname "$file")"
echo "$found" >"$file"
