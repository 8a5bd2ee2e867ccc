"""Published ways of measuring by name: `protocol=adm_imagenet_256` of an evaluator's section.

A protocol fixes fields of the section and asks things of the run; what it says, and what of it is
another one here, goes into the result's JSON.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from babeldraw.config import require


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Attributes:
    about: what is drawn and what it is compared with, in words.
    source: where that is said.
    network: whose features, of `judges.features.NETWORKS`.
    num: pictures that are drawn; 0: any number.
    true: pictures that they are compared with; 0: as many.
    half_distances: whether distances are float16's.
    size: (height, width) of the pictures; None: any.
    per_class: pictures of each class; 0: they are not drawn of classes.
    guidance: with which pictures are drawn; None: it is the paper's own to say.
    figures: those that it is named for.
    differs: what is not known of it, or is another one here.
    """

    about: str
    source: str
    network: str
    num: int = 0
    true: int = 0
    half_distances: bool = False
    size: tuple[int, int] | None = None
    per_class: int = 0
    guidance: float | None = None
    figures: tuple[str, ...] = ("fid",)
    differs: tuple[str, ...] = ()


_CROP = "true pictures are cropped in their middle; Parti's crops are random within narrow bounds"
PROTOCOLS: dict[str, Protocol] = {
    "adm_imagenet_256": Protocol(
        "50,000 pictures of 256 px, 50 of each of ImageNet's 1,000 classes, against the statistics "
        "of its training pictures; precision and recall against 10,000 of them",
        "Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, and its "
        "evaluations/evaluator.py",
        "inception",
        50_000,
        half_distances=True,
        size=(256, 256),
        per_class=50,
        figures=("fid", "inception_score", "sfid", "precision", "recall"),
        differs=(
            "how TensorFlow orders a sum of float16 is its own; here it is a float32 rounded once",
            "the root of a product of covariances is that of a symmetric one, not SciPy's sqrtm",
        ),
    ),
    "parti_coco_30k": Protocol(
        "30,000 pictures of 256 px, of captions of MS-COCO 2014 val, against as many of its own",
        "Yu et al., Scaling Autoregressive Models for Content-Rich Text-to-Image Generation, 2022, "
        "Table 5; features of pytorch-fid",
        "inception_half_pixel",
        30_000,
        size=(256, 256),
        guidance=1.2,
        differs=(
            _CROP,
            "Parti draws 16 of each and keeps the best by CoCa; here one is drawn",
            "which 30,000 is not published; here the first of the source, one caption each",
        ),
    ),
    "ln_coco": Protocol(
        "30,000 pictures of 256 px, six of each caption of Localized Narratives of MS-COCO's 5,000 "
        "val pictures, against these",
        "Yu et al., 2022, Table 5",
        "inception_half_pixel",
        30_000,
        true=5_000,
        size=(256, 256),
        guidance=1.2,
        differs=(_CROP, "Parti draws 16 of each and keeps the best by CoCa; here one is drawn"),
    ),
    "pytorch_fid": Protocol(
        "all pictures of one set against all of another, each resized to 299 px as it is",
        "https://github.com/mseitzer/pytorch-fid",
        "inception_half_pixel",
        differs=("the root of a product of covariances is that of a symmetric one",),
    ),
}


def fixed_fields(section: Any) -> dict[str, Any]:
    """The fields that the section's `protocol` fixes, where they are not so already.

    Raises:
      UserError: there is no such protocol, or the section says another value than it and than the
        default.
    """
    if not section.protocol:
        return {}
    path, name = section.path, section.protocol
    require(
        name in PROTOCOLS,
        f"{path}.protocol is {name!r}; the protocols are {', '.join(PROTOCOLS)}",
    )
    defaults = {field.name: field.default for field in dataclasses.fields(section)}
    wanted = PROTOCOLS[name]
    fixed: dict[str, Any] = {"network": wanted.network, "half_distances": wanted.half_distances}
    if wanted.true and "num_drawn" in defaults:
        fixed |= {"num_examples": wanted.true, "num_drawn": wanted.num}
    elif wanted.num:
        fixed["num_examples"] = wanted.num
    for field, value in fixed.items():
        own = getattr(section, field)
        require(
            own in (value, defaults[field]),
            f"{path}.{field} is {own!r} and protocol={name} is of {value!r}; leave one out",
        )
    return fixed


def check_number(name: str, path: str, num: int) -> None:
    """Raises `UserError` where a protocol is of another number of pictures, drawn or true."""
    wanted = PROTOCOLS[name] if name else None
    require(
        wanted is None or not wanted.num or num in (wanted.num, wanted.true),
        f"{path}.protocol={name} is of {wanted and wanted.num} pictures and there are {num}; give "
        "as many, or leave protocol out",
    )


def check_size(name: str, path: str, size: tuple[int, int]) -> None:
    """Raises `UserError` where a protocol is of pictures of another (height, width)."""
    wanted = PROTOCOLS[name].size if name else None
    require(
        wanted is None or tuple(size) == wanted,
        f"{path}.protocol={name} is of pictures of {wanted} and these are of {tuple(size)}; leave "
        "protocol out, and the figure is one of its own",
    )


def check_drawing(name: str, path: str, guidance: float, words: Sequence[Any], kind: str) -> None:
    """Raises `UserError` where pictures are drawn of other things, or otherwise, than it says.

    Args:
      name: of the protocol; empty: none.
      path: of the section.
      guidance: with which pictures are drawn.
      words: what each picture is drawn of.
      kind: of the run's condition.
    """
    if not name:
        return
    wanted = PROTOCOLS[name]
    require(
        wanted.guidance in (None, guidance),
        f"{path}.sampling.guidance is {guidance} and protocol={name} is of {wanted.guidance}; set "
        "it, or leave protocol out",
    )
    if wanted.per_class:
        different = len(set(map(str, words)))
        require(
            kind == "class" and len(words) == wanted.per_class * different,
            f"{path}.protocol={name} is of {wanted.per_class} pictures of each of "
            f"{len(words) // wanted.per_class} classes; the run draws from a {kind}, "
            f"{len(words)} pictures of {different}",
        )


def named(name: str) -> dict[str, Any]:
    """What the result's JSON says of a protocol."""
    return {"name": name, **dataclasses.asdict(PROTOCOLS[name])}
