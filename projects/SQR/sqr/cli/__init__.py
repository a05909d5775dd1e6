"""Command lines, one module per command; ``sqr``, ``train_net.py`` and ``tools/*`` are a few lines over them.

Importing this package silences warnings of other packages that a user of a command can do nothing about.
"""

import logging
import warnings

warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|torchvision|detectron2|fvcore|timm)\.")
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # CUDA_HOME on machines without a GPU
