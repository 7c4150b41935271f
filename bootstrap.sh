#!/bin/sh
# Make a virtual environment and install heterarch with its development extras into it.
# usage: bootstrap.sh PYTHON VENV
set -eu
python=$1
venv=$2

"$python" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"heterarch needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}.\n"
             "Say which to use: make PYTHON=python3.11 ...")
CHECK

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "setup: making $venv"
    rm -rf "$venv"
    # Debian splits ensurepip off into python3-venv; without it a bare environment and another pip will do.
    if "$python" -m ensurepip --version >/dev/null 2>&1; then
        "$python" -m venv "$venv"
    elif "$python" -m virtualenv --version >/dev/null 2>&1; then
        "$python" -m virtualenv --quiet "$venv"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check pip
    else
        echo "setup: this Python can make no virtual environment. Install one package and try again:" >&2
        echo "    apt install python3-venv" >&2
        exit 1
    fi
fi

echo "setup: installing heterarch and its development tools (about 1 GB, once)"
log="$venv/install.log"
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable '.[local,plot,bench,dev]' >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
