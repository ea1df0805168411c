"""smolrecipe: whole language-model recipes from one file, every part of them a plugin.

What a plugin needs is here: ``hookimpl``, the descriptors, and ``option``, ``Use`` and ``StageRef`` for options.
"""

from smolrecipe.components import (
    Component,
    Devices,
    DryRun,
    Generation,
    Generator,
    Launcher,
    Loss,
    ModelComponent,
    NoOptions,
    Optimizer,
    Packer,
    ParameterGroup,
    RowFilter,
    Schedule,
    Source,
    StageKind,
    Tracker,
    Workload,
)
from smolrecipe.data import TokenRow, TokenRows
from smolrecipe.errors import Place, Problem, RecipeError, StageError, StageStopped, UserError, near_miss
from smolrecipe.generation import Answer, Answering, Candidate, Request
from smolrecipe.hookspecs import hookimpl
from smolrecipe.model import HfConfig, ModelDraft
from smolrecipe.options import Model, StageRef, Use, option
from smolrecipe.preference import PreferenceBatch, PreferenceLoss
from smolrecipe.proof import Proof
from smolrecipe.sampling import SamplingOptions
from smolrecipe.stage import Artifact, Measure, StageContext
from smolrecipe.untrusted import untrusted

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Answering",
    "Artifact",
    "Candidate",
    "Component",
    "Devices",
    "DryRun",
    "Generation",
    "Generator",
    "HfConfig",
    "Launcher",
    "Loss",
    "Measure",
    "Model",
    "ModelComponent",
    "ModelDraft",
    "NoOptions",
    "Optimizer",
    "Packer",
    "ParameterGroup",
    "Place",
    "PreferenceBatch",
    "PreferenceLoss",
    "Problem",
    "Proof",
    "RecipeError",
    "Request",
    "RowFilter",
    "SamplingOptions",
    "Schedule",
    "Source",
    "StageContext",
    "StageError",
    "StageKind",
    "StageRef",
    "StageStopped",
    "TokenRow",
    "TokenRows",
    "Tracker",
    "Use",
    "UserError",
    "Workload",
    "__version__",
    "hookimpl",
    "near_miss",
    "option",
    "untrusted",
]
