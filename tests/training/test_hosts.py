"""Two hosts train one model: two network namespaces, which share nothing but the cable between them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")
TIMEOUT = 10.0

if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
    pytest.skip("network namespaces need root and iproute2", allow_module_level=True)


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


def end(host):
    """Kill all processes of a host; those that torchrun has started are in sessions of their own."""
    for process in ip("netns", "pids", host).stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


@pytest.fixture
def hosts():
    """Names of two network namespaces with a cable between them."""
    names = [f"ddn{os.getpid()}{side}" for side in "ab"]
    made = [ip("netns", "add", name) for name in names]
    made.append(ip("link", "add", names[0], "type", "veth", "peer", "name", names[1]))
    for name, address in zip(names, ADDRESSES, strict=True):
        made.append(ip("link", "set", name, "netns", name))
        made.append(ip("-n", name, "addr", "add", f"{address}/24", "dev", name))
        made += [ip("-n", name, "link", "set", device, "up") for device in (name, "lo")]
    failed = [one.stderr for one in made if one.returncode]
    if not failed:
        yield names
    for name in names:
        end(name)
        ip("netns", "del", name)
    if failed:
        pytest.skip(f"no network namespaces: {failed[0]}")


SCRIPT = f"""
import sys, time
from pathlib import Path
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[1:3]]}
from small import before_splits, digits, small_ddn, trainer
from discrete_distribution_network.cli import exits
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
with exits.command("script"):
    made = trainer(folder, small_ddn(), dataset=digits(200), num_train_steps=steps, batch_size=4, timeout={TIMEOUT})
    before_splits(made, lambda: (folder / "step").write_text(str(made.step)))()
    print("trained", made.step, made.images, f"{{float(made.ddn.samplers[0].keys.weight.sum()):.9f}}")
"""


def start(host, rank, folder, steps):
    """torchrun on one of two hosts; each has a disk of its own."""
    own = folder / f"host-{rank}"
    own.mkdir()
    (own / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launch += ["--node-rank", str(rank), "--master-addr", ADDRESSES[0], "--master-port", "29511"]
    command = ["ip", "netns", "exec", host, *launch, str(own / "script.py"), str(own), str(steps)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": host},
    )


def wait_for_step(folder, rank, step):
    path = folder / f"host-{rank}" / "step"
    for _ in range(600):
        if path.is_file() and int(path.read_text() or 0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"no step {step}")


def test_two_hosts_train_one_model(hosts, tmp_path):
    running = [start(host, rank, tmp_path, 6) for rank, host in enumerate(hosts)]
    outputs = [one.communicate(timeout=120) for one in running]
    assert [one.returncode for one in running] == [0, 0], outputs
    first, second = (out.splitlines()[-1] for out, _ in outputs)
    assert first.split()[:3] == ["trained", "6", str(6 * 2 * 4)]
    assert first == second
    assert (tmp_path / "host-0" / "results" / "model").is_dir()
    assert not (tmp_path / "host-1" / "results" / "model").exists()


@pytest.mark.parametrize("ending", ["killed", "cable"])
def test_the_death_of_a_host_ends_the_other_with_a_sentence(hosts, tmp_path, ending):
    first, second = (start(host, rank, tmp_path, 10**6) for rank, host in enumerate(hosts))
    try:
        wait_for_step(tmp_path, 0, 5)
        if ending == "killed":
            end(hosts[1])
        else:
            ip("-n", hosts[1], "link", "set", hosts[1], "down")
        _, errors = first.communicate(timeout=90)
    finally:
        for host, one in zip(hosts, (first, second), strict=True):
            end(host)
            one.wait()
    assert first.returncode != 0
    assert "expected all 2 processes to answer, but process 0 lost another one" in errors
    assert "--resume" in errors
