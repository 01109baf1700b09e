#!/usr/bin/env bash
# Installs what is missing, then reproduces: ./reproduce.sh [smoke|quick|cpu|gpu|paper] [NOTEBOOK …] [-p NAME VALUE …]
#   --dry-run   only say what that would train
#   --fresh     train everything anew, whatever was trained or committed before
#   --check N   train N committed records, drawn at random, anew, and compare: ./reproduce.sh cpu --check 3
# ./reproduce.sh test runs the tests; ./reproduce.sh lab opens working copies of the notebooks in Jupyter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1:-quick}" in
    help | -h | --help) sed -n '2,6s/^# //p' "$0"; exit ;;
esac

# An active environment that has clsl is used as it is; otherwise .venv, made from the lock.
# (-P: the checkout itself, which lies in this folder, does not count.)
active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
if [ -n "$active" ] && "$active/bin/python" -P -c 'import importlib.metadata as m; m.version("clsl")' 2>/dev/null; then
    python=$active/bin/python
else
    python=.venv/bin/python
    if ! cmp -s requirements.lock .venv/installed.lock; then
        if command -v uv >/dev/null; then
            uv=uv
            [ -x "$python" ] || uv venv --quiet --python '>=3.11' .venv
        else
            for base in python3 python3.14 python3.13 python3.12 python3.11 none; do
                "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
            done
            [ "$base" != none ] || { echo "reproduce.sh: needs Python 3.11 or newer, or uv: install one of them" >&2; exit 1; }
            [ -x "$python" ] || "$base" -m venv .venv
            "$python" -m pip install --quiet --disable-pip-version-check uv
            uv=.venv/bin/uv
        fi
        # uv takes torch and torchvision from the same index, as the matching pair that the lock names.
        VIRTUAL_ENV=$PWD/.venv "$uv" pip install --require-hashes -r requirements.lock
        VIRTUAL_ENV=$PWD/.venv "$uv" pip install --quiet --no-deps --editable .
        cp requirements.lock .venv/installed.lock
    fi
fi

# glibc gives a training step's memory back to the system and fetches it again for the next one, which takes a tenth to a
# third of the step on a CPU. So it keeps all blocks up to 32 MiB, its own upper limit, and 512 MiB of freed memory.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432} \
    MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-536870912}

case "${1:-quick}" in
    test) shift; exec "$python" -m pytest "$@" ;;
    lab) # Jupyter saves by itself: it gets copies in exploring/, so that exploring changes no experiment
        shift
        mkdir -p exploring
        cp -n notebooks/*.ipynb exploring/
        echo "reproduce.sh: these are your own copies, in exploring/; delete one to begin it again"
        exec "$python" -m jupyterlab --notebook-dir . "$@" exploring/00_overview.ipynb ;;
    *) exec "$python" -m clsl reproduce "$@" ;;
esac
