#!/bin/sh
# Builds entries.wasm. Installs the pinned componentize-py into .venv the first time.
set -eu
cd "$(dirname "$0")"
if ! cmp -s requirements.txt .venv/installed; then
  "${PYTHON:-python3}" -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
  cp requirements.txt .venv/installed
fi
.venv/bin/componentize-py --quiet --wit-path ../../../wit --world mapper componentize --stub-wasi --output entries.wasm app
