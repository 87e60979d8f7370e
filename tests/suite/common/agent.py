#!/usr/bin/python3 -B
"""All that runs in a guest whose agent lies, floods or is mute, as it is told to by the host.

It is the guest's first process and speaks the protocol of QEMU's agent. Besides what libvirt and
cyyber ask it knows one command: {"execute": "be", "arguments": {"like": KIND}}.
"""

import base64
import glob
import json
import os
import subprocess
import time


def port():
    """The guest's end of the agent's channel, once it is there."""
    subprocess.run(["/sbin/modprobe", "virtio_console"], check=False)
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(name, encoding="ascii") as file:
                if file.read().strip() == "org.qemu.guest_agent.0":
                    device = os.path.basename(os.path.dirname(name))
                    return os.open("/dev/" + device, os.O_RDWR)
        time.sleep(0.05)


def printed(kind, count):
    """What a look at the guest's terminals prints."""
    return {
        "honest": "1800000000\ninterrupts\n",
        "busy": f"1800000000\n1800000000\ninterrupts\n1: {count} i8042\n",
        "far": "3913000000000\n1800000000\ninterrupts\n",
        "flood": "1800000000\n" * 200_000 + "interrupts\n",
    }.get(kind, "?")


def file_answer(command, kind):
    """What is said of files: a program in the guest reads one and answers in another."""
    is_answer = command["arguments"].get("mode") == "r"
    if kind == "closed" or kind == "at work" and is_answer:
        return {"error": {"class": "GenericError", "desc": "not permitted"}}
    text = {"done": "done\n", "curses": "\x1b[2Jno\n" * 80}.get(kind, "no" * 1_000_000)
    return {
        "guest-file-open": {"return": 7},
        "guest-file-read": {"return": {"buf-b64": base64.b64encode(text.encode()).decode()}},
    }.get(command["execute"], {"return": {}})


def answer(command, kind, count):
    """What is said to a command; nothing at all where it is None."""
    if kind == "mute":
        return None
    name = command.get("execute")
    if name == "guest-sync":
        return {"return": command["arguments"]["id"]}
    if name.startswith("guest-file-"):
        return file_answer(command, kind)
    if name == "guest-exec" and kind == "refuse":
        # Another text each time, and as long as libvirt lets it pass.
        return {"error": {"class": "GenericError", "desc": f"{count} " + "no" * 1_900_000}}
    if name == "guest-exec":
        return {"return": {"pid": 1}}
    if name == "guest-exec-status":
        if kind == "slow":
            return {"return": {"exited": False}}
        text = base64.b64encode(printed(kind, count).encode()).decode()
        return {"return": {"exited": True, "exitcode": 0, "out-data": text}}
    return {"return": {}}


def main():
    channel, kind, count, pending = port(), "honest", 0, b""
    while True:
        read = os.read(channel, 65536)
        if not read:
            # Nobody is at the other end.
            time.sleep(0.02)
            continue
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            try:
                command = json.loads(line.lstrip(b"\xff"))
            except ValueError:
                continue
            count += 1
            said = answer(command, kind, count)
            if command.get("execute") == "be":
                kind = command["arguments"]["like"]
            rest = b"" if said is None else json.dumps(said).encode() + b"\n"
            while rest:
                rest = rest[os.write(channel, rest):]


main()
