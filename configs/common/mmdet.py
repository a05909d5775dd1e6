"""How mmdetection's Deformable DETR, and SQR's based on it, differ from the official code in data and boxes."""


def follow_mmdet(model, dataloader):
    """Group images by aspect ratio, bound the resize before the crop, and clip boxes to the image, in place."""
    dataloader.train.aspect_ratio_grouping = True
    dataloader.train.mapper.augmentations.crop_max_size = 4200
    model.postprocessor.clip = True
