"""Names of the classes that published detectors tell apart, in the order of their numbers."""

from __future__ import annotations

__all__ = ["CLASS_NAMES", "class_names"]

_COCO = """
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,
parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,
tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,
tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,
hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,
keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,
hair drier,toothbrush
"""
_VOC = """
aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,
sheep,sofa,train,tvmonitor
"""
# Ids of categories that COCO planned and left out.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = [i for i in range(1, 91) if i not in _COCO_GAPS]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.replace("\n", "").split(","))


#: By the name of the data set. "coco91" is COCO by category ids, from 1 on, with "" in the gaps: networks of
#: torchvision count so.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "bccd": ("RBC", "WBC", "platelets"),
    "coco": _listed(_COCO),
    "coco91": tuple(dict(zip(_COCO_IDS, _listed(_COCO), strict=True)).get(i, "") for i in range(1, 91)),
    "voc": _listed(_VOC),
}


def class_names(count: int, data_set: str = "") -> tuple[str, ...]:
    """Names of so many classes, without background: those of a data set, or of the one with that number.

    Parameters
    ----------
    count : int
    data_set : str
        A key of :data:`CLASS_NAMES`, or anything else.

    Returns
    -------
    tuple of str
        Empty where nothing is known.
    """
    known = CLASS_NAMES.get(data_set, ())
    if len(known) == count:
        return known
    return next(
        (CLASS_NAMES[name] for name in ("coco", "coco91", "voc") if len(CLASS_NAMES[name]) == count), ()
    )
