"""What networks have learnt: filters, feature maps, patches that excite units, reasons of a decision."""

from .gradients import GradCam, grad_cam, maximise, saliency
from .layers import Patch, crop, feature_maps, field_of, layer_of, top_patches, window
from .sheets import contact_sheet, filter_pictures, grey, heat, overlay

__all__ = [
    "GradCam",
    "Patch",
    "contact_sheet",
    "crop",
    "feature_maps",
    "field_of",
    "filter_pictures",
    "grad_cam",
    "grey",
    "heat",
    "layer_of",
    "maximise",
    "overlay",
    "saliency",
    "top_patches",
    "window",
]
