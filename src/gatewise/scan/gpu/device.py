"""What the generated GPU kernels call: functions that Triton lacks or has too coarse ones of.

All are for float32 and float64. Triton's own exp multiplies by log2(e) in one rounding, which costs a unit in the last
place for each 1 of |a|: too coarse for exp itself, not for sigmoid and tanh, which are flat where |a| is large.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl


@triton.jit
def exp(a):
    """exp(a), the exponent split off in two parts (Cody and Waite 1980)."""
    if a.dtype == tl.float64:
        y = tl.exp(a)
    else:
        n = tl.floor(tl.minimum(tl.maximum(a, -200.0), 200.0) * 1.4426950408889634 + 0.5)
        rest = tl.fma(n, -0.693359375, a)
        rest = tl.fma(n, 2.12194440e-4, rest)
        half = tl.floor(n * 0.5)  # 2 ** n itself may not be a normal number where exp(a) is one
        y = tl.exp2(rest * 1.4426950408889634) * tl.exp2(half) * tl.exp2(n - half)
        y = tl.where(a > 100.0, float("inf"), tl.where(a < -110.0, 0.0, y))
    return y


@triton.jit
def expm1(a):
    """exp(a) - 1 without cancellation: a correction of the rounded exp (Kahan; Higham 2002, section 1.14.1)."""
    u = exp(a)
    near = tl.abs(a) < 0.5
    log = tl.log(tl.where(near & (u != 1.0), u, 2.0))
    return tl.where(near, tl.where(u == 1.0, a, (u - 1.0) * a / log), u - 1.0)


@triton.jit
def log1p(a):
    """log(1 + a) for a >= 0, likewise corrected."""
    u = 1.0 + a
    return tl.where(u == 1.0, a, tl.log(u) * tl.where(u == a, 1.0, a / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def divide(a, b):
    """a / b, rounded once; Triton's own is 0 for b above 2 ** 126."""
    a, b = tl.broadcast(a, b)
    if a.dtype == tl.float64:
        y = a / b
    else:
        y = tl.div_rn(a, b)
    return y


@triton.jit
def sigmoid(a):
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def tanh(a):
    """tanh(a): by exp(-2|a|), and near 0, where that cancels, by a polynomial (Cephes' tanhf) or expm1."""
    size = tl.abs(a)
    if a.dtype == tl.float64:
        e = expm1(-2.0 * size)
        y = -e / (2.0 + e)
    else:
        e = tl.exp(-2.0 * size)
        z = a * a
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = p * z - 5.37397155531e-2
        p = p * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
        y = tl.where(size < 0.625, size + size * (z * p), (1.0 - e) / (1.0 + e))
    return tl.where(a < 0.0, -y, y)


@triton.jit
def sqrt(a):
    if a.dtype == tl.float64:
        y = tl.sqrt(a)
    else:
        y = tl.sqrt_rn(a)
    return y


@triton.jit
def power(a, b):
    """a ** b, of negative a for whole b, as C's pow; by way of float64, where products of b and log(a) have bits to
    spare for float32."""
    x, y = tl.broadcast(a, b)
    dtype: tl.constexpr = x.dtype
    x, y = x.to(tl.float64), y.to(tl.float64)
    size = tl.abs(x)
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    p = tl.where(size == 1.0, 1.0, tl.exp(y * tl.log(size)))
    # -0.0 is negative, too; and Triton's -p is 0 - p, which has no -0.0.
    p = tl.where(odd & (x.to(tl.int64, bitcast=True) < 0), p * -1.0, p)
    p = tl.where((x < 0.0) & (size < float("inf")) & (whole == 0), float("nan"), p)
    return tl.where((y == 0.0) | (x == 1.0), 1.0, p).to(dtype)


@triton.jit
def softplus(a, beta, threshold):
    """log(1 + exp(beta a)) / beta, and a itself above the threshold, as torch has it."""
    b = beta * a
    return tl.where(b > threshold, a, log1p(exp(tl.where(b > threshold, threshold, b))) / beta)


@triton.jit
def elu(a, alpha):
    return tl.where(a > 0.0, a, alpha * expm1(tl.where(a > 0.0, 0.0, a)))


@triton.jit
def clamp(a, low, high):
    """a within bounds; NaN stays NaN."""
    a = tl.where(a < low, low, a)
    return tl.where(a > high, high, a)


@triton.jit
def minimum(a, b):
    """The smaller one; NaN if one is."""
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def maximum(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def plain(a):
    """a, whose NaNs are arithmetic's own: none has all its bits set, as what is not there yet has."""
    return tl.where(a == a, a, float("nan"))


@triton.constexpr_function
def halvings(n: int) -> int:
    """How often a power of two can be halved."""
    return n.bit_length() - 1


@triton.constexpr_function
def in_pairs(shape: Sequence[int]) -> list[int]:
    """The shape with its last numbers two by two."""
    return [*shape[:-1], shape[-1] // 2, 2]


@triton.jit
def missing(parts, warps):
    """Whether some number of these parts was not stored yet: all its bits are set, the largest number bits can be.

    All threads get each warp's maximum and look for themselves, so that it takes a barrier less than tl.max.
    """
    most = largest(parts[0], warps)
    for k in tl.static_range(1, len(parts)):
        most = tl.maximum(most, largest(parts[k], warps))
    most = tl.max(most, 1)
    for _ in tl.static_range(halvings(warps) - 1):
        one, other = tl.split(tl.reshape(most, in_pairs(most.shape)))
        most = tl.maximum(one, other)
    one, other = tl.split(most)
    return tl.maximum(one, other) == (1 << min(32, parts[0].dtype.primitive_bitwidth)) - 1


@triton.jit
def largest(a, warps):
    """The largest of each thread's numbers by their bits, (warps, lanes).

    A maximum of two 16-bit numbers at a time is one instruction; each comparison would be three.
    """
    width: tl.constexpr = a.dtype.primitive_bitwidth
    if width == 16:
        bits = a.to(tl.uint16, bitcast=True)
    elif width == 32:
        bits = a.to(tl.uint32, bitcast=True)
    else:  # a maximum across a warp is one of 32 bits
        bits = tl.where(a.to(tl.int64, bitcast=True) == -1, 0xFFFFFFFF, 0).to(tl.uint32)
    lanes: tl.constexpr = min(32, a.numel // warps)  # fewer in tests alone
    return tl.max(tl.reshape(bits, (a.numel // (lanes * warps), warps, lanes), can_reorder=True), 0)


@triton.jit
def total(a):
    """The sum of a product's parts, (parts, rows, units, …) -> (rows, units, …).

    After tl.sum every warp would have all sums, and do all that follows once more. The halves of a split lie in one
    thread, so the parts are handed out anew, and but once: each thread adds up the numbers that it goes on with.
    """
    y = tl.permute(a, (1, 2, 0) if len(a.shape) == 3 else (1, 2, 3, 0))
    for _ in tl.static_range(halvings(a.shape[0]) - 1):
        one, other = tl.split(tl.reshape(y, in_pairs(y.shape)))
        y = one + other
    one, other = tl.split(y)
    return one + other


@triton.jit
def totals(a, b):
    """The same of two products, whose parts are handed out at once."""
    return tl.split(total(tl.join(a, b)))


@triton.jit
def held(a):
    """float32's a itself, but compilers take it for something new, made here: neither before nor later."""
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [a], dtype=a.dtype, is_pure=False, pack=1)
