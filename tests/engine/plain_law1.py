"""Law 1's arithmetic once more, in plain Python: a token at a time, by the written steps alone."""

import math
from fractions import Fraction

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
SQRT_HALF = 0.7071067811865476
LN_2 = 0.6931471805599453
STEPS_PER_NAT = 1.4426950408889634 * 2**20


def plain_log(x):
    mantissa, exponent = math.frexp(x)
    if mantissa < SQRT_HALF:
        mantissa, exponent = mantissa + mantissa, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    t = s * s
    p = 1.0 / 21
    for n in range(19, 0, -2):
        # Two statements: an interpreter could not fuse them either, and it is plain to see.
        p = p * t
        p = p + 1.0 / n
    p = (s + s) * p
    return exponent * LN_2 + p


def plain_hash(key, token_id):
    x = (key + token_id * GOLDEN) & MASK64
    return mix(x) >> 12


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def plain_noise(seed, choice, position, token_id):
    key = mix((seed + GOLDEN) & MASK64)
    key = mix(key ^ (choice * GOLDEN & MASK64))
    key = mix((key + position * 0xD1342543DE82EF95) & MASK64)
    uniform = (plain_hash(key, token_id) + 0.5) / 2**52
    return -plain_log(-plain_log(uniform))


def plain_steps(gap, temperature):
    """gap: of a logit to the best one, at least 0."""
    return int(min(gap * (STEPS_PER_NAT / temperature), 41.0 * 2**20))


def kept_by_top_p(weights, ids, sampling):
    """Of ids, best first: what top-p leaves, by exact fractions."""
    if sampling.top_p < 1.0:
        wanted = math.floor(Fraction(sampling.top_p) * sum(weights[i] for i in ids))
        kept, mass = [], 0
        for token_id in ids:
            kept.append(token_id)
            mass += weights[token_id]
            if mass >= wanted:
                break
        ids = kept
    return ids
