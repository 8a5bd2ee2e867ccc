"""The launchers for Cloud TPUs and GKE: what they would type, and a cloud of straw that fails."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FAKE = ROOT / "tests" / "fake_cloud.py"
BASH = shutil.which("bash")
WHERE = "--project=my-project --zone=us-central2-b"
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-central2-b",
    "NAME": "big",
    "ACCELERATOR": "v4-16",
    "RUNTIME": "tpu-ubuntu2204-base",
    "SLICES": "1",
    "PROVISIONING": "spot",
    "QUEUED": "yes",
    "CONFIG": "configs/babeldraw/3b.py",
    "WORKDIR": "gs://bucket/run",
    "FLAGS": "--config.train.steps=7 --config.data.path=x",
    "MAX_FAILURES": "2",
    "CLUSTER": "pool",
    "IMAGE": "docker.pkg.dev/p/image:1",
    "MACHINE": "ct4p-hightpu-4t",
    "TOPOLOGY": "2x2x2",
    "TPU_LABEL": "tpu-v4-podslice",
    "HOSTS": "2",
    "CHIPS_PER_HOST": "4",
}

# Stands for uv: what it "installs" is a babeldraw of straw.
UV = """#!{bash}
case "$*" in
  venv*) rm -rf "${{@: -1}}" && mkdir -p "${{@: -1}}/bin" ;;
  pip*) cp "$CLOUD/babeldraw" .venv/bin/babeldraw ;;
esac
"""
# Stands for a run that keeps its step in the bucket. It goes on from there, to step 20; what
# happens at a step, once, the test writes into the file `at_STEP`: a shell command.
BABELDRAW = """#!{bash}
echo "babeldraw $*" >>"$CLOUD/bucket/starts_$HOST"
step=$(cat "$CLOUD/bucket/step_$HOST" 2>/dev/null || echo 0)
while ((step < 20)); do
  sleep 0.02
  [[ "$(cat "$CLOUD/state" 2>/dev/null)" == ACTIVE ]] || kill -9 $$
  step=$((step + 1))
  echo "$step" >"$CLOUD/bucket/step_$HOST"
  echo "step $step" >>"$CLOUD/bucket/steps_$HOST"
  if [[ -e "$CLOUD/at_$step" ]]; then
    if mv "$CLOUD/at_$step" "$CLOUD/now_$step"; then source "$CLOUD/now_$step"; fi
  fi
  if [[ -e "$CLOUD/always_$step" ]]; then source "$CLOUD/always_$step"; fi
done
"""
# Stands for nothing: it trains. The variables are those that a TPU VM of two hosts has.
TRAINS = """#!{bash}
export TPU_WORKER_HOSTNAMES=localhost,localhost TPU_WORKER_ID="$HOST"
exec {python} -m babeldraw.cli "$@"
"""


class Cloud:
    """The launchers on a machine whose gcloud is of straw."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder / "cloud", folder / "bin"
        (self.folder / "bucket").mkdir(parents=True)
        self.bin.mkdir()
        self.conf = folder / "my settings.conf"
        self.settings = dict(SETTINGS)
        self._program(self.bin / "gcloud", f'#!{BASH}\nexec {sys.executable} -I {FAKE} "$@"\n')
        self._program(self.bin / "uv", UV.format(bash=BASH))
        self._program(self.folder / "babeldraw", BABELDRAW.format(bash=BASH))
        for name in ("kubectl", "docker"):
            self._program(self.bin / name, f'#!{BASH}\necho "{name} $*"; cat >&2\n')

    @staticmethod
    def _program(path: Path, text: str):
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def launch(self, script, *words, timeout=60):
        """Runs a launcher to its end."""
        run = self.start(script, *words)
        printed, said = run.communicate(timeout=timeout)
        return subprocess.CompletedProcess(run.args, run.returncode, printed, said)

    def start(self, script, *words, **more):
        self.conf.write_text("# mine\n" + "".join(f"{k}={v}\n" for k, v in self.settings.items()))
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CLOUD": str(self.folder),
            "POLL_SECONDS": "0.05",
            **more,
        }
        command = [BASH, str(ROOT / "launch" / script), str(self.conf), *words]
        return subprocess.Popen(
            command,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def calls(self, *verbs):
        """The calls whose verb is one of these, or all."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        return [c for c in calls if not verbs or c[3] in verbs]

    def happen(self, step, command, when="at"):
        (self.folder / f"{when}_{step}").write_text(command + "\n")

    def bucket(self, name):
        return (self.folder / "bucket" / name).read_text().split("\n")[:-1]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


# ------------------------------------------------------------------ dry runs


def ssh(command, node="big", worker="all"):
    """As `printf %q` writes it."""
    escaped = "".join(c if c.isalnum() or c in "-_./=:," else f"\\{c}" for c in command)
    return f"gcloud compute tpus tpu-vm ssh {node} {WHERE} --worker={worker} --command={escaped}"


RUN = (
    "bash babeldraw/launch/worker.sh start train --config=configs/babeldraw/3b.py "
    "--workdir=gs://bucket/run --config.train.steps=7 --config.data.path=x"
)
POLL = "bash babeldraw/launch/worker.sh poll"
DRY = {
    "create": [
        f"gcloud compute tpus queued-resources create big {WHERE} --accelerator-type=v4-16 "
        "--runtime-version=tpu-ubuntu2204-base --node-id=big --spot"
    ],
    "run": [ssh(RUN)],
    "logs": [ssh("bash babeldraw/launch/worker.sh follow", worker="0")],
    "logs all": [ssh("bash babeldraw/launch/worker.sh follow")],
    "status": [f"gcloud compute tpus queued-resources describe big {WHERE}", ssh(POLL)],
    "stop": [ssh("bash babeldraw/launch/worker.sh stop 300")],
    "fetch out": ["mkdir -p -- out"]
    + [
        f"gcloud storage cp --recursive gs://bucket/run/{part} out --project=my-project"
        for part in ("config.json", "report.json", "metrics", "samples", "crashes")
    ],
    "delete": [f"gcloud compute tpus queued-resources delete big {WHERE} --force --quiet"],
}


@pytest.mark.parametrize("words", DRY)
def test_a_dry_run_prints_what_it_would_run_and_runs_nothing(cloud, words):
    run = cloud.launch("tpu.sh", *words.split(), "--dry-run")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == DRY[words]
    assert cloud.calls() == []


def test_the_whole_way_as_a_dry_run(cloud):
    lines = cloud.launch("tpu.sh", "keep", "--dry-run").stdout.splitlines()
    assert [lines[0], *lines[-2:]] == [*DRY["create"], ssh(RUN), ssh(POLL)]
    assert lines[1].startswith("tar -czf ") and " scp " in lines[2] and "set_up" in lines[3]
    assert len(lines) == 6


def test_several_slices_are_one_request_and_each_is_set_up(cloud):
    cloud.settings["SLICES"] = "2"
    create = cloud.launch("tpu.sh", "create", "--dry-run").stdout
    assert "--node-count=2 --node-prefix=big --spot" in create
    run = cloud.launch("tpu.sh", "run", "--dry-run").stdout.splitlines()
    assert run == [ssh(RUN, "big-0"), ssh(RUN, "big-1")]


def test_without_a_queue(cloud):
    cloud.settings |= {"QUEUED": "no", "PROVISIONING": "on-demand"}
    assert cloud.launch("tpu.sh", "create", "--dry-run").stdout == (
        f"gcloud compute tpus tpu-vm create big {WHERE} --accelerator-type=v4-16 "
        "--version=tpu-ubuntu2204-base\n"
    )
    assert cloud.launch("tpu.sh", "delete", "--dry-run").stdout == (
        f"gcloud compute tpus tpu-vm delete big {WHERE} --quiet\n"
    )


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"NAME": "Big"}, "NAME=Big: small letters"),
        ({"SLICES": "0"}, "SLICES=0 is no number of slices"),
        ({"SLICES": "2", "QUEUED": "no"}, "several slices need QUEUED=yes"),
        ({"PROVISIONING": "cheap"}, "it may be spot, on-demand or reserved"),
        ({"ZONE": ""}, "ZONE is missing"),
        ({"COLOUR": "red"}, "COLOUR is no setting; they are PROJECT ZONE"),
        ({"WORKDIR": "gs://b/$(touch broken)"}, "WORKDIR holds something else than letters"),
        ({"FLAGS": "--a=1;touch broken"}, "FLAGS holds something else than letters"),
        ({"FLAGS": "--a='x'"}, "FLAGS holds something else than letters"),
        ({"CONFIG": "a b"}, "CONFIG holds something else than letters"),
    ],
)
@pytest.mark.parametrize("script", ["tpu.sh"])
def test_a_mistake_in_the_settings_is_one_line(cloud, script, change, said):
    cloud.settings |= change
    run = cloud.launch(script, "run")
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr and run.stderr.count("\n") == 1
    assert cloud.calls() == []


def test_a_cloud_that_refuses_is_told(cloud):
    (cloud.folder / "refuse").touch()
    run = cloud.launch("tpu.sh", "create")
    assert run.returncode != 0 and "quota" in run.stderr


# ------------------------------------------------------------------ from nothing to a finished run


def test_a_run_without_trouble(cloud):
    run = cloud.launch("tpu.sh", "keep")
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[-1] == "tpu.sh: the run is done: gs://bucket/run"
    for host in (0, 1):
        assert cloud.bucket(f"starts_{host}") == [f"babeldraw {RUN.partition(' start ')[2]}"]
    assert len(cloud.calls("create")) == 1


@pytest.mark.slow
def test_a_preemption_leads_to_a_resumed_run_without_a_hand(cloud):
    """The TPUs are taken away at step 7: both hosts die with all that lies on them."""
    cloud.happen(7, 'echo SUSPENDED >"$CLOUD/state"')
    run = cloud.launch("tpu.sh", "keep")
    assert run.returncode == 0, run.stderr
    assert "big was preempted, going on" in run.stderr
    assert "big is SUSPENDED: asking anew" in run.stderr
    for host in (0, 1):
        assert len(cloud.bucket(f"starts_{host}")) == 2
        steps = cloud.bucket(f"steps_{host}")
        assert steps[-1] == "step 20" and steps.count("step 3") == 1
    verbs = [call[3] for call in cloud.calls("create", "delete", "scp")]
    assert verbs == ["create", "scp", "delete", "create", "scp"]


@pytest.mark.slow
def test_a_preempted_training_of_two_hosts_comes_to_its_end(cloud, tmp_path):
    """As above, with the program itself: it finds its hosts, trains, loses them, goes on."""
    run_folder = tmp_path / "cloud" / "bucket" / "run"
    cloud.settings |= {
        "CONFIG": "configs/demo/tokenizer.py:runlocal",
        "WORKDIR": str(run_folder),
        "FLAGS": "--config.train.steps=120 --config.train.log_every=1 "
        "--config.train.checkpoint_every=5",
    }
    cloud._program(cloud.folder / "babeldraw", TRAINS.format(bash=BASH, python=sys.executable))
    keep = cloud.start(
        "tpu.sh",
        "keep",
        JAX_PLATFORMS="cpu",
        JAX_COMPILATION_CACHE_DIR=os.environ["JAX_COMPILATION_CACHE_DIR"],
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        TF_CPP_MIN_LOG_LEVEL="3",
        POLL_SECONDS="1",
    )
    lines, deadline = run_folder / "metrics" / "metrics.jsonl", time.monotonic() + 200
    while not lines.exists() or len(lines.read_text().splitlines()) < 9:
        assert keep.poll() is None, keep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (cloud.folder / "state").write_text("SUSPENDED")
    for pid in (cloud.folder / "hosts").glob("*/babeldraw-run/pid"):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    reached = len(lines.read_text().splitlines())
    _, said = keep.communicate(timeout=280)
    assert keep.returncode == 0, said
    assert "big was preempted, going on" in said and "the run is done" in said
    assert json.loads((run_folder / "report.json").read_text())["step"] == 120
    steps = [json.loads(line)["step"] for line in lines.read_text().splitlines()]
    # It went on from a checkpoint, which is made at every fifth step, or the one before it.
    assert sorted(set(steps)) == [*range(1, 121)]
    assert reached < 120 and steps[reached] >= steps[reached - 1] - 11


@pytest.mark.slow
@pytest.mark.parametrize("end", ["exit 75", "kill -9 $$", "exit 1"])
def test_a_run_that_stops_is_started_again_on_the_same_machines(cloud, end):
    cloud.happen(5, end)
    run = cloud.launch("tpu.sh", "keep")
    assert run.returncode == 0, run.stderr
    assert len(cloud.calls("create")) == 1
    assert cloud.bucket("steps_0")[-1] == "step 20"
    starts = [len(cloud.bucket(f"starts_{host}")) for host in (0, 1)]
    assert max(starts) == 2


def test_a_mistake_ends_the_loop_at_once(cloud):
    cloud.happen(3, 'echo "babeldraw: error: config.x is wrong"; exit 2', "always")
    run = cloud.launch("tpu.sh", "keep")
    assert run.returncode == 2
    assert "mistake to mend" in run.stderr and "config.x is wrong" in run.stderr
    assert len(cloud.bucket("starts_0")) == 1


@pytest.mark.slow
def test_a_run_that_only_crashes_is_given_up(cloud):
    cloud.happen(3, 'echo 2 >"$CLOUD/bucket/step_$HOST"; exit 1', "always")
    run = cloud.launch("tpu.sh", "keep")
    assert run.returncode == 2
    assert "gave up after 3 failures" in run.stderr
    assert len(cloud.bucket("starts_0")) == 3


def test_stop_lets_the_run_save(cloud):
    cloud.happen(
        2,
        'trap "echo saved >>$CLOUD/bucket/saved; exit 75" TERM; step=-100000; '
        'touch "$CLOUD/bucket/ready_$HOST"',
        "always",
    )
    for command in ("create", "setup", "run"):
        assert cloud.launch("tpu.sh", command).returncode == 0
    deadline = time.monotonic() + 20
    while len(list((cloud.folder / "bucket").glob("ready_*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run = cloud.launch("tpu.sh", "stop")
    assert [line.split()[-2:] for line in run.stdout.splitlines()] == [["exit", "75"]] * 2
    assert cloud.bucket("saved") == ["saved"] * 2


# ------------------------------------------------------------------ GKE, lint


def test_gke_dry_runs(cloud):
    where = f"{WHERE} --cluster=pool"
    assert cloud.launch("gke.sh", "create", "--dry-run").stdout.splitlines()[1] == (
        f"gcloud container node-pools create big-0 {where} --machine-type=ct4p-hightpu-4t "
        "--tpu-topology=2x2x2 --num-nodes=2 --spot --scopes=storage-full"
    )
    lines = cloud.launch("gke.sh", "image", "--dry-run").stdout.splitlines()
    assert lines[1] == "docker push docker.pkg.dev/p/image:1"
    assert "manifest | kubectl apply" in cloud.launch("gke.sh", "run", "--dry-run").stdout
    for command, said in (
        ("logs all", "--selector=jobset.sigs.k8s.io/jobset-name=big"),
        ("logs", "jobset-name=big\\,batch.kubernetes.io/job-completion-index=0"),
        ("status", "kubectl describe jobset big"),
        ("stop", "kubectl delete jobset big"),
        ("fetch out", "gcloud storage cp --recursive gs://bucket/run/metrics out"),
        ("delete", "gcloud container clusters delete pool"),
    ):
        run = cloud.launch("gke.sh", *command.split(), "--dry-run")
        assert run.returncode == 0 and said in run.stdout
    assert cloud.calls() == []


def test_the_jobset_starts_every_host_and_again(cloud):
    cloud.settings["SLICES"] = "3"
    manifest = yaml.safe_load(cloud.launch("gke.sh", "manifest").stdout)
    assert manifest["metadata"]["name"] == "big"
    (job,) = manifest["spec"]["replicatedJobs"]
    assert job["replicas"] == 3
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (2, 2, 0)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"operator": "In", "values": [2]}
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"] == RUN.partition(" start ")[2].split()
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_the_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(Path(sys.executable).parent)
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(str(path) for path in (ROOT / "launch").glob("*.sh"))
    run = subprocess.run([shellcheck, *scripts], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
