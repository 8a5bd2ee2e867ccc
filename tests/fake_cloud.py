"""A cloud of straw for the launchers: a `gcloud` that records every call, keeps what was created,
runs the hosts' commands on this machine, and can fail.

What it keeps lies in the folder $CLOUD: `calls` (a line of JSON each), `state` of the TPUs,
`hosts/` (a home for each), `bucket/`. While the file `refuse` exists, creating fails.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ.get("CLOUD", "/nowhere"))
HOSTS = 2
# States of a request as one looks at it again and again.
WAITING = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def flag(words, name):
    return next((w.partition("=")[2] for w in words if w.startswith(f"--{name}=")), None)


def create(words):
    if (CLOUD / "refuse").exists():
        print("ERROR: quota", file=sys.stderr)
        return 1
    if (CLOUD / "state").exists():
        print("ERROR: exists", file=sys.stderr)
        return 1
    (CLOUD / "state").write_text(WAITING[0])
    for host in range(HOSTS):
        (CLOUD / "hosts" / str(host)).mkdir(parents=True)
    return 0


def describe(words):
    if not (CLOUD / "state").exists():
        return 1
    state = (CLOUD / "state").read_text()
    print(state)
    if state in WAITING[:-1]:
        (CLOUD / "state").write_text(WAITING[WAITING.index(state) + 1])
    return 0


def delete(words):
    (CLOUD / "state").unlink()
    shutil.rmtree(CLOUD / "hosts")
    return 0


def each_host(words):
    if not (CLOUD / "state").exists() or (CLOUD / "state").read_text() != "ACTIVE":
        return
    worker = flag(words, "worker")
    yield from [h for h in range(HOSTS) if worker in ("all", str(h))]


def ssh(words):
    worst, any_host = 0, False
    for host in each_host(words):
        any_host = True
        home = CLOUD / "hosts" / str(host)
        env = {**os.environ, "HOME": str(home), "HOST": str(host)}
        run = subprocess.run(["bash", "-c", flag(words, "command")], cwd=home, env=env)
        worst = max(worst, run.returncode)
    return worst if any_host else 255


def scp(words):
    source, target = words[0], words[1].partition(":")[2]
    for host in each_host(words):
        shutil.copy(source, CLOUD / "hosts" / str(host) / target)
    return 0


VERBS = {
    "queued-resources create": create,
    "queued-resources describe": describe,
    "queued-resources delete": delete,
    "tpu-vm create": create,
    "tpu-vm describe": describe,
    "tpu-vm delete": delete,
    "tpu-vm ssh": ssh,
    "tpu-vm scp": scp,
}


def main():
    words = sys.argv[1:]
    with (CLOUD / "calls").open("a") as file:
        file.write(json.dumps(words) + "\n")
    assert words[:2] == ["compute", "tpus"], words
    sys.exit(VERBS[" ".join(words[2:4])](words[4:]))


if __name__ == "__main__":
    main()
