#!/usr/bin/env bash
# KenLM's build_binary, for tests: it makes binaries of ARPA files, and no Python package has it built.
#
#   kenlm.sh FOLDER   leaves FOLDER/build_binary, compiled of the sources of PyPI's kenlm
#
# Exit status 77: it cannot be had on this machine, and stderr says why.
set -euo pipefail
python=${PYTHON:-python3}

unavailable() { echo "$1" >&2; exit 77; }

command -v g++ >/dev/null || unavailable "no g++ to compile KenLM with: apt-get install g++"
mkdir -p "$1" && cd "$1"
"$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation kenlm==0.3.0 >&2 || unavailable "KenLM cannot be downloaded"
tar --extract --gzip --strip-components=1 --file kenlm-0.3.0.tar.gz
compile=(g++ -I. -O1 -DNDEBUG -DKENLM_MAX_ORDER=6 -w)
sources=$(find util/double-conversion util lm -maxdepth 1 -name '*.cc' ! -name '*test.cc' ! -name '*main.cc')
xargs -P 2 -I{} "${compile[@]}" -c {} -o {}.o <<<"$sources"
"${compile[@]}" lm/build_binary_main.cc util/double-conversion/*.o util/*.o lm/*.o -pthread -o build_binary
