"""Where the tests of this room find what they need of the product: module by module, in one place."""

from caikit_pt.base_model.budget import budget_for
from caikit_pt.base_model.layers.recompute import recomputing
from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.base_model.loading.memory import free_memory_of
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.base_model.row import Row, TrainingBatch
from caikit_pt.base_model.trials.answers import check_answers
from caikit_pt.base_model.trials.batching import check_batching
from caikit_pt.base_model.trials.training import check_packing, check_training
from caikit_pt.errors import AnswerNotFinite, TrainingInterrupted
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import Request
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.worker import Worker, limits
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.task_prompts import TaskPrompts
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.losses import backward, losses
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_tuner import tune_source
from caikit_pt.tuning.task_learner import TaskLearner
from caikit_pt.tuning.teaching import Teaching
from caikit_pt.tuning.tuner import tune

__all__ = [
    "AnswerNotFinite",
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
    "TaskLearner",
    "TaskPrompts",
    "Teaching",
    "TrainingBatch",
    "TrainingInterrupted",
    "Worker",
    "backward",
    "budget_for",
    "check_answers",
    "check_batching",
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
    "tune_source",
]
