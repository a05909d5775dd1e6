"""Settings of a run, with the DETR papers' values where they give one. Recipes change a few of them."""

import torch

train = {
    "output_dir": "./output",
    # A path or URL of initial weights: Detectron2 .pth or .pkl, a torchvision ResNet, a published
    # detector; "" for none.
    "init_checkpoint": "",
    "init_modules": [],  # load only these, for instance ["backbone"]; empty loads everything that fits
    "freeze": [],  # modules that are not trained, for instance ["backbone", "encoder.neck"]: docs/backbones.md
    # The length of the run: iterations, or passes over the training images; one of the two is null.
    "max_iter": 90000,
    "max_epochs": None,
    "seed": 42,  # of weights, sample order, augmentation and dropout; -1 draws one and records it
    "device": "cuda" if torch.cuda.is_available() else "cpu",
    "amp": {"enabled": False, "dtype": "bfloat16"},  # or float16, on GPUs
    # Process each batch in this many parts, one after the other: the same step with less memory.
    "accumulation_steps": 1,
    # The moving average of the weights, evaluated as ema/bbox/AP; see sqr.engine.ModelEMA for a short run's decay.
    "ema": {"enabled": False, "decay": 0.9998, "warmup_iters": 2000},
    "clip_grad": {"max_norm": 0.1, "norm_type": 2.0},  # of the global norm; max_norm=null for no clipping
    "checkpointer": {"period": 5000, "max_to_keep": 3},
    "eval_period": 5000,  # iterations between evaluations; 0 evaluates only at the end
    "eval_images": 2,  # validation images that each evaluation draws, with their stages, for TensorBoard
    # model_best.pth by any metric of evaluations.json; metric=null for none.
    "best_checkpoint": {"metric": "bbox/AP", "mode": "max"},
    # End after this many evaluations without improvement; patience=null disables it.
    "early_stopping": {"patience": None, "metric": "bbox/AP", "mode": "max", "min_delta": 0.0},
    "hooks": [],  # your own: L(MyHook)(...) of detectron2.engine.HookBase, after this package's
    "log_period": 20,
    "wandb": {"enabled": False, "project": "detectron2-sqr", "name": None},
    "cudnn_benchmark": False,
    # On a CPU, reuse freed memory instead of returning it to the system: fewer page faults, 2 % more memory.
    "keep_freed_memory": True,
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
}

# ImageNet weights of torchvision's ResNet-50 in Detectron2's format: train.init_checkpoint of the recipes.
IMAGENET_R50 = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
# The same for ResNet-101; Detectron2 hosts no copy, so this is torchvision's file.
IMAGENET_R101 = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
