"""From labelled pictures or texts of one's own to a model: what `jaxtl finetune` does, as a library.

what is asked       options     fields of the command line;  checks: what is refused;  plan: what time affords
what goes in        modalities  a picture or a text;  inputs: what a network is given of it;  tfidf: weighted words
the way             trunks      the pretrained network;  heads: the bar to beat;  recipes: what is tried beside them
                    choosing    who is best on the labels alone;  work: all of it;  command: as a function
what a label is     kinds       classes, several labels, numbers: loss, heads, measures;  readings: what outputs mean
where things are    boxes       the same for pictures with boxes: a detector, what it is chosen by, its page
what is left        model       the model;  export: for others;  card, page, sections: what is known of it
"""

from jaxtl.finetune.command import finetune
from jaxtl.finetune.model import Finetuned, load_finetuned
from jaxtl.finetune.options import Options

__all__ = ["Finetuned", "Options", "finetune", "load_finetuned"]
