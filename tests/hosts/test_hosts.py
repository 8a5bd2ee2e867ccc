"""Several processes as hosts of one run: the numbers of one, and an end of all when one is gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from babeldraw.hosts.presence import GO_ON, MISTAKE
from babeldraw.runs.folder import RunFolder
from babeldraw.train.loop import train
from babeldraw.train.metrics import read_scalars

ROOT = Path(__file__).parents[2]
STEPS = 6
pytestmark = pytest.mark.slow


class Site:
    """`count` hosts with `devices` each, as processes of `babeldraw train`."""

    def __init__(self, count, devices, folder, *words, config="demo/tokenizer.py", port=None):
        if port is None:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
        flags = re.sub(r"--xla_force_host\S+", "", os.environ["XLA_FLAGS"])
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        }
        command = [sys.executable, "-m", "babeldraw.cli", "train", f"--workdir={folder}"]
        command += [f"--config=configs/{config}:runlocal", "--config.train.log_every=1"]
        command += [f"--coordinator=localhost:{port}", f"--hosts={count}", "--limit_arrive=120"]
        self.folder = folder
        self.hosts = [
            subprocess.Popen(
                [*command, f"--host={index}", *words],
                cwd=ROOT,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(count)
        ]

    def wait_for_step(self, step):
        deadline = time.monotonic() + 200
        while not any(line["step"] >= step for line in losses(self.folder)):
            ended = [host for host in self.hosts if host.poll() is not None]
            assert not ended, ended[0].stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def ends(self, timeout=250):
        """Exit status and all that was said, of each host."""
        said = [host.communicate(timeout=timeout)[0] for host in self.hosts]
        return [(host.returncode, text) for host, text in zip(self.hosts, said, strict=True)]


def losses(folder):
    lines = read_scalars(RunFolder.of(str(folder)))
    return [line for line in lines if "train/loss" in line]


def loss_of(folder):
    return {line["step"]: line["train/loss"] for line in losses(folder)}


def tokenizer_config(runlocal, steps=STEPS):
    config = runlocal("demo/tokenizer.py")
    config.train.update(steps=steps, log_every=1)
    return config


@pytest.fixture(scope="module")
def one_host(runlocal, tmp_path_factory):
    """The losses and figures of four devices of one host."""
    folder = tmp_path_factory.mktemp("one") / "run"
    figures = train(tokenizer_config(runlocal), str(folder), devices=jax.devices()[:4])
    return loss_of(folder), figures


def test_four_hosts_have_the_losses_and_figures_of_one(one_host, tmp_path):
    words = [f"--config.train.steps={STEPS}", "--config.mesh.rules=fsdp"]
    site = Site(4, 1, tmp_path / "run", *words)
    for status, said in site.ends():
        assert status == 0, said
    expected, figures = one_host
    got = loss_of(tmp_path / "run")
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=0, atol=1e-5)
    last = read_scalars(RunFolder.of(str(tmp_path / "run")))[-1]
    for name, value in figures.items():
        if name != "seconds":
            np.testing.assert_allclose(last[name], value, rtol=1e-4, err_msg=name)
    pictures = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert pictures == [f"reconstruction_reconstructions_{STEPS:07d}.png"]


def test_a_generator_is_trained_and_judged_on_a_pair_of_hosts(runlocal, tokenizer_run, tmp_path):
    config = runlocal("demo/text_to_image.py")
    config.tokenizer_run = str(tokenizer_run)
    config.train.log_every = 1
    figures = train(config, str(tmp_path / "one"), devices=jax.devices()[:4])
    words = [f"--config.tokenizer_run={tokenizer_run}", "--config.mesh.rules=fsdp"]
    site = Site(2, 2, tmp_path / "two", *words, config="demo/text_to_image.py")
    for status, said in site.ends():
        assert status == 0, said
    one, two = (list(loss_of(tmp_path / name).values()) for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    last = read_scalars(RunFolder.of(str(tmp_path / "two")))[-1]
    loss = "validation/loss"
    np.testing.assert_allclose(last[loss], figures[loss], rtol=0, atol=1e-4)


def test_a_lost_host_ends_all_with_its_name_and_a_new_start_goes_on(one_host, runlocal, tmp_path):
    """Kill one of two; start again and stop both by SIGTERM to one; go on with one host."""
    folder = tmp_path / "run"
    words = ["--config.train.steps=100000", "--config.train.checkpoint_every=2"]
    site = Site(2, 2, folder, *words)
    site.wait_for_step(4)
    began = time.monotonic()
    site.hosts[1].send_signal(signal.SIGKILL)
    (status, said), _ = site.ends(timeout=60)
    # The limit for silence is 60 s; a cut line is noticed at once.
    assert time.monotonic() - began < 20
    assert status == GO_ON, said
    last = said.splitlines()[-1]
    pattern = r"babeldraw: host 1 \(.+\) ended without a word at step \d+, "
    assert re.match(pattern, last), said

    site = Site(2, 2, folder, *words)
    reached = max(loss_of(folder))
    site.wait_for_step(reached + 3)
    site.hosts[1].send_signal(signal.SIGTERM)
    for status, said in site.ends(timeout=60):
        assert status == GO_ON, said
        assert "goes on from step" in said
        (stopped,) = re.findall(r"stopped after step (\d+), which is saved", said)
    step = int(stopped)
    assert step == max(loss_of(folder))

    config = tokenizer_config(runlocal, step + 2)
    config.train.checkpoint_every = 2
    train(config, str(folder), devices=jax.devices()[:1])
    got = loss_of(folder)
    assert sorted(got) == [*range(1, step + 3)]
    expected, _ = one_host
    for number, loss in expected.items():
        np.testing.assert_allclose(got[number], loss, rtol=0, atol=1e-5)


def test_a_hanging_host_ends_all(tmp_path):
    words = ["--config.train.steps=100000", "--limit_silence=15"]
    site = Site(2, 1, tmp_path / "run", *words)
    site.wait_for_step(3)
    site.hosts[1].send_signal(signal.SIGSTOP)
    said = site.hosts[0].communicate(timeout=120)[0]
    site.hosts[1].kill()
    site.hosts[1].communicate()
    assert site.hosts[0].returncode == GO_ON, said
    last = said.splitlines()[-1]
    assert re.match(r"babeldraw: host 1 \(.+\) has given no sign of life for \d+ s, at step", last)


def test_hosts_of_different_configs_do_not_start(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = "--config.optimizer.schedule.peak=0.001", "--config.optimizer.schedule.peak=0.002"
    sites = [Site(2, 1, tmp_path / "run", word, port=port) for word in words]
    for site, index in zip(sites, (1, 0), strict=True):
        site.hosts[index].kill()
        site.hosts[index].communicate()
        del site.hosts[index]
    for site in sites:
        ((status, said),) = site.ends()
        assert status == MISTAKE
        assert "config.optimizer.schedule.peak is 0.001 on host 0" in said
        assert "0.002 on host 1" in said
    assert not (tmp_path / "run").exists()
