"""What PTX's instructions compute, on numpy arrays with a number for each thread, for ptx.py's emulator.

Written after "PTX ISA 8.7"; sections 9.7.1 to 9.7.15 say what each instruction does, and how the lanes of a warp share
the matrices of `mma`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Op = Callable[..., Array]

TYPES: dict[str, Any] = {
    **{f"{kind}{bits}": getattr(np, f"uint{bits}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": getattr(np, f"int{bits}") for bits in (8, 16, 32, 64)},
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "pred": np.bool_,
    "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32, "u16x2": np.uint32, "s16x2": np.uint32,
}  # fmt: skip


def bits_of(dtype: Any) -> Any:
    """The unsigned type of the same size."""
    return np.dtype(f"u{np.dtype(dtype).itemsize}")


# --- rounding --------------------------------------------------------------------------------------------


def canonical(a: Array) -> Array:
    """float32's NaNs have no payload on a GPU: all are 0x7FFFFFFF. float64's keep theirs."""
    if a.dtype == np.float32 and (nan := np.isnan(a)).any():
        a = np.where(nan, np.uint32(0x7FFFFFFF), a.view(np.uint32)).view(np.float32)
    return a


def flushed(a: Array) -> Array:
    """Subnormal numbers are zeros of their sign."""
    return np.where(np.abs(a) < np.finfo(a.dtype).tiny, np.copysign(np.zeros_like(a), a), a)


def to_bf16(a: Array) -> Array:
    """float32 -> the bits of bfloat16, to nearest even."""
    bits = a.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(a), np.uint32(0x7FFF), rounded).astype(np.uint16)


def to_f16(a: Array) -> Array:
    return np.where(np.isnan(a), np.uint16(0x7FFF), a.astype(np.float16).view(np.uint16))


def from_bf16(a: Array) -> Array:
    return (a.astype(np.uint32) << np.uint32(16)).view(np.float32)


def fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c in one rounding. float32: by way of float64, which holds the product, so the sum is rounded twice,
    wrong once in some 2**29. float64: with the errors of product and sum (Dekker; Knuth), wrong as seldom."""
    if a.dtype == np.float32:
        return (a.astype(np.float64) * b + c).astype(np.float32)
    a, b, c = np.broadcast_arrays(a, b, c)
    product = a * b
    split = np.float64(134217729.0)
    a1, b1 = a * split, b * split
    a1, b1 = a1 - (a1 - a), b1 - (b1 - b)
    a2, b2 = a - a1, b - b1
    lost = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    y = product + c
    back = y - product
    lost = lost + ((product - (y - back)) + (c - back))
    y = np.where(np.isfinite(lost), y + lost, y)
    return np.where(np.isinf(c) & np.isfinite(a) & np.isfinite(b), c, y)


# --- integers --------------------------------------------------------------------------------------------


def shift_left(a: Array, b: Array) -> Array:
    bits = a.dtype.itemsize * 8
    return np.where(b < bits, a << (b % bits).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Array, b: Array) -> Array:
    """Of signed numbers the sign moves in."""
    bits = a.dtype.itemsize * 8
    return a >> np.minimum(b, bits - 1).astype(a.dtype) if a.dtype.kind == "i" else np.where(
        b < bits, a >> (b % bits).astype(a.dtype), a.dtype.type(0)
    )  # fmt: skip


def divide(a: Array, b: Array) -> Array:
    """Integers, towards zero."""
    wide = np.int64 if a.dtype != np.uint64 else np.uint64
    n, d = a.astype(wide), np.where(b == 0, b.dtype.type(1), b).astype(wide)
    q = np.abs(n) // np.abs(d)
    return np.where((n < 0) != (d < 0), -q if wide is np.int64 else q, q).astype(a.dtype)


def extract(a: Array, b: Array, c: Array) -> Array:
    """A field of c bits from bit b on; signed: its first bit is repeated."""
    bits = a.dtype.itemsize * 8
    begin, length = (b & 0xFF).astype(np.int64), (c & 0xFF).astype(np.int64)
    wide = np.where(begin < bits, a.astype(np.int64) >> np.minimum(begin, bits - 1), np.where(a < 0, -1, 0))
    if a.dtype.kind == "u":
        wide = wide & ((np.int64(1) << np.int64(bits)) - 1) if bits < 64 else wide
    mask = (np.int64(1) << np.minimum(length, 62)) - 1
    field = wide & mask
    if a.dtype.kind == "i":
        sign = (field >> np.maximum(length - 1, 0)) & (length > 0)
        field = np.where(sign != 0, field | ~mask, field)
    return field.astype(a.dtype)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    """prmt: four of the eight bytes of b and a, or their signs."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    made = np.uint32(0)
    for k in range(4):
        nibble = selector >> np.uint32(4 * k) & np.uint32(15)
        byte = (both >> (nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)).astype(np.uint32)
        byte = np.where(nibble & np.uint32(8), (byte >> np.uint32(7)) * np.uint32(255), byte)
        made = made | byte << np.uint32(8 * k)
    return made


def pairwise(op: Op, dtype: Any, a: Array, b: Array) -> Array:
    """An op on the halves of 32 bits."""
    a, b = (np.ascontiguousarray(t) for t in np.broadcast_arrays(a, b))
    return op(a.view(dtype), b.view(dtype)).view(np.uint32)


# --- comparisons -----------------------------------------------------------------------------------------

ORDERS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def comparison(name: str, kind: str) -> Op | None:
    """Of floats: false of a NaN; true with a `u` at the end; `num` and `nan` ask for nothing else. Two halves: both."""
    if kind.removesuffix("x2") in ("bf16", "f16"):
        compare, read = comparison(name, "f32"), from_bf16 if kind[0] == "b" else (lambda a: a.view(np.float16))
        if kind.endswith("x2"):
            return compare and (lambda a, b: compare(*(read(t.view(np.uint16)).reshape(-1, 2) for t in (a, b))))
        return compare and (lambda a, b: compare(read(a), read(b)))
    if kind[0] != "f":
        return ORDERS.get(name)
    if name in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == (name == "nan")
    unordered = len(name) == 3 and name.endswith("u")
    order = ORDERS.get(name[:2])
    if order is None or (len(name) > 2 and not unordered):
        return None
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), unordered, order(a, b))


# --- which op computes what ----------------------------------------------------------------------------------

WHOLE = {"rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc, "rni": np.rint}
PLAIN: dict[str, Op] = {
    "add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "neg": np.negative, "abs": np.abs, "min": np.minimum, "max": np.maximum, "bfe": extract,
    "div": divide, "rem": lambda a, b: a - divide(a, b) * b, "prmt": permute_bytes, "shr": shift_right,
    "shl": shift_left, "mov": lambda a: a,
}  # fmt: skip
FLOAT: dict[str, Op] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "fma": fma, "neg": np.negative,
    "abs": np.abs, "min": np.fmin, "max": np.fmax, "sqrt": np.sqrt, "mov": lambda a: a,
    "rcp": lambda a: np.float64(1) / a, "ex2": lambda a: np.exp2(a.astype(np.float64)),
    "lg2": lambda a: np.log2(a.astype(np.float64)),
}  # fmt: skip


def conversion(mods: Sequence[str], to: str, of: str) -> Op | None:
    """cvt, from one type to another."""
    rounding = next((m for m in mods if m in WHOLE), None)
    flush = flushed if "ftz" in mods else (lambda a: a)
    if "sat" in mods or {"rz", "rm", "rp", "rna", "relu"} & set(mods):
        return None
    halves = {"bf16": to_bf16, "f16": to_f16}
    if to in ("bf16x2", "f16x2") and of == "f32":
        narrow = halves[to.removesuffix("x2")]
        return lambda a, b: narrow(flush(a)).astype(np.uint32) << np.uint32(16) | narrow(flush(b)).astype(np.uint32)
    if to in halves and of == "f32":
        return lambda a: halves[to](flush(a)).view(TYPES[to])
    if of == "bf16" and to in ("f32", "f64"):
        return lambda a: canonical(from_bf16(a)).astype(TYPES[to])
    if "bf16" in (to, of):
        return None
    if to[0] == "f" and of[0] == "f":
        whole = WHOLE[rounding] if rounding else (lambda a: a)
        return lambda a: canonical(flush(whole(flush(a)).astype(TYPES[to])))
    if to[0] == "f":
        return lambda a: a.astype(TYPES[to])
    if of[0] == "f":  # beyond what the integer holds: its nearest; NaN: 0
        if rounding is None:
            return None
        limits = np.iinfo(TYPES[to])

        def integer(a: Array) -> Array:
            whole = WHOLE[rounding](flush(a).astype(np.float64))
            clipped = np.clip(np.nan_to_num(whole, nan=0.0), limits.min, float(limits.max))
            return np.where(whole >= float(limits.max), limits.max, clipped.astype(np.int64)).astype(TYPES[to])

        return integer
    return lambda a: a.astype(TYPES[to])


def arithmetic(name: str) -> tuple[Op, list[str], str] | None:
    """What an instruction of no memory and no other lanes computes: function, the arguments' types, the result's."""
    op, *mods = name.split(".")
    types = [m for m in mods if m in TYPES]
    mods = [m for m in mods if m not in TYPES]
    if not types:
        return None
    last = types[-1]
    kind = np.dtype(TYPES[last]).kind if last not in ("f16", "bf16", "bf16x2", "f16x2") else "half"
    if op == "cvt" and len(types) == 2:
        convert = conversion(mods, *types)
        return convert and (convert, [last] * (2 if types[0].endswith("x2") else 1), types[0])
    if len(types) != 1:
        return None
    if op == "selp" and not mods:
        return lambda a, b, c: np.where(c, a, b), [last, last, "pred"], last
    if op in ("mul", "mad") and kind in "iu":
        return multiplication(op, mods, last)
    if op in ("min", "max") and last == "u16x2":
        return partial(pairwise, PLAIN[op], np.uint16), [last, last], last
    if kind == "half" and op in ("abs", "neg") and not mods:
        bits, sign = ("b32", np.uint32(0x80008000)) if last.endswith("x2") else ("b16", np.uint16(0x8000))
        return (lambda a: a & ~sign if op == "abs" else a ^ sign), [bits], bits
    if kind == "f":
        return floating(op, mods, last)
    if op in PLAIN and not mods and kind in "iub":
        if op in ("shl", "shr"):
            return PLAIN[op], [last, "u32"], last
        counts = {"not": 1, "neg": 1, "abs": 1, "mov": 1, "bfe": 3, "prmt": 3}
        arguments = [last, "u32", "u32"] if op == "bfe" else [last] * counts.get(op, 2)
        return (np.logical_not if op == "not" and last == "pred" else PLAIN[op]), arguments, last
    return None


def multiplication(op: str, mods: Sequence[str], last: str) -> tuple[Op, list[str], str] | None:
    """Integers; `mad` adds a third."""
    bits, add = int(last[1:]), op == "mad"
    wide = TYPES[f"{last[0]}{2 * bits}"] if bits < 64 else None
    if list(mods) == ["lo"]:
        return (lambda a, b, *c: sum(c, a * b)), [last] * (2 + add), last
    if wide is None or len(mods) != 1:
        return None
    if mods[0] == "wide":
        to = f"{last[0]}{2 * bits}"
        return (lambda a, b, *c: sum(c, a.astype(wide) * b.astype(wide))), [last, last, *[to] * add], to
    if mods[0] == "hi":
        high = lambda a, b, *c: sum(c, (a.astype(wide) * b.astype(wide) >> wide(bits)).astype(a.dtype))  # noqa: E731
        return high, [last] * (2 + add), last
    return None


def floating(op: str, mods: Sequence[str], last: str) -> tuple[Op, list[str], str] | None:
    """float32 and float64, to nearest even; approximations are better than a GPU's, which has an error in their last
    bits, but for rcp's of float64, which has 20 bits."""
    rest = set(mods) - {"rn", "ftz", "approx", "full", "NaN"}
    if op not in FLOAT or rest:
        return None
    function = {"min": np.minimum, "max": np.maximum}.get(op) if "NaN" in mods else FLOAT[op]
    if function is None:
        return None
    if op == "mov":
        return function, [last], last
    if op == "rcp" and last == "f64" and "approx" in mods:
        coarse = np.uint64(0xFFFFFFFF00000000)
        cut = lambda a: (a.view(np.uint64) & coarse).view(np.float64)  # noqa: E731
        return (lambda a: cut(flushed(np.float64(1) / flushed(cut(a))))), [last], last
    flush = "ftz" in mods

    def compute(*given: Array) -> Array:
        y = function(*map(flushed, given)) if flush else function(*given)
        y = y.astype(TYPES[last], copy=False)
        if op in ("neg", "abs"):  # of a NaN too they change no bit but the sign's, at worst
            return y
        return canonical(flushed(y) if flush else y)

    counts = {"neg": 1, "abs": 1, "sqrt": 1, "rcp": 1, "ex2": 1, "lg2": 1, "fma": 3}
    return compute, [last] * counts.get(op, 2), last


# --- matrices of a warp ----------------------------------------------------------------------------------

LANE = np.arange(32)
QUAD, IN_QUAD = LANE[:, None] // 4, LANE[:, None] % 4


def _places(kind: str) -> tuple[tuple[Array, Array], ...]:
    """Where in A (rows x k), B (k x 8) and C (rows x 8) each lane's numbers lie: rows and columns, (32, numbers)."""
    n = np.arange(8)[None]
    c = np.arange(4)[None]
    out = QUAD + 8 * (c // 2), 2 * IN_QUAD + c % 2
    if kind == "half":  # two numbers a register
        left = QUAD + 8 * (n // 2 % 2), 2 * IN_QUAD + n % 2 + 8 * (n // 4)
        return left, (2 * IN_QUAD + c % 2 + 8 * (c // 2), QUAD + 0 * c), out
    if kind == "tf32":
        return (QUAD + 8 * (c % 2), IN_QUAD + 4 * (c // 2)), (IN_QUAD + 4 * c[:, :2], QUAD + 0 * c[:, :2]), out
    if kind == "small":
        return (QUAD, IN_QUAD), (IN_QUAD, QUAD), (QUAD + 0 * c[:, :2], 2 * IN_QUAD + c[:, :2])
    return (QUAD + 8 * (n % 2), IN_QUAD + 4 * (n // 2)), (IN_QUAD + 4 * c, QUAD + 0 * c), out


def _tf32(a: Array) -> Array:
    """What the unit looks at of float32: 10 bits of mantissa, the rest cut off."""
    return (a & np.uint32(0xFFFFE000)).view(np.float32)


# The shape and the types -> the kind, how many registers A, B and C have, and what is made of an operand's.
MATRICES: dict[str, tuple[str, int, int, Callable[[Array], Array]]] = {
    "m16n8k16.row.col.f32.bf16.bf16.f32": ("half", 4, 2, lambda a: from_bf16(a.view(np.uint16))),
    "m16n8k16.row.col.f32.f16.f16.f32": ("half", 4, 2, lambda a: a.view(np.float16)),
    "m16n8k8.row.col.f32.tf32.tf32.f32": ("tf32", 4, 2, _tf32),
    "m16n8k16.row.col.f64.f64.f64.f64": ("double", 8, 4, lambda a: a.view(np.float64)),
    "m8n8k4.row.col.f64.f64.f64.f64": ("small", 1, 1, lambda a: a.view(np.float64)),
}


def multiply_add(name: str, a: Sequence[Array], b: Sequence[Array], c: Sequence[Array]) -> list[Array]:
    """mma: the registers of C + A B, given those of A, B and C, each (warps, 32).

    The sum is float64's, rounded once; a GPU's own has some more roundings, whose order nobody tells.
    """
    kind, _, _, read = MATRICES[name]
    (rows_a, columns_a), (rows_b, columns_b), (rows, columns) = _places(kind)
    height, terms = int(rows_a.max()) + 1, int(columns_a.max()) + 1
    left, right, total = (np.empty((len(a[0]), *size)) for size in ((height, terms), (terms, 8), (height, 8)))
    left[:, rows_a, columns_a] = read(np.stack(a, -1))
    right[:, rows_b, columns_b] = read(np.stack(b, -1))
    dtype = np.float64 if kind in ("double", "small") else np.float32
    total[:, rows, columns] = np.stack(c, -1).view(dtype)
    made = canonical((left @ right + total).astype(dtype))[:, rows, columns]
    return [np.ascontiguousarray(made[..., k]).view(bits_of(dtype)) for k in range(len(c))]
