"""Faces, and one-shot recognition of anything that an encoder has learnt to tell apart.

A :class:`Recognizer` knows somebody from one picture: it keeps an encoding, and compares. The rest are its
parts: encoders, the gallery in its file, thresholds by false-accept rate, detection and alignment of faces,
and what encoders are trained with (miners of triplets, classifiers of identities; losses are in
:mod:`cnnfast.losses`, the binary head is :class:`cnnfast.nn.SiameseHead`).
"""

from .alignment import TEMPLATE, align, similarity_transform
from .calibration import MEASURES, ROC, accepts, pairs_of, roc
from .encoder import Encoder, load_encoder
from .gallery import Gallery
from .identity import CosineClassifier, IdentityClassifier, IdentityTraining
from .mining import TripletLoss, Triplets, mine_triplets, pairwise
from .recognizer import Candidate, Identification, Recognizer, Verification
from .siamese import Siamese
from .yunet import Faces, YuNet, decode_yunet

__all__ = [
    "MEASURES",
    "ROC",
    "TEMPLATE",
    "Candidate",
    "CosineClassifier",
    "Encoder",
    "Faces",
    "Gallery",
    "Identification",
    "IdentityClassifier",
    "IdentityTraining",
    "Recognizer",
    "Siamese",
    "TripletLoss",
    "Triplets",
    "Verification",
    "YuNet",
    "accepts",
    "align",
    "decode_yunet",
    "load_encoder",
    "mine_triplets",
    "pairs_of",
    "pairwise",
    "roc",
    "similarity_transform",
]
