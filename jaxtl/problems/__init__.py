"""Questions put to methods: what a draw is given, where training starts, how what was trained is judged.

a source model and few labels    source, few_shot; pretrained: a source behind frozen stages
what is refused beforehand       checks
rates, starts that are learned   tuning, meta
several tasks                    many_tasks, new_task
a target without labels          adaptation
several modalities               pairs
images and what is said of them   joint_space, few_described
boxes in pictures                detection
what a clinician asks            clinical
clients that keep their examples clients
how hard to pull, by criterion   criteria, pull_map, trunk_pulls
images, tokens, clips on the way images, texts, clips
"""

from jaxtl.problems.adaptation import Adaptation, AdaptationConfig
from jaxtl.problems.checks import (
    check_examples,
    check_halving,
    check_memory,
    check_plan,
    check_tasks,
    check_training,
    choose_tasks,
)
from jaxtl.problems.clients import PARTITIONS, Clients, ClientsConfig, check_clients
from jaxtl.problems.clinical import Clinical
from jaxtl.problems.detection import Detection, DetectionConfig, check_detection
from jaxtl.problems.few_described import FewDescribed
from jaxtl.problems.few_shot import FewShot, FewShotConfig, LabelledConfig, MeasureName
from jaxtl.problems.few_texts import FewTexts
from jaxtl.problems.images import Images, accuracy, averaged_down, outputs, predict
from jaxtl.problems.joint_space import Described, JointSpace, SpaceConfig
from jaxtl.problems.many_tasks import ManyTasks, ManyTasksConfig, check_many_tasks
from jaxtl.problems.meta import MetaConfig, SmallTasks
from jaxtl.problems.new_task import NewTask
from jaxtl.problems.pairs import Pairs, PairsConfig, check_pairs
from jaxtl.problems.source import (
    CLASSIFY,
    Source,
    SourceConfig,
    TextSourceConfig,
    make_model,
    make_source,
    make_sources,
    objective_of,
)
from jaxtl.problems.texts import Texts
from jaxtl.problems.tuning import Found, Tuning

__all__ = [
    "CLASSIFY",
    "PARTITIONS",
    "Adaptation",
    "AdaptationConfig",
    "Clients",
    "ClientsConfig",
    "Clinical",
    "Described",
    "Detection",
    "DetectionConfig",
    "FewDescribed",
    "FewShot",
    "FewShotConfig",
    "FewTexts",
    "Found",
    "Images",
    "JointSpace",
    "LabelledConfig",
    "ManyTasks",
    "ManyTasksConfig",
    "MeasureName",
    "MetaConfig",
    "NewTask",
    "Pairs",
    "PairsConfig",
    "SmallTasks",
    "Source",
    "SourceConfig",
    "SpaceConfig",
    "TextSourceConfig",
    "Texts",
    "Tuning",
    "accuracy",
    "averaged_down",
    "check_clients",
    "check_detection",
    "check_examples",
    "check_halving",
    "check_many_tasks",
    "check_memory",
    "check_pairs",
    "check_plan",
    "check_tasks",
    "check_training",
    "choose_tasks",
    "make_model",
    "make_source",
    "make_sources",
    "objective_of",
    "outputs",
    "predict",
]
