"""Every config loads, says how it is run and trains when small; sizes are the published ones."""

import importlib.util
import json
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from babeldraw.errors import UserError
from babeldraw.judges.discriminators import StyleGANConfig
from babeldraw.models.coca import ContrastiveCaptioner
from babeldraw.models.super_resolution import Upscaler
from babeldraw.objectives.adversarial import AdversarialConfig
from babeldraw.optim.schedules import make_schedule
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANTokenizer
from babeldraw.train.built_on import begins_from_tokenizer
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.presets import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))
# Configs by their first row; and rows of tokenizers that others begin from.
ROWS = [
    ("titok.py", "bl128"),
    ("titok.py", "tatitok_bl128"),
    ("demo/titok.py", "text"),
    ("vqgan.py", "llamagen_16"),
    ("vqgan.py", "magvit2"),
    ("demo/titok.py", "vae"),
    ("emoji/titok.py", "vae"),
]
MAKERS = [*((name, "") for name in NAMES), *ROWS]
BABELDRAW = {
    # Blocks of encoder and decoder, heads, dim, hidden; millions of parameters in the blocks.
    # Parti, Table 1.
    "350m": (12, 12, 16, 1024, 4096, 352.4),
    "750m": (12, 36, 16, 1024, 4096, 755.2),
    "3b": (12, 36, 32, 2048, 8192, 3_020),
    "20b": (16, 64, 64, 4096, 16384, 20_400),
}
VIT_VQGAN = {
    # Blocks, heads, dim, hidden of encoder and decoder. ViT-VQGAN, Table 1 and section 4.1.
    "small": ((8, 8, 512, 2048), (8, 8, 512, 2048)),
    "base": ((12, 12, 768, 3072), (12, 12, 768, 3072)),
    "large": ((8, 8, 512, 2048), (32, 16, 1280, 5120)),
}


IMAGE_SIDE, TEXT_SIDE = ("image_encoder",), ("unimodal", "multimodal")
FIGURES = {
    "image_tokenizer": "reconstruction/psnr_db",
    "generator": "validation/loss",
    "super_resolution": "upscaling/psnr_db",
    "image_classifier": "classification/loss",
    "contrastive_captioner": "captioning/loss",
    "text_encoder": "masked/loss",
}


def load(name, variant=""):
    return load_config(name, CONFIGS / "README", variant)


def sizes(stack):
    return stack.blocks, stack.heads, stack.dim, stack.hidden


def key(config):
    return config.to_json(sort_keys=True)


def reads_text(name):
    return parse(load(name)).text_length > 0


def makes_pictures(name):
    experiment = parse(load(name))
    if not hasattr(experiment, "prediction"):
        return experiment.objective != "image_classifier"
    return experiment.condition.in_words and experiment.prediction.begins


def trains_tokenizer(experiment):
    return experiment.objective == "image_tokenizer"


def needs_tokenizer(experiment):
    """Whether it begins from the run of a trained tokenizer."""
    return experiment.frozen_tokenizer or begins_from_tokenizer(experiment)


# ------------------------------------------------------------------ every config


@pytest.mark.parametrize("name", NAMES)
def test_a_config_loads_and_says_how_it_is_run(name):
    experiment = parse(load(name))
    spec = importlib.util.spec_from_file_location("config", CONFIGS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"babeldraw train --config=configs/{name} --workdir=" in module.__doc__
    assert ("--config.tokenizer_run=" in module.__doc__) == needs_tokenizer(experiment)
    if experiment.data.source not in ("shapes", "shape_pairs", "digits"):
        assert "--config.data.path=" in module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_another_variant_is_refused(name):
    with pytest.raises(UserError, match="the config's argument is 'huge'; it may be .*runlocal"):
        load(name, "huge")


def test_what_super_resolution_by_codes_goes_on_from_has_a_config():
    coglm, enlarger = parse(load("emoji/coglm.py", "hierarchy")), parse(load("emoji/enlarger.py"))
    assert coglm.tokenizer == enlarger.tokenizer == parse(load("emoji/hierarchy.py")).tokenizer
    assert coglm.level == enlarger.condition.parts["codes"].level == "8"
    assert coglm.model.decoder == enlarger.model.decoder
    tiny = parse(load("emoji/coglm.py", "hierarchy,runlocal"))
    assert tiny.level == "8" and tiny.data.source == "shapes"


@pytest.fixture(scope="module")
def trained(tokenizer_run, generator_run, coca_run, tmp_path_factory):
    """`trained(config)`: the folder of its run; equal configs share one."""
    folders = {
        key(load("demo/tokenizer.py", "runlocal")): tokenizer_run,
        key(load("demo/text_to_image.py", "runlocal")): generator_run,
        key(load("demo/coca.py", "runlocal")): coca_run,
    }

    def run(config):
        same = key(config)
        if same not in folders:
            folders[same] = tmp_path_factory.mktemp("runlocal") / "run"
            if needs_tokenizer(parse(config)):
                config.tokenizer_run = str(run(tokenizer_of(config)))
            train(config, str(folders[same]))
        return folders[same]

    return run


def tokenizer_of(config):
    """The config of stage 1 whose `runlocal` trains the tokenizer that this one needs."""
    asked = parse(config)
    for name, row in MAKERS:
        variant = f"{row},runlocal" if row else "runlocal"
        found = parse(load(name, variant))
        if trains_tokenizer(found) and fits(asked, found):
            return load(name, variant)
    raise AssertionError(f"no config trains {asked.tokenizer}")


def fits(asked, found):
    """Whether the tokenizer that `found` trains is the one that `asked` begins from."""
    if asked.frozen_tokenizer:
        return asked.tokenizer == found.tokenizer
    # A new decoder: for the encoder and the codebook of another run.
    fields, own = (make_tokenizer(one.tokenizer).code_fields for one in (asked, found))
    return not found.taken and fields == own


# What a first user runs; the other configs are trained where there is time (-m slow).
FIRST = ("demo/tokenizer.py", "demo/text_to_image.py")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FIRST else pytest.mark.slow) for n in NAMES]
)
def test_runlocal_trains_to_its_end(name, trained):
    folder = trained(load(name, "runlocal"))
    report = json.loads((folder / "report.json").read_text())
    assert report["step"] == 4
    assert report[FIGURES[load(name).objective]] > 0
    assert (folder / "text.model").exists() == reads_text(name)
    # A classifier has no picture to show, nor what works on codes that others draw.
    assert bool([*(folder / "samples").glob("*.png")]) == makes_pictures(name)


def test_what_needs_a_tokenizer_has_one_to_go_with():
    experiments = [parse(load(name)) for name in NAMES]
    makers = [e for e in (parse(load(*maker)) for maker in MAKERS) if trains_tokenizer(e)]
    for asked in filter(needs_tokenizer, experiments):
        assert any(fits(asked, found) for found in makers), asked.tokenizer


# ------------------------------------------------------------------ as published


@pytest.mark.parametrize("name", BABELDRAW)
def test_babeldraw_has_its_published_size(name):
    experiment = parse(load(f"babeldraw/{name}.py"))
    encoder, decoder, *same, millions = BABELDRAW[name]
    assert sizes(experiment.model.encoder) == (encoder, *same)
    assert sizes(experiment.model.decoder) == (decoder, *same)
    tokens = ViTVQGANTokenizer(experiment.tokenizer).codes
    assert (tokens.vocab_size, tokens.shape) == (8192, (32, 32))
    assert (experiment.condition.vocab_size, experiment.condition.length) == (16_000, 128)

    params = nn.unbox(jax.eval_shape(experiment.generator.init, jax.random.key(0)))
    blocks = [params[side]["stack"]["blocks"] for side in ("text_encoder", "image_decoder")]
    total = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(blocks)
        if not any("norm" in str(key) for key in path)
    )
    assert abs(total / (millions * 1e6) - 1) < 0.01


@pytest.mark.parametrize("name", BABELDRAW)
def test_babeldraw_is_trained_as_published(name):
    experiment = parse(load(f"babeldraw/{name}.py"))
    assert (experiment.train.steps, experiment.train.batch_size) == (450_000, 8192)
    assert experiment.model.encoder.dropout == experiment.model.decoder.dropout == 0.1
    optimizer = experiment.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adafactor", 0.9, 0.96)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (4.5e-2, 4.0)
    assert optimizer.moment_dtype == "int8"
    rate = make_schedule(optimizer.schedule)
    for step, value in {
        0: 0,
        1_000: 0.9e-5,
        5_000: 4.5e-5,
        85_000: 4.5e-5,
        # Half of a log-linear decay to a fortieth.
        267_500: 4.5e-5 * 0.025**0.5,
        450_000: 1.125e-6,
        600_000: 1.125e-6,
    }.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", VIT_VQGAN)
def test_vit_vqgan_has_its_published_sizes(name):
    experiment = parse(load(f"vit_vqgan/{name}.py"))
    config = experiment.tokenizer
    assert (sizes(config.encoder), sizes(config.decoder)) == VIT_VQGAN[name]
    assert (config.image_size, config.patch_size) == ((256, 256), 8)
    assert config.quantizer == VQConfig(8192, 32, l2_normalized=True)


@pytest.mark.parametrize("name", VIT_VQGAN)
def test_vit_vqgan_is_trained_as_published(name):
    experiment = parse(load(f"vit_vqgan/{name}.py"))
    optimizer = experiment.optimizer
    assert (experiment.train.steps, experiment.train.batch_size) == (500_000, 256)
    assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adamw", 0.9, 0.99)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (1e-4, 0.0)
    loss = experiment.loss
    weights = loss.l2, loss.perceptual, loss.adversarial, loss.logit_laplace, loss.commitment
    assert weights == (1.0, 0.1, 0.1, 0.1, 0.25) and loss.restart_below == 0
    assert experiment.tokenizer.output == "logit_laplace"
    assert experiment.discriminator == StyleGANConfig()
    assert experiment.adversarial == AdversarialConfig()
    assert experiment.discriminator_optimizer == optimizer
    rate = make_schedule(optimizer.schedule)
    for step, value in {0: 0, 25_000: 5e-5, 50_000: 1e-4, 500_000: 5e-5}.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("name", "side", "millions"), [("512", 512, 15), ("1024", 1024, 30)])
def test_super_resolution_is_as_published(name, side, millions):
    experiment = parse(load(f"super_resolution/{name}.py"))
    assert (experiment.tokenizer.image_size, experiment.image_size) == ((256, 256), (side, side))
    network = experiment.super_resolution
    assert (network.blocks, network.channels) == (12, 128)
    params = nn.unbox(jax.eval_shape(Upscaler(network).init, jax.random.key(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == pytest.approx(millions * 1e6, rel=0.06)
    loss = experiment.loss
    assert (loss.l2, loss.perceptual, loss.adversarial) == (1.0, 0.1, 0.1)
    assert experiment.discriminator.kind == "stylegan"


VIM = {
    # Blocks, heads, dim, hidden; classes. ViT-VQGAN, Table 2.
    "base": ((24, 16, 1536, 6144), 1000),
    "large": ((36, 32, 2048, 8192), 1000),
    "celeba_hq": ((36, 32, 2048, 8192), 0),
    "ffhq": ((36, 32, 2048, 8192), 0),
}


@pytest.mark.parametrize("name", VIM)
def test_vim_is_as_published(name):
    experiment = parse(load(f"vim/{name}.py"))
    decoder = experiment.model.decoder
    assert (sizes(decoder), experiment.condition.num_classes) == VIM[name]
    assert decoder.dropout == 0.1 and experiment.condition.dropout == 0
    tokens = ViTVQGANTokenizer(experiment.tokenizer).codes
    assert (tokens.vocab_size, tokens.shape) == (8192, (32, 32))
    assert (experiment.train.steps, experiment.train.batch_size) == (450_000, 1024)
    optimizer, sampling = experiment.optimizer, experiment.sampling
    assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adafactor", 0.9, 0.96)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.guidance) == (1, 0, 1, 1)
    rate = make_schedule(optimizer.schedule)
    for step, value in {0: 0, 5_000: 4.5e-4, 80_000: 4.5e-4, 450_000: 1e-5}.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


MASKGIT = {
    # The places of a picture; millions of parameters; steps of drawing, guidance, the noise.
    "google_256": ((16, 16), 172.5, 8, 1.0, 4.5),
    "google_512": ((32, 32), 173.0, 12, 1.0, 4.5),
    "titok_l32": ((32,), 177.2, 8, 5.5, 9.5),
    "titok_b64": ((64,), 177.2, 8, 4.0, 11.0),
    # Of 512 px; the papers tell no number of parameters and no way of drawing.
    "titok_l64_512": ((64,), 177.2, 8, 5.5, 9.5),
    "titok_b128_512": ((128,), 177.3, 8, 4.0, 11.0),
}


@pytest.mark.parametrize("row", MASKGIT)
def test_maskgit_is_as_published(row):
    experiment = parse(load("maskgit.py", row))
    places, millions, *drawing = MASKGIT[row]
    generator, sampling = experiment.generator, experiment.sampling
    assert sizes(generator.config.stack) == (24, 16, 768, 3072)
    assert generator.codes.shape == places and experiment.condition.num_classes == 1000
    params = nn.unbox(jax.eval_shape(generator.init, jax.random.key(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == pytest.approx(millions * 1e6, abs=0.05e6)
    assert [sampling.steps, sampling.guidance, sampling.choice_temperature] == drawing
    rate = make_schedule(experiment.optimizer.schedule)
    constant = {5_000: 1e-4, 2_000_000: 1e-4}
    cosine = {10_000: 2e-4, 255_000: 1.05e-4, 500_000: 1e-5}
    for step, value in (cosine if row.startswith("titok") else constant).items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


def test_titok_s128_is_drawn_as_published():
    experiment = parse(load("maskgit.py", "titok_s128"))
    assert sizes(experiment.model.stack) == (21, 16, 1024, 4096)
    assert experiment.generator.codes.shape == (128,)
    drawing, schedule = experiment.sampling, ("power_cosine", 3.0)
    assert (drawing.steps, drawing.guidance, drawing.choice_temperature) == (64, 6.9, 2.8)
    assert (drawing.guidance_schedule, drawing.guidance_power) == schedule


@pytest.mark.parametrize(("way", "ends"), [("single", 643_750), ("stage2", 497_500)])
def test_titok_s_discriminator_ends_as_published(way, ends):
    """A schedule's count is of steps times GPUs, of 32 pictures each, less the first step alone."""
    experiment = parse(load("titok.py", f"l32,{way}"))
    steps, batch_size = experiment.train.steps, experiment.train.batch_size
    gpus, start = batch_size // 32, experiment.adversarial.start_step
    schedule = experiment.discriminator_optimizer.schedule
    assert schedule.decay_end == ends == (steps * gpus - start) / gpus
    assert schedule.peak == experiment.optimizer.schedule.peak
    # It counts its own steps: what it still has of its rate when the run ends.
    left = float(make_schedule(schedule)(steps - start)) / schedule.peak
    assert left > 0.1 and experiment.optimizer.schedule.decay_end == steps


@pytest.mark.parametrize(
    ("row", "tokens", "millions"), [("l64_512", 64, 644), ("b128_512", 128, 202)]
)
def test_titok_of_512_px_is_as_published(row, tokens, millions):
    tokenizer = make_tokenizer(parse(load("titok.py", f"{row},stage2")).tokenizer)
    assert (tokenizer.image_size, tokenizer.config.grid) == ((512, 512), (32, 32))
    assert (tokenizer.codes.shape, tokenizer.codes.vocab) == ((tokens,), (4096,))
    params = nn.unbox(jax.eval_shape(tokenizer.init, jax.random.key(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    # Theirs of 256 px, counted, are 2 % from what their table says.
    assert total == pytest.approx(millions * 1e6, rel=0.025)


@pytest.mark.parametrize("tokens", [32, 64, 128])
@pytest.mark.parametrize("codes", ["", "_vae"])
def test_tatitok_reads_captions_by_clip(tokens, codes):
    experiment = parse(load("titok.py", f"tatitok_bl{tokens}{codes}"))
    condition, tokenizer = experiment.condition, make_tokenizer(experiment.tokenizer)
    assert tokenizer.condition == condition.states_shape == (77, 768)
    assert (condition.encoder, condition.dropout) == ("clip_l14_336_text", 0.0)
    assert experiment.data.path == "laion400m"


MASKGEN = {"l": (16, 16, 1024, 4096), "xl": (20, 16, 1280, 5120)}


@pytest.mark.parametrize("row", MASKGEN)
def test_maskgen_is_as_published(row):
    """Its parameters are counted in tests/models/test_maskgen.py."""
    experiment = parse(load("maskgen.py", f"{row},features"))
    assert sizes(experiment.model.stack) == MASKGEN[row]
    codes, condition = experiment.generator.codes, experiment.condition
    assert (codes.shape, codes.vocab, condition.prefix_length) == ((128,), (8192,), 77)
    assert (experiment.sampling.steps, experiment.sampling.guidance) == (16, 13.0)
    through = parse(load("maskgen.py", row))
    assert through.tokenizer.text is not None and through.condition.kind == "clip"


LLAMA = {
    # Width, blocks, heads, hidden; millions of parameters.
    ("llamagen.py", "b"): (12, 12, 768, 2048, 110.9),
    ("llamagen.py", "1b"): (22, 32, 2048, 5632, 1199.6),
    ("llamagen.py", "3b"): (24, 32, 3200, 8704, 3096.7),
    ("llamagen.py", "xl,features"): (36, 20, 1280, 3584, 777.9),
    ("ibq_generator.py", "b"): (16, 16, 1024, 2816, 343.0),
    ("ibq_generator.py", "xxl"): (30, 30, 1920, 5120, 2063.3),
    ("ibq_generator.py", "magvit2_b"): (24, 16, 1024, 2816, 343.6),
}


@pytest.mark.parametrize(("name", "row"), LLAMA)
def test_llamagen_and_ibq_are_as_published(name, row):
    """The other rows' parameters are counted in tests/convert/test_llama.py."""
    experiment, (*sides, millions) = parse(load(name, row)), LLAMA[name, row]
    generator = experiment.generator
    assert sizes(experiment.model.decoder) == tuple(sides) and generator.codes.shape == (16, 16)
    params = nn.unbox(jax.eval_shape(generator.init, jax.random.key(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == pytest.approx(millions * 1e6, abs=0.05e6)
    rate, config = make_schedule(experiment.optimizer.schedule), experiment.optimizer
    assert (config.b1, config.b2, config.weight_decay, config.clip_norm) == (0.9, 0.95, 0.05, 1.0)
    if name == "llamagen.py":
        assert float(rate(0)) == float(rate(10**6)) == pytest.approx(1e-4)
        return
    epoch, (epochs, left) = 1_281_167 / 768, (450, 0.01) if row == "xxl" else (300, 0.1)
    assert experiment.train.steps == int(epoch * epochs)
    assert float(rate(0)) == pytest.approx(0.005 * 3e-4, rel=1e-5)
    assert float(rate(int(epoch * 20))) == pytest.approx(3e-4, rel=1e-5)
    assert float(rate(experiment.train.steps)) == pytest.approx(left * 3e-4, rel=1e-4)


def test_coca_base_is_as_published():
    """Table 1 of the paper: sizes and millions of parameters; section 4.1: how it is trained."""
    experiment = parse(load("coca/base.py"))
    model, optimizer = experiment.model, experiment.optimizer
    stacks = model.image_encoder, model.unimodal, model.multimodal
    assert [sizes(stack) for stack in stacks] == 3 * [(12, 12, 768, 3072)]
    assert (model.image_size, model.grid, model.queries) == ((288, 288), (16, 16), 256)
    params = nn.unbox(jax.eval_shape(ContrastiveCaptioner(model).init, jax.random.key(0)))
    image, text = ({name: params[name] for name in names} for names in (IMAGE_SIDE, TEXT_SIDE))
    for part, millions in ((image, 86), (text, 297), (image | text, 383)):
        total = sum(leaf.size for leaf in jax.tree.leaves(part))
        assert total == pytest.approx(millions * 1e6, rel=0.005)
    assert (experiment.train.steps, experiment.train.batch_size) == (500_000, 65_536)
    assert (experiment.loss.contrastive, experiment.loss.captioning) == (1.0, 2.0)
    assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adafactor", 0.9, 0.999)
    assert (optimizer.weight_decay, model.temperature) == (0.01, 0.07)
    rate = make_schedule(optimizer.schedule)
    for step, value in {0: 0, 10_000: 8e-4, 255_000: 4e-4, 500_000: 0}.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5, abs=1e-12)
