#!/usr/bin/env bash
# Installs medjax twice from requirements/ and compares versions and the hash of every file: [PYTHON=python3.11] EXTRA ...
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for number in 1 2; do
  "${PYTHON:-python3}" -m venv "$folder/$number"
  bash tools/install.sh "$folder/$number/bin/python" "$@"
  # Scripts and links hold the environment's own path, and .pyc files times.
  (
    "$folder/$number/bin/python" -m pip freeze --all
    cd "$folder/$number"/lib/python*/site-packages
    find . -type f ! -name '*.pyc' ! -path '*medjax*' ! -path './*.dist-info/RECORD' -print0 | sort -z | xargs -0 sha256sum
  ) >"$folder/$number.txt"
  rm -rf "${folder:?}/$number"
done
diff "$folder/1.txt" "$folder/2.txt"
echo "two installs are identical: $(wc -l <"$folder/1.txt") versions and files"
