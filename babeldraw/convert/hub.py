"""`config.json` of 1d-tokenizer's models on a hub, beside their `model.safetensors`.

The authors' `from_pretrained` builds a model from this file alone. An import compares it with the
config, so that the wrong row of a family is one line and no list of shapes; an export writes it.
Fields are those of the authors' YAML files: `model.vq_model`, `model.generator`, `model.maskgen`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from babeldraw.config import require
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.tokenizers.titok import TiTokConfig
from babeldraw.tokenizers.vector_quantizers import VQConfig

# The weights beside which it lies.
WEIGHTS, NAME = "model.safetensors", "config.json"
LARGEST = 2**20
# Blocks, heads and width of what they call a size; they have no other.
SIZES = {(8, 8, 512): "small", (12, 12, 768): "base", (24, 16, 1024): "large"}
# In their guidance; what has no name there is written as constant.
SCHEDULES = {"linear": "linear", "cosine": "cosine", "power_cosine": "power-cosine"}


@dataclasses.dataclass(frozen=True)
class Described:
    """Attributes:
    network: fields that say which network the weights are of, by names joined with dots.
    others: further ones that their classes ask for, of training and drawing.
    """

    network: Mapping[str, Any]
    others: Mapping[str, Any]


def describe_titok(experiment: Any) -> Described:
    """TiTok's and TA-TiTok's tokenizers.

    Raises:
      UserError: the slip without a proxy or a proxy without the slip, for which they have no word.
    """
    config = experiment.tokenizer
    require(
        config.scrambled == (config.proxy is not None),
        f"tokenizer.scrambled is {config.scrambled} and tokenizer.proxy is "
        f"{'None' if config.proxy is None else config.proxy.kind}: in a {NAME} one flag says both, "
        f"so these weights have none; give them another name than {WEIGHTS}",
    )
    return Described(*_tokenizer(config))


def describe_masked(experiment: Any) -> Described:
    """TiTok's generators of BERT's and of the U-ViT type, by classes."""
    stack, codes = experiment.model.stack, experiment.made_codes_by.codes
    long_skips = experiment.model.kind == "uvit"
    network = {
        "vq_model.codebook_size": codes.vocab_size,
        "vq_model.num_latent_tokens": codes.length,
        "generator.model_type": "UViT" if long_skips else "ViT",
        "generator.hidden_size": stack.dim,
        # The middle block of the U-ViT is one more than they count.
        "generator.num_hidden_layers": stack.blocks - long_skips,
        "generator.num_attention_heads": stack.heads,
        "generator.intermediate_size": stack.hidden,
        "generator.image_seq_len": codes.length,
        "generator.condition_num_classes": getattr(experiment.condition, "num_classes", 0),
    }
    sampling = experiment.sampling
    others = {
        "generator.dropout": stack.dropout,
        "generator.attn_drop": stack.attention_dropout,
        "generator.class_label_dropout": experiment.condition.dropout,
        "generator.mask_schedule_strategy": experiment.prediction.schedule,
        "generator.num_steps": sampling.steps,
        "generator.randomize_temperature": sampling.choice_temperature,
        # BERT's type guides by `cond + scale (cond - uncond)`.
        "generator.guidance_scale": sampling.guidance - (not long_skips),
        "generator.guidance_decay": SCHEDULES.get(sampling.guidance_schedule, "constant"),
    }
    return Described(_under_model(network), _beside(experiment) | _under_model(others))


def describe_maskgen(experiment: Any) -> Described:
    """MaskGen on discrete codes."""
    model, codes, sampling = experiment.model, experiment.made_codes_by.codes, experiment.sampling
    network = {
        "vq_model.codebook_size": codes.vocab_size,
        "vq_model.num_latent_tokens": codes.length,
        "maskgen.decoder_embed_dim": model.stack.dim,
        "maskgen.decoder_depth": model.stack.blocks,
        "maskgen.decoder_num_heads": model.stack.heads,
        "maskgen.micro_condition": model.score_dim > 0,
        "maskgen.micro_condition_embed_dim": model.score_dim,
        # One more row of their table says that there is no class; neither is read.
        "maskgen.condition_num_classes": model.spare - 1,
    }
    others = {
        "maskgen.text_drop_prob": experiment.condition.dropout,
        "maskgen.sample_aesthetic_score": model.score,
        "maskgen.cfg": sampling.guidance - 1,
        "maskgen.num_iter": sampling.steps,
        "maskgen.temperature": sampling.choice_temperature,
    }
    return Described(_under_model(network), _beside(experiment) | _under_model(others))


# Says it of a whole config.
Describe = Callable[[Any], Described]


def check_beside(file: str, flag: str, describe: Describe | None, experiment: Any) -> str:
    """Compares the config.json beside a file of a hub with what a run's config describes.

    Args:
      file: the weights' path; unless it is named as on the hub, nothing is looked for.
      flag: what the user calls it, without dashes.
      describe: of the network; None: no such file is published of it.
      experiment: the run's config.

    Returns:
      the path of the config.json, or an empty text where none was compared.

    Raises:
      UserError: it cannot be read, or says otherwise.
    """
    path = Path(file).with_name(NAME)
    if describe is None or Path(file).name != WEIGHTS or not path.is_file():
        return ""
    theirs = flatten_dict(_read(path, f"--{flag}={file}"), sep=".")
    for name, ours in describe(experiment).network.items():
        said = theirs.get(name, ours)
        require(
            said == ours,
            f"--{flag}={file}: its {NAME} says {name}={said!r}, and --config describes {ours!r}; "
            "take the row of the family that these weights are of",
        )
    return str(path)


def described_beside(
    file: Path, describe: Describe | None, experiment: Any
) -> tuple[Path, str] | None:
    """The path and text of config.json beside weights named as on the hub; None beside others.

    Raises:
      UserError: one is there already, or their code has no word for a part of the network.
    """
    if describe is None or file.name != WEIGHTS:
        return None
    path, described = file.with_name(NAME), describe(experiment)
    require(not path.exists(), f"{path} is there already; write to another folder, or remove it")
    for name, value in described.network.items():
        require(
            not name.endswith("_model_size") or value in SIZES.values(),
            f"{file} would need a {NAME}, in which {name} is one of {', '.join(SIZES.values())}; "
            f"this run's is {value!r}. Give the file another name, and no {NAME} is written",
        )
    fields = unflatten_dict({**described.others, **described.network}, sep=".")
    return path, json.dumps(fields, indent=2) + "\n"


def _read(path: Path, name: str) -> dict[str, Any]:
    require(
        path.stat().st_size <= LARGEST,
        f"{name}: {path} has more than {LARGEST:,} bytes, so it is no {NAME} of 1d-tokenizer's",
    )
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: {path} beside it is no JSON: {error}") from error
    require(
        isinstance(found, dict) and isinstance(found.get("model"), dict),
        f"{name}: {path} beside it has no section 'model', so it is no {NAME} of 1d-tokenizer's; "
        "move one of the two",
    )
    return found


def _tokenizer(config: TiTokConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """`network` and `others` of a TiTok."""
    quantizer = config.quantizer
    network = {
        "quantize_mode": "vq" if quantizer.vocab else "vae",
        "token_size": quantizer.code_dim,
        "vit_enc_model_size": _size(config.encoder),
        "vit_dec_model_size": _size(config.decoder),
        "vit_enc_patch_size": config.patch_size,
        "vit_dec_patch_size": config.patch_size,
        "num_latent_tokens": config.tokens,
        "finetune_decoder": config.through_proxy,
        # One flag of theirs for the slip and for codes in place of pixels.
        "is_legacy": config.scrambled,
    }
    # Theirs; it matters in training alone, but their constructor asks for it.
    others = {"commitment_cost": 0.25}
    if isinstance(quantizer, VQConfig):
        network |= {
            "codebook_size": quantizer.codebook_size,
            "use_l2_norm": quantizer.l2_normalized,
        }
        others["clustering_vq"] = quantizer.restart_how == "clustered"
    network = {f"vq_model.{name}": value for name, value in network.items()}
    others = {f"vq_model.{name}": value for name, value in others.items()}
    crop = {"dataset.preprocessing.crop_size": config.image_size[0]}
    return _under_model(network) | crop, _under_model(others)


def _beside(experiment: Any) -> dict[str, Any]:
    """Of a generator, all that is said of its tokenizer, where that is a TiTok of their sizes."""
    config = experiment.tokenizer
    if not isinstance(config, TiTokConfig) or {_size(config.encoder), _size(config.decoder)} - {
        *SIZES.values()
    }:
        return {}
    network, others = _tokenizer(config)
    return others | network


def _size(stack: TransformerConfig) -> str:
    shape = (stack.blocks, stack.heads, stack.dim)
    return SIZES.get(shape, f"{stack.blocks} blocks of width {stack.dim}, {stack.heads} heads")


def _under_model(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in fields.items()}
