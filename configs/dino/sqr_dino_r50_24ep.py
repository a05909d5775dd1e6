"""dino_r50_24ep with selective query recollection of matched and denoising queries.

No published figure. Not run here.
"""

from .dino_r50_24ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
