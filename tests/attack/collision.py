"""Two byte strings of one XXH3-64, as an attacker makes them in microseconds.

XXH3 without a key adds up, for each of eight accumulators and over 16 stripes of
64 bytes, the input's word and the product of the halves of (word XOR a constant).
A word that makes one of those halves zero adds nothing but itself: two such words
set an accumulator to any value.
"""
import ctypes
import ctypes.util
import pathlib
import re
import struct

HEADER = pathlib.Path("/usr/include/xxhash.h")
STRIPE = 64
MASK = (1 << 64) - 1


def secret():
    """The constant, from the library's own header; None if it is not installed."""
    if not HEADER.exists():
        return None
    table = re.search(r"XXH3_kSecret\[XXH_SECRET_DEFAULT_SIZE\] = \{(.*?)\};", HEADER.read_text(), re.S)
    return bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})", table.group(1)))


def words_of(data):
    return struct.unpack(f"<{len(data) // 8}Q", data)


def sums(data, constant):
    """The accumulators after the whole stripes of `data`, less than 16 of them."""
    accumulators = [0] * 8
    for stripe in range(len(data) // STRIPE):
        words = words_of(data[stripe * STRIPE:(stripe + 1) * STRIPE])
        keys = words_of(constant[8 * stripe:8 * stripe + STRIPE])
        for lane, (word, key) in enumerate(zip(words, keys)):
            mixed = word ^ key
            accumulators[lane ^ 1] += word
            accumulators[lane] += (mixed & 0xFFFFFFFF) * (mixed >> 32)
    return [value & MASK for value in accumulators]


def corrections(stripe, constant, wanted):
    """Two stripes that add `wanted` to the accumulators, the first being number `stripe`."""
    first, second = [0] * 8, [0] * 8
    keys = [words_of(constant[8 * (stripe + i):8 * (stripe + i) + STRIPE]) for i in range(2)]
    for lane in range(8):
        low_of_first = keys[0][lane] & 0xFFFFFFFF
        high_of_second = keys[1][lane] >> 32
        rest = (wanted[lane ^ 1] - low_of_first - (high_of_second << 32)) & MASK
        first[lane] = (rest >> 32) << 32 | low_of_first
        second[lane] = high_of_second << 32 | rest & 0xFFFFFFFF
    return struct.pack("<8Q", *first) + struct.pack("<8Q", *second)


def collide(one, other, constant):
    """Continuations of two byte strings of one length, below 600, that make their hashes equal."""
    assert len(one) == len(other) < 600
    filling = b"\0" * (-len(one) % STRIPE)
    stripe = (len(one) + len(filling)) // STRIPE
    base = [1 << 40] * 8
    difference = [(a - b + c) & MASK for a, b, c in
                  zip(sums(one + filling, constant), sums(other + filling, constant), base)]
    rest = b"\0" * STRIPE
    return (filling + corrections(stripe, constant, base) + rest,
            filling + corrections(stripe, constant, difference) + rest)


def xxh3(data):
    library = ctypes.util.find_library("xxhash") or "libxxhash.so.0"
    function = ctypes.CDLL(library).XXH3_64bits
    function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
    return function(bytes(data), len(data))
