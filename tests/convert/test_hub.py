"""config.json of a hub: what the published rows say there, told from ours, and written again."""

import json

import pytest
from safetensors.numpy import save_file

from babeldraw.convert import hub
from babeldraw.convert.networks import NETWORKS
from babeldraw.errors import UserError
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

# As the authors' YAML files have them, of which their hub's files are made.
L32 = {
    "codebook_size": 4096,
    "token_size": 12,
    "use_l2_norm": True,
    "commitment_cost": 0.25,
    "vit_enc_model_size": "large",
    "vit_dec_model_size": "large",
    "vit_enc_patch_size": 16,
    "vit_dec_patch_size": 16,
    "num_latent_tokens": 32,
    "finetune_decoder": True,
}
S128 = L32 | {
    "vit_enc_model_size": "small",
    "vit_dec_model_size": "small",
    "num_latent_tokens": 128,
}
BL128 = L32 | {
    "quantize_mode": "vq",
    "codebook_size": 8192,
    "token_size": 64,
    "use_l2_norm": False,
    "vit_enc_model_size": "base",
    "num_latent_tokens": 128,
    "finetune_decoder": False,
    "is_legacy": False,
}
VIT = {
    "model_type": "ViT",
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 3072,
    "dropout": 0.1,
    "attn_drop": 0.1,
    "num_steps": 8,
    "mask_schedule_strategy": "arccos",
    "class_label_dropout": 0.1,
    "image_seq_len": 32,
    "condition_num_classes": 1000,
    "randomize_temperature": 9.5,
    "guidance_scale": 4.5,
    "guidance_decay": "linear",
}
# Its rates of dropout are in the file, and its network has none.
UVIT = VIT | {
    "model_type": "UViT",
    "hidden_size": 1024,
    "num_hidden_layers": 20,
    "intermediate_size": 4096,
    "dropout": 0.0,
    "attn_drop": 0.0,
    "num_steps": 64,
    "image_seq_len": 128,
    "randomize_temperature": 2.8,
    "guidance_scale": 6.9,
    "guidance_decay": "power-cosine",
}
MASKGEN = {
    "decoder_embed_dim": 1024,
    "decoder_depth": 16,
    "decoder_num_heads": 16,
    "micro_condition": True,
    "micro_condition_embed_dim": 256,
    "text_drop_prob": 0.1,
    "condition_num_classes": 1000,
    "cfg": 12.0,
    "num_iter": 16,
    "temperature": 2.0,
    "sample_aesthetic_score": 6.5,
}
PUBLISHED = {
    ("titok", "titok.py", "l32,stage2"): {"vq_model": L32},
    ("titok", "titok.py", "s128,stage2"): {"vq_model": S128},
    ("titok", "titok.py", "tatitok_bl128"): {"vq_model": BL128 | {"clustering_vq": True}},
    ("maskgit", "maskgit.py", "titok_l32"): {"vq_model": L32, "generator": VIT},
    ("uvit", "maskgit.py", "titok_s128"): {"vq_model": S128, "generator": UVIT},
    ("maskgen", "maskgen.py", "l"): {"vq_model": BL128, "maskgen": MASKGEN},
}
TINY = "configs/titok.py:l32,single,runlocal"


def of(kind, file, argument):
    """What `check_beside` and `described_beside` take of a config."""
    return NETWORKS[kind].hub, parse(load_config(f"configs/{file}", "pyproject.toml", argument))


def whole(model):
    return {"model": model, "dataset": {"preprocessing": {"crop_size": 256}}}


@pytest.mark.parametrize("row", PUBLISHED, ids="-".join)
def test_a_published_row_is_described_as_its_authors_do(row, tmp_path):
    written, text = hub.described_beside(tmp_path / hub.WEIGHTS, *of(*row))
    ours = json.loads(text)
    theirs = whole(PUBLISHED[row])
    assert ours["dataset"] == theirs["dataset"]
    for section, fields in theirs["model"].items():
        assert ours["model"][section].items() >= fields.items()
    written.write_text(json.dumps(theirs))
    weights = str(tmp_path / hub.WEIGHTS)
    assert hub.check_beside(weights, "torch", *of(*row)) == str(written)


def test_another_row_is_one_line(tmp_path):
    (tmp_path / hub.NAME).write_text(json.dumps(whole({"vq_model": S128})))
    weights = tmp_path / hub.WEIGHTS
    l32 = of("titok", "titok.py", "l32,stage2")
    with pytest.raises(UserError, match=r"says model.vq_model.vit_enc_model_size='small', and"):
        hub.check_beside(str(weights), "torch", *l32)
    # Weights under other names may have any file beside them.
    assert hub.check_beside(str(tmp_path / "titok.safetensors"), "torch", *l32) == ""
    for text, line in {"{": "is no JSON", "[1]": "no section 'model'", "7": "'model'"}.items():
        (tmp_path / hub.NAME).write_text(text)
        with pytest.raises(UserError, match=line):
            hub.check_beside(str(weights), "torch", *l32)


def test_what_their_code_has_no_word_for_is_not_written(tmp_path):
    small = of("titok", "titok.py", "l32,single,runlocal")
    with pytest.raises(UserError, match="one of small, base, large"):
        hub.described_beside(tmp_path / hub.WEIGHTS, *small)
    for argument in ("bl64,stage1", "sl256,stage2"):
        with pytest.raises(UserError, match="scrambled is False and tokenizer.proxy is vqgan"):
            hub.described_beside(tmp_path / hub.WEIGHTS, *of("titok", "titok.py", argument))
    (tmp_path / hub.NAME).write_text("{}")
    with pytest.raises(UserError, match="is there already"):
        hub.described_beside(tmp_path / hub.WEIGHTS, *small)
    assert hub.described_beside(tmp_path / "other.safetensors", *small) is None


def test_the_commands_look_beside_the_weights(cli, tmp_path):
    save_file({}, tmp_path / hub.WEIGHTS)
    (tmp_path / hub.NAME).write_text(json.dumps(whole({"vq_model": L32})))
    words = ["--kind=titok", f"--config={TINY}", f"--torch={tmp_path / hub.WEIGHTS}"]
    status, _, said = cli("import", *words, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and "model.vq_model." in said and said.count("\n") == 1, said
