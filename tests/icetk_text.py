"""A vocabulary made as icetk's: unknown is 0, then begin and end, padding is 3, bytes spelt."""

import sentencepiece

CAPTIONS = [
    f"{size} {colour} {shape} on white, 一个{中文}图形"
    for size in ("small", "large", "tiny")
    for colour, 中文 in (("red", "红色"), ("green", "绿色"), ("blue", "蓝色"))
    for shape in ("circle", "square", "ring")
]


def write(path, size=360, named=True, **more):
    """Writes it; `named`: its file says which piece is padding. Returns the path as a string."""
    padding = {"pad_id": 3} if named else {"pad_id": -1, "user_defined_symbols": ["<pad>"]}
    options = {"vocab_size": size, "byte_fallback": True, "model_type": "unigram"}
    options |= {"unk_id": 0, "bos_id": 1, "eos_id": 2, "hard_vocab_limit": False, **padding}
    with open(path, "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS),
            model_writer=model,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
            **{**options, **more},
        )
    return str(path)
