#!/usr/bin/env python3
"""Measures updates over each way into a target, beside rsync over the same sshd.

    ssh_bench.py RELEASE CHANGED [RATE_BYTES_PER_S DELAY_MS]

RELEASE and CHANGED are two trees of one release. The target is this machine, behind a proxy that
counts bytes and makes the link as slow as asked (link_proxy.py). Each way pushes RELEASE to an empty
directory, pushes it again, then pushes CHANGED. Prints a table in Markdown. Needs sshd, ssh, rsync
and erl; RELSYNC names the binary (target/release/relsync).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
RELSYNC = os.environ.get("RELSYNC", str(REPO / "target/release/relsync"))
USER = subprocess.check_output(["id", "-un"], text=True).strip()
NODE = r"""
{ok, _} = application:ensure_all_started(ssh),
{ok, C, Beam} = compile:file("@REPO@/erlang/apps/relsync_lib/src/session/relsync_lib_ssh_channel", [binary]),
{module, C} = code:load_binary(C, "x", Beam),
Options = [{system_dir, "@DIR@"}, {user_dir, "@DIR@"}, {parallel_login, true}, {nodelay, true}],
{ok, _} = ssh:daemon({127,0,0,1}, @A@, [{exec, disabled}, {shell, disabled}, ssh_sub(C) | Options]),
{ok, _} = ssh:daemon({127,0,0,1}, @B@, Options),
io:format("ready~n").
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Proxy:
    """The link to one port."""

    def __init__(self, target, link):
        self.port = free_port()
        command = [sys.executable, REPO / "scripts/link_proxy.py", str(self.port), str(target), *link]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def counts(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return [int(word) for word in self.process.stdout.readline().split()]


def main():
    release, changed, *link = sys.argv[1:]
    work = Path(tempfile.mkdtemp(prefix="ssh-bench."))
    children = []
    try:
        measure(work, Path(release), Path(changed), link, children)
    finally:
        for child in children:
            child.kill()
        shutil.rmtree(work, ignore_errors=True)


def measure(work, release, changed, link, children):
    for name in ["id", "ssh_host_ed25519_key"]:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name], check=True)
    shutil.copy(work / "id.pub", work / "authorized_keys")
    ports = {way: free_port() for way in ["erl", "A", "B", "sshd"]}
    (work / "sshd.conf").write_text(
        f"ListenAddress 127.0.0.1:{ports['sshd']}\nHostKey {work}/ssh_host_ed25519_key\n"
        f"AuthorizedKeysFile {work}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    children.append(subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", work / "sshd.conf"]))
    program = NODE.replace("ssh_sub(C)", "{subsystems, [C:subsystem_spec(#{})]}")
    for word, value in {"REPO": REPO, "DIR": work, "A": ports["A"], "B": ports["B"]}.items():
        program = program.replace(f"@{word}@", str(value))
    node = subprocess.Popen(
        ["erl", "-noinput", "-name", "bench@127.0.0.1", "-setcookie", "bench", "-pa", work / "C/lib/x/ebin",
         "-kernel", "inet_dist_listen_min", str(ports["erl"]), "inet_dist_listen_max", str(ports["erl"]),
         "-eval", program],
        stdout=subprocess.PIPE, text=True,
    )
    children.append(node)
    said = node.stdout.readline()
    assert said == "ready\n", said
    proxies = {way: Proxy(port, link) for way, port in ports.items()}
    children.extend(proxy.process for proxy in proxies.values())
    key = (work / "ssh_host_ed25519_key.pub").read_text().split()
    (work / "known").write_text("".join(f"[127.0.0.1]:{p.port} {key[0]} {key[1]}\n" for p in proxies.values()))
    (work / "config").write_text(f"UserKnownHostsFile {work}/known\n")

    print("| way | update | bytes to target | bytes back | round trips | seconds |\n|---|---|---|---|---|---|")
    for way in ["erl", "A", "B", "C", "D"]:
        proxy = proxies[way if way in proxies else "sshd"]
        for update, tree in [("empty", release), ("no change", release), ("one module", changed)]:
            took, said = push(work, way, proxy, tree)
            row(way, update, proxy.counts(), said["round_trips"], took)
    for update, tree in [("empty", release), ("no change", release), ("one module", changed)]:
        shell = f"ssh -F {work}/config -i {work}/id -p {proxies['sshd'].port}"
        start = time.monotonic()
        subprocess.run(["rsync", "-az", "--delete", "-e", shell, f"{tree}/", f"{USER}@127.0.0.1:{work}/rsync/"], check=True)
        row("rsync", update, proxies["sshd"].counts(), "", time.monotonic() - start)


def push(work, way, proxy, tree):
    if way == "erl":
        reach = ["-d", "bench@127.0.0.1", "--address", f"127.0.0.1:{proxy.port}", "-c", "bench"]
    else:
        reach = ["--mode", "ssh", "-d", "127.0.0.1", "-P", str(proxy.port), "-u", USER, "--identity", work / "id",
                 "--ssh-config", work / "config"]
    command = [RELSYNC, "push", "--json", *reach, "-l", tree, "-p", work / way, "-E", "false", "--new-destination",
               "--store", work / f"store-{way}"]
    start = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True)
    took = time.monotonic() - start
    said = json.loads(ended.stdout.splitlines()[-1])
    if ended.returncode not in (0, 4):
        sys.exit(f"{way}: {said}")
    return took, said


def row(way, update, counts, round_trips, took):
    print(f"| {way} | {update} | {counts[0]:,} | {counts[1]:,} | {round_trips} | {took:.1f} |", flush=True)


main()
