"""Names with braces, each of which stands for many: `layers.{layer}.{w1,w3}.weight`.

`{a,b}` lists names whose arrays are stacked, `{a+b}` names whose arrays lie one behind the other,
and `{layer}` is a number.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

BRACES = re.compile(r"\{([^{}]*)\}")
# What torch's wrappers put into the names of what they wrap: compilation, FSDP, recomputation.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# And before all of them: DDP, and Lightning's strategies. Inside a name they may be a network's.
AROUND = ("module", "_forward_module")


def words(template: str) -> list[str]:
    """What stands for a number, in order, once each: `["layer"]`."""
    return list(dict.fromkeys(w for w in BRACES.findall(template) if not re.search("[,+]", w)))


def parts(template: str) -> list[str]:
    """The template for each name of `{a+b}`; itself alone where there is none."""
    for braces in BRACES.finditer(template):
        if "+" in braces[1]:
            before, after = template[: braces.start()], template[braces.end() :]
            return [f"{before}{name}{after}" for name in braces[1].split("+")]
    return [template]


def numbers(template: str, names: Iterable[str]) -> list[dict[str, int]]:
    """The numbers with which a template without `{a+b}` fits some of `names`, in order.

    Without words it is the same for all: `[{}]`.
    """
    if not words(template):
        return [{}]
    pattern, seen = "", set()
    for i, part in enumerate(BRACES.split(template)):
        if i % 2 == 0:
            pattern += re.escape(part)
        elif "," in part:
            pattern += f"(?:{'|'.join(map(re.escape, part.split(',')))})"
        else:
            pattern += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
            seen.add(part)
    matches = [match for name in names if (match := re.fullmatch(pattern, name))]
    found = {tuple(int(number) for number in match.groups()) for match in matches}
    return [dict(zip(words(template), values, strict=True)) for values in sorted(found)]


def expand(template: str, values: Mapping[str, int]) -> tuple[list[str], tuple[int, ...]]:
    """The names that a template without `{a+b}` lists, and how many words each list has.

    `expand("{a,b}.{layer}.w", {"layer": 3})` is `["a.3.w", "b.3.w"], (2,)`.
    """
    choices = [
        [part] if i % 2 == 0 else part.split(",") if "," in part else [str(values[part])]
        for i, part in enumerate(BRACES.split(template))
    ]
    names = ["".join(chosen) for chosen in itertools.product(*choices)]
    return names, tuple(len(listed) for listed in choices if len(listed) > 1)


def unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same by the network's own names, whichever of torch's wrappers it was saved in.

    `module.blocks.0._fsdp_wrapped_module.weight` is `blocks.0.weight` where all begin so.
    """
    paths = {name: [p for p in name.split(".") if p not in WRAPPERS] for name in tensors}
    while paths and all(len(path) > 1 and path[0] in AROUND for path in paths.values()):
        paths = {name: path[1:] for name, path in paths.items()}
    return {".".join(paths[name]): tensor for name, tensor in tensors.items()}
