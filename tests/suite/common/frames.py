"""Guests that are no VMs: network namespaces at ports of the lab networks, with the names and addresses
that VMs have there. Around the host an internet, whose router stands on a public network with a neighbour.

frames.py set-up     makes all of them, once
frames.py probe      tries what guests may do and what they must not; the answer is a JSON object
frames.py share      how much one guest gets of what all share
"""

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

from attack import (ARP, BROADCAST, IP4, IP6, QUERY, UDP, arp, dhcp, from_port, ip4, ip6, link_local, mac, parts, ping,
                    syn, udp, Card)

NAT, ISOLATED = "10.213.0.1", "10.213.16.1"
# The host's own public address, its neighbours there, and what is beyond the router.
HOST, ROUTER, NEIGHBOUR, SERVER = "198.51.100.2", "198.51.100.1", "198.51.100.7", "203.0.113.9"
# A network that the host gets when everything stands.
LATE_HOST, LATE = "192.0.2.2", "192.0.2.7"
PRIVATE = "192.168.77.1"
PORT = 8080
# Name: port, bridge, MAC address, IP address.
GUESTS = {
    "anna": ("cyyber-n20", "cyyber0", "52:63:79:79:00:14", "10.213.0.20"),
    "ben": ("cyyber-n21", "cyyber0", "52:63:79:79:00:15", "10.213.0.21"),
    "carl": ("cyyber-i20", "cyyber1", "52:63:79:79:00:14", "10.213.16.20"),
    # Nobody knows her: a VM that somebody else put there, once more with Ben's addresses.
    "eve": ("vnet77", "cyyber0", "52:54:00:00:00:01", "10.213.0.99"),
    "mallory": ("vnet78", "cyyber0", "52:63:79:79:00:15", "10.213.0.21"),
}


def run(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def ip(line):
    return run("ip", *line.split())


def start(*words):
    """Begins what ends with the test."""
    subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def inside(name, job):
    """What the job returns in a network namespace."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            namespace = os.open(f"/run/netns/{name}", os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(namespace, 0x40000000):
                raise OSError(ctypes.get_errno())
            os.write(write, json.dumps(job()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        return json.loads(answer.read())


def serve():
    """Greets whoever connects, and tells who sends."""
    def greet():
        server = socket.create_server(("", PORT), backlog=4096)
        while True:
            client, (address, _) = server.accept()
            client.send(b"hello " + address.encode())
            client.close()
    threading.Thread(target=greet, daemon=True).start()
    strangers = socket.socket(type=socket.SOCK_DGRAM)
    strangers.bind(("", PORT))
    while True:
        data, sender = strangers.recvfrom(99)
        strangers.sendto(data, sender)


def set_up():
    for name, (port, bridge, hardware, address) in GUESTS.items():
        gateway = ISOLATED if bridge == "cyyber1" else NAT
        ip(f"netns add {name}")
        ip(f"link add {port} type veth peer name eth0 netns {name}")
        ip(f"link set {port} master {bridge} up")
        if port.startswith("cyyber"):
            ip(f"link set {port} type bridge_slave isolated on")
        ip(f"-n {name} link set eth0 address {hardware} up")
        ip(f"-n {name} link set lo up")
        ip(f"-n {name} addr add {address}/20 dev eth0")
        ip(f"-n {name} route add default via {gateway}")
    ip("netns add isp")
    ip("link add up0 type veth peer name eth0 netns isp")
    ip(f"addr add {HOST}/24 dev up0")
    ip("link set up0 up")
    for address in (ROUTER, NEIGHBOUR):
        ip(f"-n isp addr add {address}/24 dev eth0")
    for address in (SERVER, PRIVATE):
        ip(f"-n isp addr add {address}/32 dev lo")
    ip("-n isp link set eth0 up")
    ip("-n isp link set lo up")
    ip(f"route add default via {ROUTER}")
    # As somebody on the way who knows the networks of the labs.
    ip(f"-n isp route add default via {HOST}")
    ip("link add up1 type veth peer name eth1 netns isp")
    ip("-n isp link set eth1 up")
    for name in ("isp", *GUESTS):
        start("ip", "netns", "exec", name, sys.executable, __file__, "serve")
    start(sys.executable, __file__, "serve")
    time.sleep(2)
    # A network that nobody knew of when the table was loaded.
    ip(f"addr add {LATE_HOST}/24 dev up1")
    ip("link set up1 up")
    ip(f"-n isp addr add {LATE}/24 dev eth1")


def says(address, port=PORT, patience=1.0):
    """What a server greets with, or how the attempt ends."""
    try:
        with socket.create_connection((address, port), patience) as connection:
            connection.settimeout(patience)
            return connection.recv(99).decode()
    except OSError as error:
        return type(error).__name__


def resolves(gateway, times=1, wait=1.5):
    """How many questions the name server answers."""
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.connect((gateway, 53))
        for _ in range(times):
            asking.send(QUERY)
        return drained(asking, wait)


def drained(of, wait):
    of.settimeout(wait)
    count = 0
    try:
        while of.recv(2000):
            count += 1
    except OSError:
        pass
    return count


def opens(gateway):
    """Whether the name server answers by TCP."""
    try:
        with socket.create_connection((gateway, 53), 2) as asking:
            asking.settimeout(3)
            asking.send(struct.pack("!H", len(QUERY)) + QUERY)
            return len(asking.recv(2000)) > 12
    except OSError:
        return False


def gets_address():
    card = Card("eth0")
    card.send(BROADCAST, IP4, udp("0.0.0.0", "255.255.255.255", 68, 67, dhcp(card.mac)))
    return [f"{sender}:{port}" for sender, port in card.answers(3.5, from_port(UDP)) if port == 67]


def reach(gateway):
    """All that answers, by name; silence is TimeoutError."""
    targets = {"host": HOST, "bridge": gateway, "router": ROUTER, "neighbour of the host": NEIGHBOUR, "late": LATE,
               "private": PRIVATE, "ben": GUESTS["ben"][3], "carl": GUESTS["carl"][3], "internet": SERVER}
    found = {}

    def ask(name, address):
        found[name] = says(address)
        with socket.socket(type=socket.SOCK_DGRAM) as udp_socket:
            udp_socket.sendto(b"hello", (address, PORT))
            found[name] += f" {drained(udp_socket, 1)}"
    threads = [threading.Thread(target=ask, args=target) for target in targets.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def lie(bridge):
    """Frames that no card of Anna's may send. Whoever sees them tells."""
    card = Card("eth0")
    me, ben = GUESTS["anna"][3], GUESTS["ben"][3]
    other = mac(GUESTS["ben"][2])
    tag = struct.pack("!HH", 1, IP4)
    for _ in range(3):
        for target in (BROADCAST, bridge, other):
            card.send(target, ARP, arp(2, card.mac, ben, NAT))
            card.send(target, ARP, arp(2, other, ben, NAT), source=other)
            card.send(target, ARP, arp(2, other, me, NAT))
            card.send(target, ARP, arp(2, card.mac, NAT, me))
            card.send(target, IP4, udp(ben, NAT, 40003, 53, QUERY))
            card.send(target, IP4, udp(me, NAT, 40003, 53, QUERY), source=other)
            card.send(target, IP4, udp(ben, SERVER, 40003, PORT, b"lie"))
            card.send(target, IP4, udp(me, ben, 40003, PORT, b"lie"))
            card.send(target, IP4, udp(me, HOST, 40003, PORT + 1, b"lie"))
            card.send(target, 0x8100, tag + udp(me, NAT, 40003, 53, QUERY))
            card.send(target, 0x8100, tag + udp(me, ben, 40003, PORT, b"lie"))
            card.send(target, 0x88A8, tag + udp(me, ben, 40003, PORT, b"lie"))
            card.send(target, 0x88B5, b"lie")
            card.send(target, IP4, udp(me, "255.255.255.255", 67, 68, b"an offer"))
            card.send(target, IP4, udp("0.0.0.0", "255.255.255.255", 68, 53, QUERY))
            ask = struct.pack("!BBHI", 135, 0, 0, 0) + link_local(other) + b"\1\1" + card.mac
            card.send(target, IP6, ip6(link_local(card.mac), link_local(other), 58, ask))
        for last in (0, 1, 2, 3, 14):
            # For the bridge itself, in Ben's name: what it learns, it believes.
            target = mac("01:80:c2:00:00:00")[:5] + bytes([last])
            card.send(target, 39, b"\x42\x42\x03" + b"\0" * 36, source=other)
            for address in (HOST, NAT):
                card.send(target, IP4, udp(me, address, 40003, PORT + 1, b"lie"))
    return [f"{sender}:{port}" for sender, port in card.answers(2, from_port(UDP))]


def sniff(seconds):
    """Frames of another one, as Ben sees them."""
    card = Card("eth0")
    anna = mac(GUESTS["anna"][2])
    time.sleep(seconds)
    return sum(anna in frame or b"lie" in frame or socket.inet_aton(GUESTS["anna"][3]) in frame for frame in card.seen)


def probe():
    found, there = {}, bridge()

    def ask(name):
        gateway = ISOLATED if name == "carl" else NAT
        found[name] = {"dhcp": inside(name, gets_address), "dns": inside(name, lambda: resolves(gateway)),
                       "dns by tcp": inside(name, lambda: opens(gateway)),
                       "reaches": inside(name, lambda: reach(gateway))}
    for names in (("anna", "carl"), ("eve", "mallory")):
        asking = [threading.Thread(target=ask, args=(name,)) for name in names]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    seen = []
    watching = threading.Thread(target=lambda: seen.append(inside("ben", lambda: sniff(5))))
    watching.start()
    reached = socket.socket(type=socket.SOCK_DGRAM)
    reached.bind(("", PORT + 1))
    time.sleep(1)
    # Before the question to the bridge below, which would have Ben's true place in its memory.
    found["answers to lies"] = inside("anna", lambda: lie(there))
    found["lies that reached the host"] = drained(reached, 0.1)
    watching.join()
    found["seen by ben"] = seen[0]
    learned = [line for line in run("bridge", "fdb", "show", "br", "cyyber0").splitlines()
               if GUESTS["ben"][2] in line and GUESTS["ben"][0] not in line]
    neighbours = [line for line in ip("neigh show dev cyyber0").splitlines()
                  if GUESTS["ben"][3] + " " in line and GUESTS["ben"][2] not in line and "FAILED" not in line]
    found["believed"] = learned + neighbours
    found["ben after all"] = inside("ben", lambda: resolves(NAT))
    # From outside, and from the host itself.
    found["comes in"] = [inside("isp", lambda: says(GUESTS["anna"][3])), says(GUESTS["anna"][3])]
    print(json.dumps(found))


def bridge():
    with open("/sys/class/net/cyyber0/address") as address:
        return mac(address.read().strip())


def tracked(of):
    """Entries in the host's table of connections."""
    with open("/proc/net/nf_conntrack") as table:
        return sum(f"src={of} " in line for line in table)


def flood(bridge):
    card = Card("eth0")
    began = time.monotonic()
    for number in range(20000):
        card.send(bridge, IP4, udp(GUESTS["anna"][3], SERVER, 1024 + number % 60000, PORT + 1 + number // 60000, b"x"))
    return time.monotonic() - began


def hold(count):
    """Idle connections to the name server; how many of them it took, while another one asks."""
    open_ones = []
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((NAT, 53))
        open_ones.append(one)
    time.sleep(4)
    taken = sum(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\1" for one in open_ones)
    return taken


def share():
    found, there = {}, bridge()
    inside("anna", lambda: resolves(NAT))
    found["seconds"] = inside("anna", lambda: flood(there))
    found["tracked"] = tracked(GUESTS["anna"][3])
    found["dns a second"] = inside("anna", lambda: resolves(NAT, 500, 0.5))
    answered = []
    holding = threading.Thread(target=lambda: answered.append(inside("anna", lambda: hold(50))))
    holding.start()
    time.sleep(2)
    found["ben by tcp"] = inside("ben", lambda: opens(NAT))
    holding.join()
    found["held"] = answered[0]
    print(json.dumps(found))


if __name__ == "__main__":
    {"set-up": set_up, "probe": probe, "share": share, "serve": serve}[sys.argv[1]]()
