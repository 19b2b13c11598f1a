"""BF16 as uint16, and what libmoet computes, in NumPy: for the tests."""
import numpy as np

COUNTS = [3, 0, 5, 2]  # rows of each expert; the second has none
EXPERTS, HIDDEN, INTER, ROWS = 4, 64, 32, 10


def from_float(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(values):
    return (np.asarray(values).astype(np.uint32) << 16).view(np.float32)


def draw(generator, *shape):
    return from_float(generator.standard_normal(shape))


def grouped(x, w, counts, kn=False, bias=None):
    """float64 [rows, N] of the grouped GEMM, not rounded."""
    x, w = to_float(x).astype(np.float64), to_float(w).astype(np.float64)
    parts, begin = [], 0
    for expert, count in enumerate(counts):
        part = x[begin:begin + count] @ (w[expert] if kn else w[expert].T)
        parts.append(part if bias is None else part + to_float(bias)[expert])
        begin += count
    return np.concatenate(parts)


def path(x, ids, weights, up, down, prob, paddle=False):
    """float64 [tokens, H] of the expert path, nk weights, without the roundings between its stages."""
    x, up, down = (to_float(t).astype(np.float64) for t in (x, up, down))
    inter = down.shape[2]
    out = np.zeros(x.shape)
    for token, choices in enumerate(ids):
        local = [k for k, expert in enumerate(choices) if expert >= 0]
        for k in local:
            wide = up[choices[k]] @ x[token]
            gate, linear = wide[:inter], wide[inter:]
            row = down[choices[k]] @ (gate / (1 + np.exp(-gate)) * linear)
            plain = prob == "none" or (paddle and len(local) == 1)
            out[token] += row if plain else row * weights[token, k]
    return out


def is_close(actual, expected):
    """One BF16 rounding of each element, with a little more where sums cancel."""
    scale = np.maximum(np.abs(expected), np.abs(expected).max() * 2.0**-6)
    return bool((np.abs(to_float(actual) - expected) <= 2.0**-8 * scale).all())


def is_near(actual, expected):
    """As near as a path whose stages are rounded: 2^-5 of a row's root mean square, of which it uses about half."""
    rms = np.sqrt((expected**2).mean(axis=1, keepdims=True))
    return bool((np.abs(to_float(actual) - expected) <= 2.0**-8 * np.abs(expected) + 2.0**-5 * rms).all())
