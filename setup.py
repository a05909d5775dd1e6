"""Builds and installs ``detectron2-sqr``: the package ``sqr`` of projects/SQR with the repository's configs inside."""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
PACKAGE = ROOT / "projects" / "SQR" / "sqr"


def version() -> str:
    line = next(x for x in (PACKAGE / "__init__.py").read_text().splitlines() if x.startswith("__version__"))
    return line.split('"')[1]


def warn_if_torch_is_missing() -> None:
    if importlib.util.find_spec("torch") is None:
        print(
            "detectron2-sqr: PyTorch was not found in the environment that runs this build. Install torch and "
            "torchvision first and pass --no-build-isolation, so that the package is built for your PyTorch.",
            file=sys.stderr,
        )


class BuildPyWithConfigs(build_py):
    """Copies the repository's configs/ into the package, where ``sqr.model_zoo`` finds them in a wheel."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "sqr" / "model_zoo" / "configs"
            shutil.copytree(ROOT / "configs", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


warn_if_torch_is_missing()

setup(
    name="detectron2-sqr",
    version=version(),
    description="Selective Query Recollection for DETR-family detectors, on Detectron2",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "projects/SQR"},
    packages=find_packages("projects/SQR", include=["sqr", "sqr.*"]),
    package_data={"sqr.evaluation": ["assets/*"]},
    # Detectron2 itself is not on PyPI: see README, "Installation". numpy is left to it and to PyTorch.
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
    ],
    extras_require={"dev": ["pytest", "hypothesis", "ruff"]},
    cmdclass={"build_py": BuildPyWithConfigs},
)
