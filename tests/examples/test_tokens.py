"""docs/examples/tokens.py: pictures of its probes, its cells, the quick variant in small."""

import argparse
import dataclasses
import gzip
import io
import json
import sys
import tarfile

import numpy as np
import pytest

from babeldraw.data.emoji import LIST, SETTINGS, entries
from babeldraw.data.emoji_packs import Icon
from babeldraw.data.image import save_png
from babeldraw.train.experiment import parse

GROUPS = ("Animals", "Food", "Flags")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("tokens")


def small_world(script, folder):
    """Pictures of one colour by group, a package that tells the groups, no weights to be read."""
    icons = [Icon(f"{0x10000 + n:x}", f"thing {n}", "") for n in range(60)]
    found = entries({style: icons for style in ("Noto", "Twemoji")})
    rng = np.random.default_rng(0)
    for entry in found:
        path = folder / script.PICTURES / entry.file
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = 80 * ((int(entry.concept, 16) - 0x10000) % len(GROUPS)) + rng.integers(
            0, 40, (12, 12, 3)
        )
        save_png(path, colour.astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1))
    rows = "\n".join(json.dumps(vars(entry)) for entry in found)
    (folder / script.PICTURES / LIST).write_text(rows + "\n")
    (folder / script.PICTURES / SETTINGS).write_text("{}")
    (folder / script.PACKAGES).mkdir()
    chars = {icon.concept: icon.name for icon in icons}
    categories = {group: [*chars.values()][n :: len(GROUPS)] for n, group in enumerate(GROUPS)}
    with tarfile.open(folder / script.PACKAGES / "iconify-json-toy-1.tgz", "w:gz") as archive:
        for name, held in (("chars", chars), ("metadata", {"categories": categories})):
            text = json.dumps(held).encode()
            info = tarfile.TarInfo(f"package/{name}.json")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    for kind in ("vgg_lpips", "alexnet_lpips"):
        (folder / f"{kind}.safetensors").touch()


def small_fashion(folder):
    folder.mkdir()
    for split in ("train", "t10k"):
        label = np.arange(64, dtype=np.uint8) % 10
        grey = np.zeros((64, 28, 28), np.uint8) + 20 * label[:, None, None]
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(bytes(16) + grey.tobytes())
        )
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(bytes(8) + label.tobytes())
        )


def asked(tmp_path, **more):
    said = {"workdir": tmp_path, "emoji": tmp_path / "emoji", "quick": False}
    return argparse.Namespace(**said, fashion_mnist=tmp_path / "fashion", **more)


def test_no_concept_both_teaches_and_judges_a_probe(script, tmp_path):
    (tmp_path / "emoji").mkdir()
    small_world(script, tmp_path / "emoji")
    (train, train_label), (test, test_label) = script.emoji_groups(asked(tmp_path))
    assert len(train) == len(train_label) > 2.5 * len(test) > 0
    for images, label in ((train, train_label), (test, test_label)):
        # Groups are numbered by their names; each has its colour.
        order = [GROUPS.index(group) for group in sorted(GROUPS)]
        np.testing.assert_array_equal(images[:, 0, 0, 0] // 80, np.array(order)[label])
    # Both styles of a concept lie on one side.
    assert len(train) % 2 == len(test) % 2 == 0


def test_fashion_is_read_or_left_out(script, tmp_path):
    assert script.fashion_mnist(asked(tmp_path)) is None
    small_fashion(tmp_path / "fashion")
    (train, label), (test, _) = script.fashion_mnist(asked(tmp_path))
    assert train.shape == test.shape == (64, 28, 28, 3)
    np.testing.assert_array_equal(train[:, 5, 7, 1], 20 * label)


def test_cells_differ_in_size_and_tokens_alone(script, tmp_path, monkeypatch):
    world = dataclasses.replace(script.EMOJI, configure=lambda *inputs: None)
    monkeypatch.setattr(script, "EMOJI", world)
    configs = {name: script.configured(name, asked(tmp_path)) for name in script.all_cells()}
    assert len(configs) == 10
    for config in configs.values():
        # Each has as many as fit into its minutes.
        sys.modules["cells"].set_steps(config, 500)
    found = {name: parse(config) for name, config in configs.items()}
    recipes = [(e.loss, e.train, e.optimizer, e.data, e.discriminator) for e in found.values()]
    assert all(recipe == recipes[0] for recipe in recipes) and recipes[0][0].perceptual == 0
    assert found["tiny_16"].tokenizer.tokens == 16 and found["base_64"].tokenizer.tokens == 64
    widths = [found[f"{size}_32"].tokenizer.encoder.dim for size in script.SIZES]
    assert widths == sorted(set(widths))
    assert found["vit_vqgan"].tokenizer.encoder.dim == widths[-1]


@pytest.mark.slow
@pytest.mark.budget(120)  # Two trainings, their judges and probes.
def test_the_quick_variant_goes_all_the_way(script, tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    small_world(script, tmp_path / "emoji")
    small_fashion(tmp_path / "fashion")
    words = [f"--workdir={tmp_path}", f"--fashion_mnist={tmp_path / 'fashion'}"]
    monkeypatch.setattr(sys, "argv", ["tokens.py", "--quick", "--cells=tiny_16,vit*", *words])
    script.main()
    folder = tmp_path / "figures" / "tokens"
    found = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
    assert {*found} == {"tiny_16", "vit_vqgan"} and found["tiny_16"]["tokens"] == 16
    assert found["tiny_16"]["probes"]["fashion_mnist"]["classes"] == 10
    assert "| TiTok, tiny | 16 |" in (tmp_path / "tokens.md").read_text()
    assert (tmp_path / "tokens.png").exists() and (tmp_path / "pictures.png").exists()
