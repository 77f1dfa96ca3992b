"""A tokenizer of a few words, as a trunk of texts brings one."""

from __future__ import annotations

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]
WORDS += ["good", "bad", "film", "the", "is", "very", "dull", "fine", "##ly"]


def description() -> bytes:
    """Its tokenizer.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    number = {word: place for place, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(number, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(WORDS[:4])
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made.to_str().encode()
