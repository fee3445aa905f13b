"""Helps the nodes of a Slurm job to find each other, for scripts/slurm_run.py and scripts/slurm_node.py.

slurm_join.py address …     print the head's address and the first of its free ports, as IP:PORT
slurm_join.py wait …        wait until all nodes have joined the Ray cluster at RAY_ADDRESS
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

PORTS_EACH, PORT_TRIES = 3, 200  # Ray's own port, its dashboard's and its client server's
LABEL = "slurm-node"


def say(text: str) -> None:
    print(f"[slurm] {text}", file=sys.stderr, flush=True)


def words(text: str) -> list[str]:
    """The comma-separated parts of an option."""
    return text.split(",")


def source_address(target: str) -> str:
    """The address from which this machine reaches another one. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return probe.getsockname()[0]


def own_address(own: str, others: Sequence[str]) -> str:
    """This node's address on the interface that Slurm uses; loopback for a job of one node.

    Many machines resolve their own name to 127.0.1.1. Then it is the address from which another node is reached.
    """
    if not others:
        return "127.0.0.1"
    address = socket.gethostbyname(own)
    if address.startswith("127."):
        elsewhere = [other for other in map(socket.gethostbyname, others) if not other.startswith("127.")]
        return source_address(elsewhere[0]) if elsewhere else address
    return address


def first_free_port(address: str, first: int) -> int:
    """The first of ``PORTS_EACH`` consecutive free ports, from ``first`` upwards.

    Raises:
        SystemExit: PORT_TRIES blocks of ports have none.
    """
    for start in range(first, first + PORT_TRIES * PORTS_EACH, PORTS_EACH):
        try:
            for port in range(start, start + PORTS_EACH):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
            return start
        except OSError:
            continue
    sys.exit(f"error: no {PORTS_EACH} free ports for Ray from {first} upwards on {address}")


def wait_for_nodes(nodes: Sequence[str], timeout_s: float) -> int:
    """Wait until every node has joined, and report missing ones after the timeout. Returns the exit status."""
    missing = set(nodes)
    # An alarm, because ray.init may block for longer.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(report_missing(nodes, missing, timeout_s)))
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    import ray

    while not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, OSError):
            time.sleep(1)
    while missing := missing - {node["Labels"].get(LABEL) for node in ray.nodes() if node["Alive"]}:
        time.sleep(0.5)
    signal.setitimer(signal.ITIMER_REAL, 0)
    found = ray.cluster_resources()
    say(
        f"Ray runs on {len(nodes)} node(s) ({', '.join(nodes)}): {found.get('GPU', 0):g} GPU(s), "
        f"{found.get('CPU', 0):g} logical CPUs"
    )
    ray.shutdown()
    return 0


def report_missing(nodes: Sequence[str], missing: set[str], timeout_s: float) -> int:
    names = [name for name in nodes if name in missing]
    say(
        f"error: {len(names)} of {len(nodes)} nodes did not join Ray within {timeout_s:g} s: "
        f"{', '.join(names)}. Check that {sys.executable} exists on that node and that the nodes reach each other's "
        f"ports. Set PREPO_JOIN_TIMEOUT_S to give a slow node more time."
    )
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    address, wait = modes.add_parser("address"), modes.add_parser("wait")
    address.add_argument("--addresses", type=words, required=True, help="from Slurm, the head first")
    address.add_argument("--first-port", type=int, required=True)
    wait.add_argument("--nodes", type=words, required=True)
    wait.add_argument("--timeout-s", type=float, required=True)
    options = parser.parse_args()
    if options.mode == "wait":
        return wait_for_nodes(options.nodes, options.timeout_s)
    address_here = own_address(options.addresses[0], options.addresses[1:])
    print(f"{address_here}:{first_free_port(address_here, options.first_port)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
