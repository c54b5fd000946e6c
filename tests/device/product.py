"""Where the tests of this room find what they need of the product: module by module, in one place."""

from caikit_pt.base_model.budget import budget_for
from caikit_pt.base_model.checkpoint import Checkpoint, locate
from caikit_pt.base_model.frozen import BaseModel, Row, TrainingBatch
from caikit_pt.base_model.memory import free_memory_of
from caikit_pt.base_model.pool import load
from caikit_pt.base_model.recompute import recomputing
from caikit_pt.base_model.self_test import check_batching, check_itself, check_packing, check_training
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.sequence import Sequence as Request
from caikit_pt.serving.worker import Worker, limits
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.losses import losses
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.tuner import Progress, tune

__all__ = [
    "BaseModel",
    "Candidate",
    "Checkpoint",
    "Engine",
    "GenerationParameters",
    "Labels",
    "Limits",
    "Progress",
    "Request",
    "Row",
    "Snapshots",
    "SoftPrompt",
    "TrainingBatch",
    "TrainingInterrupted",
    "Worker",
    "budget_for",
    "check_batching",
    "check_itself",
    "check_packing",
    "check_training",
    "free_memory_of",
    "gradients",
    "limits",
    "load",
    "locate",
    "losses",
    "make_examples",
    "recomputing",
    "tune",
]
