#!/usr/bin/env bash
# Installs Detectron2 into the environment of $1 (a python executable), unless it is there already.
#   dev/install_detectron2.sh PYTHON               the PyPI wheel that holds Detectron2's sources (registry only)
#   dev/install_detectron2.sh PYTHON REQUIREMENT   any pip requirement, such as git+https://...
set -euo pipefail
python=$1
requirement=${2:-}

if [ -z "$requirement" ] && "$python" -c 'import detectron2' 2>/dev/null; then
    exit 0
fi
if [ -n "$requirement" ]; then
    exec "$python" -m pip install --no-build-isolation "$requirement"
fi

# PyPI's sal-detectron2 0.7.2 is Detectron2 at upstream commit a59f0563. Its name is tagged cp310 though its Python
# code runs on any version, so it is downloaded for 3.10, checked, renamed and installed.
name=sal_detectron2-0.7.2
sum=491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.10 --implementation cp --abi none \
    --platform any -d "$dir" sal-detectron2==0.7.2
wheel=$(ls "$dir"/$name-*.whl)
echo "$sum  $wheel" | sha256sum -c --quiet
mv "$wheel" "$dir/$name-py3-none-any.whl"
"$python" -m pip install -q "$dir/$name-py3-none-any.whl" 'numpy<2' 'setuptools<81'
# It also holds a top-level package named tools (Detectron2's scripts), which would shadow a user's own.
rm -rf "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/tools"
