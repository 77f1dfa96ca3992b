"""From pictures with boxes to a detector: what `jaxtl finetune` does where a folder holds COCO's JSON or YOLO's texts.

options     checks: what is refused        the way    trunks: maps of a pretrained network;  work: all of it
what is left   model: the detector, predictions, export;  page: what is known of it
"""

from jaxtl.finetune.boxes.model import Detecting, is_detector, load_detecting

__all__ = ["Detecting", "is_detector", "load_detecting"]
