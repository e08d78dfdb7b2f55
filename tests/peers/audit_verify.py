"""A second verifier of the audit log, written from docs/audit-log.md and from nothing else.

With a folder as its argument it checks that log. With `--mutations` behind it, it reads one JSON object a line from
standard input, {"files": {name: base64 or null}}, checks the log as it would be with these files in place of its own (null:
without them), and answers each with {"sound", "first_bad", "fault"}.
"""

import base64
import hashlib
import json
import os
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH = 256
LEVELS = 8


class Bad(Exception):
    def __init__(self, seq, text):
        super().__init__(text)
        self.seq = seq


def sha256(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def strict_b64(text):
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("not canonical base64")
    return raw


def b64url(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def reject(_):
    raise ValueError("no JSON")


def unique(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def from_json(raw):
    return json.loads(raw.decode("utf-8"), parse_constant=reject, object_pairs_hook=unique)


class Key:
    def __init__(self, text):
        self.name, key_hash, encoded = text.strip().split("+", 2)
        raw = strict_b64(encoded)
        if len(raw) != 33 or raw[0] != 1:
            raise ValueError("not an Ed25519 key")
        self.id = sha256(self.name.encode(), b"\n", raw)[:4]
        if key_hash != self.id.hex():
            raise ValueError("the hash is another key's")
        self.key = Ed25519PublicKey.from_public_bytes(raw[1:])


def open_note(raw, key):
    """The text of a note, once the key's signature holds."""
    whole = raw.decode("utf-8")
    if any(ord(c) < 32 and c != "\n" for c in whole):
        raise ValueError("control characters")
    text, found, signatures = whole.rpartition("\n\n")
    if not found or not signatures.endswith("\n"):
        raise ValueError("no signatures")
    text += "\n"
    held = False
    for line in signatures[:-1].split("\n"):
        if not line.startswith("\u2014 "):
            raise ValueError("no signature line")
        name, encoded = line[2:].split(" ", 1)
        signature = strict_b64(encoded)
        if len(signature) < 5 or not name:
            raise ValueError("no signature line")
        if name == key.name and signature[:4] == key.id:
            key.key.verify(signature[4:], text.encode())
            held = True
    if not held:
        raise ValueError("not signed by the key")
    return text


def read_checkpoint(text):
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] != "" or "" in lines[:-1]:
        raise ValueError("no checkpoint")
    origin, size, root = lines[:3]
    root = strict_b64(root)
    if not size.isascii() or not size.isdigit() or str(int(size)) != size or len(root) != 32:
        raise ValueError("no checkpoint")
    return origin, int(size), root


def tile_name(folder, index, width):
    groups = ["%03d" % (index % 1000)]
    index //= 1000
    while index:
        groups.insert(0, "x%03d" % (index % 1000))
        index //= 1000
    return "%s/%s" % (folder, "/".join(groups)) + ("" if width == WIDTH else ".p/%d" % width)


class Tree:
    """The complete subtrees along the right edge, the largest first: (height, hash)."""

    def __init__(self):
        self.edge = []

    def push(self, leaf):
        """Adds a leaf; gives every subtree that is complete by it."""
        height, complete = 0, [(0, leaf)]
        node = leaf
        while self.edge and self.edge[-1][0] == height:
            node = sha256(b"\x01", self.edge.pop()[1], node)
            height += 1
            complete.append((height, node))
        self.edge.append((height, node))
        return complete

    def root(self):
        if not self.edge:
            return sha256()
        node = self.edge[-1][1]
        for _, left in reversed(self.edge[:-1]):
            node = sha256(b"\x01", left, node)
        return node


def check(read):
    """Raises Bad at the first fault. `read` gives a file's bytes, or None."""
    try:
        key = Key(read("key").decode())
        origin, size, root = read_checkpoint(open_note(read("checkpoint"), key))
    except (ValueError, AttributeError, InvalidSignature) as e:
        raise Bad(None, "checkpoint: %s" % e) from e
    if origin != key.name:
        raise Bad(None, "checkpoint: of another log than its key")
    signed = {}
    for line in (read("checkpoints.ndjson") or b"").split(b"\n"):
        if not line:
            continue
        try:
            earlier = read_checkpoint(open_note(from_json(line)["note"].encode(), key))
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as e:
            raise Bad(None, "checkpoints.ndjson: %s" % e) from e
        if earlier[0] != origin:
            raise Bad(None, "checkpoints.ndjson: of another log")
        signed.setdefault(earlier[1], set()).add(earlier[2])
    tenant = origin.split("/")[1]

    tree, roots, above = Tree(), {0: sha256()}, [b""] * LEVELS
    done, erased = 0, 0
    while done < size:
        width = min(WIDTH, size - done)
        leaves, erased = check_bundle(read, done, width, tenant, erased)
        check_personal(read, done, width, leaves)
        for leaf, _, _ in leaves:
            for height, node in tree.push(leaf):
                if height and height % 8 == 0 and height // 8 < LEVELS:
                    above[height // 8] += node
            done += 1
            if done in signed or done == size:
                roots[done] = tree.root()
        check_above(read, done, size, above)

    signed.setdefault(size, set()).add(root)
    good = 0
    for at in sorted(signed):
        if at > size:
            raise Bad(size, "entry %d is missing" % size)
        if signed[at] != {roots[at]}:
            raise Bad(good, "the first %d entries have another root" % at)
        good = at


def check_bundle(read, first, width, tenant, erased):
    entries = read(tile_name("tile/entries", first // WIDTH, width))
    hashes = read(tile_name("tile/0", first // WIDTH, width))
    if entries is None or hashes is None:
        raise Bad(first, "a file is missing")
    leaves, at = [], 0
    for i in range(first, first + width):
        length = int.from_bytes(entries[at : at + 2], "big")
        entry = entries[at + 2 : at + 2 + length]
        if at + 2 > len(entries) or len(entry) < length:
            raise Bad(i, "entry %d is missing" % i)
        at += 2 + length
        commitment, gone = None, length == 32
        if gone:
            if erased < i:
                raise Bad(i, "entry %d was erased out of turn" % i)
            erased, leaf = erased + 1, entry
        else:
            try:
                members = from_json(entry)
                fits = type(members["seq"]) is int and members["seq"] == i and members["tenant"] == tenant
                commitment = members.get("personal_sha256")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                fits = False
            if not fits:
                raise Bad(i, "entry %d does not read, or is another one" % i)
            leaf = sha256(b"\x00", entry)
        place = 32 * (i - first)
        if hashes[place : place + 32] != leaf:
            raise Bad(i, "entry %d is not the one of the tile" % i)
        leaves.append((leaf, commitment, gone))
    if at != len(entries) or len(hashes) != 32 * width:
        raise Bad(first + width, "more stands there")
    return leaves, erased


def check_personal(read, first, width, leaves):
    lines = read(tile_name("personal", first // WIDTH, width)) or b""
    for line in lines.split(b"\n"):
        if not line:
            continue
        try:
            data = from_json(line)
            seq = data.pop("seq")
            texts = [data["salt"], data["ip"] or "", data["user_agent"] or ""]
            reads = type(seq) is int and len(data) == 3 and all(type(t) is str for t in texts)
            reads = reads and data["ip"] != 0 and first <= seq < first + width
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            reads = False
        if not reads:
            raise Bad(first, "a line of personal data does not read")
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        _, commitment, gone = leaves[seq - first]
        if gone or commitment is None or commitment != b64url(sha256(canonical.encode())):
            raise Bad(seq, "the personal data of entry %d were changed" % seq)


def check_above(read, done, size, above):
    for level in range(1, LEVELS):
        hashes = above[level]
        full = len(hashes) == 32 * WIDTH
        if not hashes or not (full or done == size):
            continue
        width = len(hashes) // 32
        index = ((done >> (8 * level)) - width) // WIDTH
        there = read(tile_name("tile/%d" % level, index, width))
        if there != hashes:
            same = 0
            while there and same < width and there[32 * same : 32 * same + 32] == hashes[32 * same : 32 * same + 32]:
                same += 1
            raise Bad((index * WIDTH + same) << (8 * level), "a tile of level %d does not match" % level)
        if full:
            above[level] = b""


def folder_reader(folder):
    def read(name):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return read


def verdict(read):
    try:
        check(read)
    except Bad as bad:
        return {"sound": False, "first_bad": bad.seq, "fault": str(bad)}
    return {"sound": True, "first_bad": None, "fault": None}


def main():
    read, kept = folder_reader(sys.argv[1]), {}

    def remembered(name):
        if name not in kept:
            kept[name] = read(name)
        return kept[name]

    if sys.argv[2:] != ["--mutations"]:
        print(json.dumps(verdict(read)))
        return
    # All at the end: who writes to us reads only then.
    answers = []
    for line in sys.stdin:
        files = {name: raw and base64.b64decode(raw) for name, raw in json.loads(line)["files"].items()}
        mutated = lambda name: (b"" if files[name] == "" else files[name]) if name in files else remembered(name)
        answers.append(json.dumps(verdict(mutated)))
    print("\n".join(answers))


if __name__ == "__main__":
    main()
