"""adamixer_r50_12ep with dense recollection and recurrence: the last stage also learns to refine its own outputs.

After training, the last stage can run in a loop (``model.decoder.inference_plan``). The authors' article reports
42.8 AP with 5 recurrences. Not run here.
"""

from .adamixer_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense_recurrent"
