#!/usr/bin/env bash
# The first hour on a GPU in one command: builds the operators, runs what needs a device, measures, and writes
# OUTPUT/gpu_check.json and OUTPUT/gpu_check.md.
#   dev/gpu_check.sh [--device cuda] [--output output/gpu_check] [--iterations 200]
#   dev/gpu_check.sh --device cpu      a dry run of the same checks on the CPU build, in two minutes
#
# Needs Python with PyTorch and torchvision, nvcc (CUDA_HOME or on the PATH) and no network: what else is missing is
# installed from wheels in dev/wheels, and the script says which ones have to lie there. To fetch them elsewhere:
#   pip download --no-deps -d dev/wheels NAME...   and Detectron2's wheel as dev/install_detectron2.sh downloads it
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
needed="detectron2 fvcore iopath omegaconf pycocotools scipy matplotlib tensorboard tabulate cloudpickle pytest hypothesis"

"$python" -c 'import torch, torchvision' || { echo "install PyTorch and torchvision for $python first" >&2; exit 2; }
missing=$("$python" - $needed <<'PYTHON'
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PYTHON
)
if [ -n "$missing" ]; then
    wheels=$(ls dev/wheels/*.whl 2>/dev/null || true)
    if [ -z "$wheels" ] || ! "$python" -m pip install -q --no-index --find-links dev/wheels --no-deps $wheels; then
        echo "not installed and not in dev/wheels: $missing (and what they need)" >&2
        exit 2
    fi
fi

export PYTHONPATH="$PWD/projects/SQR${PYTHONPATH:+:$PYTHONPATH}"
case " $* " in
*" --device cpu "*) ;; # whatever is built
*)
    command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] || { echo "nvcc is not installed" >&2; exit 2; }
    FORCE_CUDA=1 "$python" setup.py -q build_ext --inplace
    ;;
esac
exec "$python" dev/gpu_check.py "$@"
