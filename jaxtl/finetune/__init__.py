"""From labelled pictures of one's own to a model: what `jaxtl finetune` does, as a library.

what is asked       options     fields of the command line;  plan: what a budget of time affords
the way             trunks      the pretrained network;  heads: the bar;  choosing: who is best;  work: all of it
what is left        model       the classifier;  export: for others;  page: its report
"""

from jaxtl.finetune.command import finetune
from jaxtl.finetune.model import Finetuned, load_finetuned
from jaxtl.finetune.options import Options

__all__ = ["Finetuned", "Options", "finetune", "load_finetuned"]
