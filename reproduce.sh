#!/usr/bin/env bash
# Installs what is missing, then reproduces: ./reproduce.sh [smoke|quick|cpu|gpu|paper] [NOTEBOOK …] [-p NAME VALUE …]
#   --dry-run   only say what that would train
#   --fresh     train everything anew, whatever was trained or committed before
#   --check N   train N committed records, drawn at random, anew, and compare: ./reproduce.sh cpu --check 3
# ./reproduce.sh test runs the tests; ./reproduce.sh lab opens working copies of the notebooks in Jupyter;
# ./reproduce.sh install only installs; ./reproduce.sh site [PROFILE] writes the page to read, and the notebooks as pages;
# ./reproduce.sh slides [PROFILE] makes slides of them, which work without a network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1:-quick}" in
    help | -h | --help) sed -n '2,8s/^# //p' "$0"; exit ;;
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
        export VIRTUAL_ENV=$PWD/.venv
        # Without an NVIDIA card torch's CPU build will do, a tenth of the download. Where its index cannot be reached, and
        # with a card, everything is as the lock has it: the same versions, from one index, compared with their hashes.
        pair=$(grep -oE '^(torch|torchvision)==[^ ]+' requirements.lock)
        if ! command -v nvidia-smi >/dev/null && [ "$(uname -s)" = Linux ] &&
            UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 "$uv" pip install --quiet --torch-backend cpu $pair 2>/dev/null; then
            echo "reproduce.sh: no NVIDIA card here: installed torch's CPU build"
            awk '/^[a-z]/ { cuda = /^(nvidia|cuda|triton|torch|torchvision)[-=]/ } !cuda' requirements.lock >.venv/rest.lock
            "$uv" pip install --no-deps --require-hashes -r .venv/rest.lock
        else
            echo "reproduce.sh: installing torch as the lock names it, with CUDA"
            "$uv" pip install --require-hashes -r requirements.lock
        fi
        "$uv" pip install --quiet --no-deps --editable .
        cp requirements.lock .venv/installed.lock
    fi
fi

# glibc gives a training step's memory back to the system and fetches it again for the next one, which takes a tenth to a
# third of the step on a CPU. So it keeps all blocks up to 32 MiB, its own upper limit, and 512 MiB of freed memory.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432} \
    MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-536870912}

case "${1:-quick}" in
    install) ;;
    test) shift; exec "$python" -m pytest "$@" ;;
    lab) # Jupyter saves by itself: it gets copies in exploring/, so that exploring changes no experiment
        shift
        mkdir -p exploring
        cp -n notebooks/*.ipynb exploring/
        echo "reproduce.sh: these are your own copies, in exploring/; delete one to begin it again"
        echo "reproduce.sh: the kernel of each open notebook holds 1 to 2 GB; shut down those that you no longer need"
        exec "$python" -m jupyterlab --notebook-dir . "$@" exploring/00_overview.ipynb ;;
    site | slides) exec "$python" -m clsl "$@" ;;
    *) exec "$python" -m clsl reproduce "$@" ;;
esac
