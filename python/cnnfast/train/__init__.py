"""Training: the trainer, metrics, early stopping, checkpoints.

Everything that a run is made of comes back from a checkpoint bit for bit, so that a run that was stopped
anywhere ends with the weights it would have had.
"""

from __future__ import annotations

from .checkpoint import is_checkpoint, load_checkpoint, save_checkpoint
from .evaluation import evaluate
from .history import History
from .metrics import accuracy, top_k
from .statistics import update_batch_norm
from .stopping import EarlyStopping
from .trainer import fit

__all__ = [
    "EarlyStopping",
    "History",
    "accuracy",
    "evaluate",
    "fit",
    "is_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "top_k",
    "update_batch_norm",
]
