"""Questions put to methods: what a draw is given, where training starts, how what was trained is judged.

a source model and few labels    source, few_shot
what is refused beforehand       checks
several tasks                    many_tasks, new_task
raw images on their way          images
"""

from jaxtl.problems.checks import check_examples, check_memory, check_plan, check_tasks, choose_tasks
from jaxtl.problems.few_shot import FewShot, FewShotConfig
from jaxtl.problems.images import Images, accuracy, outputs, predict
from jaxtl.problems.many_tasks import ManyTasks, ManyTasksConfig, check_many_tasks
from jaxtl.problems.new_task import NewTask
from jaxtl.problems.source import CLASSIFY, Source, SourceConfig, make_model, make_source

__all__ = [
    "CLASSIFY",
    "FewShot",
    "FewShotConfig",
    "Images",
    "ManyTasks",
    "ManyTasksConfig",
    "NewTask",
    "Source",
    "SourceConfig",
    "accuracy",
    "check_examples",
    "check_many_tasks",
    "check_memory",
    "check_plan",
    "check_tasks",
    "choose_tasks",
    "make_model",
    "make_source",
    "outputs",
    "predict",
]
