"""Where a process stands among its hosts, from flags and from what starts it."""

import re

import pytest

from babeldraw.errors import UserError
from babeldraw.hosts.place import Place, find_place, node_names

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "tpu[08-10],login",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a-0.svc,a-1.svc", "TPU_WORKER_ID": "1"}


def no_metadata(name):
    return ""


def place(environ, metadata=no_metadata):
    return find_place(environ=environ, metadata=metadata)


def test_flags_come_first():
    found = find_place("first:9000", 3, 1, environ={**SLURM, **GKE})
    assert found == Place("first:9000", 3, 1)
    assert found.address == ("first", 9001)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((None, 2, 0), "coordinator= missing"),
        (("a:1", None, None), "count= and index= missing"),
        (("nowhere", 2, 0), "coordinator is 'nowhere'; HOST:PORT"),
        (("a:1", 0, 0), "count is 0; at least 1"),
        (("a:1", 2, 2), "index is 2 of count=2; 0 to 1 is needed"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags, said):
    with pytest.raises(UserError, match=re.escape(said)):
        find_place(*flags, environ={})


def test_a_machine_without_any_of_them_is_alone():
    assert place({}) is None
    assert place({**SLURM, "SLURM_NTASKS": "1"}) is None
    batch_script = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert place(batch_script) is None
    assert place({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    # What libtpu leaves behind where it has compiled without a TPU.
    assert place({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "WARNING: no"}) is None


def test_a_worker_number_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"TPU_WORKER_ID is 'WARNING: no'; .* index=$"):
        place({**GKE, "TPU_WORKER_ID": "WARNING: no"})


def test_slurm():
    found = place(SLURM)
    assert (found.count, found.index) == (4, 2)
    assert found.names == ("tpu08", "tpu09", "tpu10", "login")
    assert found.coordinator.startswith("tpu08:")
    other = place({**SLURM, "SLURM_JOB_ID": "4712"})
    # Each job has a pair of ports of its own.
    assert abs(int(other.coordinator[-5:]) - int(found.coordinator[-5:])) >= 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b7", ["a", "b7"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[001-002,010],x", ["n001", "n002", "n010", "x"]),
        ("a[1,3],b[2-3]", ["a1", "a3", "b2", "b3"]),
    ],
)
def test_slurm_names_of_nodes(text, names):
    assert node_names(text) == names


def test_gke():
    found = place(GKE)
    assert found == Place("a-0.svc:8476", 2, 1, ("a-0.svc", "a-1.svc"))


def test_several_slices_are_one_run():
    slices = {
        "MEGASCALE_NUM_SLICES": "3",
        "MEGASCALE_SLICE_ID": "2",
        "MEGASCALE_COORDINATOR_ADDRESS": "slice-0:8080",
    }
    found = place({**GKE, **slices})
    assert (found.coordinator, found.count, found.index) == ("slice-0:8476", 6, 5)


def test_a_tpu_vm_asks_its_metadata():
    told = {
        "agent-worker-number": "3",
        "worker-network-endpoints": "unknown:unknown:10.0.0.5,unknown:unknown:10.0.0.6," * 2,
        "tpu-env": "",
    }
    told["worker-network-endpoints"] = told["worker-network-endpoints"].rstrip(",")
    found = place({}, lambda name: told[name])
    assert (found.coordinator, found.count, found.index) == ("10.0.0.5:8476", 4, 3)

    told["tpu-env"] = (
        "ACCELERATOR_TYPE: 'v4-32'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.1.1:8080'\n"
    )
    found = place({}, lambda name: told[name])
    assert (found.coordinator, found.count, found.index) == ("10.0.1.1:8476", 8, 7)
