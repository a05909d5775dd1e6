"""Learning-rate schedules, as multipliers of the base rate. Milestones are in epochs of ``total``."""

from detectron2.config import LazyCall as L

from sqr.engine import step_schedule

# DETR-family recipes: /10 at epoch 40 of 50, no warm-up.
step_50ep = L(step_schedule)(milestones=[40], total=50, max_iter="${train.max_iter}", warmup_iters=0)

# DETR: /10 at epoch 200 of 300.
step_300ep = L(step_schedule)(milestones=[200], total=300, max_iter="${train.max_iter}", warmup_iters=0)

# 1x: /10 at epochs 8 and 11 of 12, 500 iterations of warm-up.
step_12ep = L(step_schedule)(milestones=[8, 11], total=12, max_iter="${train.max_iter}", warmup_iters=500)

# 3x: /10 at epochs 24 and 33 of 36, 500 iterations of warm-up.
step_36ep = L(step_schedule)(milestones=[24, 33], total=36, max_iter="${train.max_iter}", warmup_iters=500)

# Runs whose length is given in iterations: /10 at 80 %.
step_80_percent = L(step_schedule)(milestones=[0.8], total=1.0, max_iter="${train.max_iter}", warmup_iters=0)
