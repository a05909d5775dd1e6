"""Command lines, one module per command; ``sqr``, ``train_net.py`` and ``tools/*`` are a few lines over them.

Importing this package, which every command does before PyTorch is loaded, silences warnings of other packages that
users cannot act on, and lets idle OpenMP threads sleep: spinning threads made a training step on two threads of a busy
machine take 18 s instead of 3.4 s.
"""

import logging
import os
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|torchvision|detectron2|fvcore|timm)\.")
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # CUDA_HOME on machines without a GPU
