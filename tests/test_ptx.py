"""The compiled GPU kernels, run by an emulator of PTX: the emulator itself, and gatewise's kernels on it."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import BFLOAT16, FLOAT32, FLOAT64, HALF
from torch import Tensor

pytest.importorskip("triton")  # made for Linux alone

import ptx
from compile_kernels import answers
from emulate import Run
from small_kernels import SMALL

SCRIPT = Path(__file__).with_name("emulate.py")
REGISTERS = ".reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<33>; .reg .b64 %rd<17>;"


def launch(body: str, *arrays: Tensor, grid: int = 1, threads: int = 32, **options: Any) -> ptx.Seen:
    """Run a kernel of this body, whose %rd1, %rd2, ... are the arrays, and %r1 the thread."""
    parameters = ", ".join(f".param .u64 .ptr .global .align 1 kernel_{k}" for k in range(len(arrays)))
    loads = " ".join(f"ld.param.b64 %rd{k + 1}, [kernel_{k}];" for k in range(len(arrays)))
    text = f".visible .entry kernel({parameters})\n.reqntid {threads}\n{{\n{REGISTERS}\n{loads}\n"
    text += f"mov.u32 %r1, %tid.x;\n{body}\nret;\n$L__func_end0:\n}}\n"
    return ptx.run(text, grid, threads, arrays, **{"shared": 1024, **options})


# --- arithmetic ------------------------------------------------------------------------------------------


def f32(a: float) -> int:
    return struct.unpack("I", struct.pack("f", a))[0]


def f64(a: float) -> int:
    return struct.unpack("Q", struct.pack("d", a))[0]


NAN32, NAN64, INF32 = f32(math.nan), f64(math.nan), f32(math.inf)
# An instruction, what its operands are, and what it makes. Of two halves the lower one comes last.
OPS = [
    ("add.s32", (0xFFFFFFFF, 2), 1),
    ("sub.s32", (1, 2), 0xFFFFFFFF),
    ("mul.lo.s32", (0x10001, 0x10001), 0x20001),
    ("mul.hi.u32", (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFE),
    ("mad.lo.s32", (0xFFFFFFFF, 3, 4), 1),
    ("div.s32", (0xFFFFFFF9, 2), 0xFFFFFFFD),
    ("rem.s32", (0xFFFFFFF9, 2), 0xFFFFFFFF),
    ("shl.b32", (3, 31), 0x80000000),
    ("shl.b32", (3, 32), 0),
    ("shr.u32", (0x80000000, 31), 1),
    ("shr.s32", (0x80000000, 99), 0xFFFFFFFF),
    ("max.s32", (0xFFFFFFFF, 1), 1),
    ("max.u32", (0xFFFFFFFF, 1), 0xFFFFFFFF),
    ("max.u16x2", (0x00020001, 0x0001FFFF), 0x0002FFFF),
    ("bfe.u32", (0xABCD1234, 4, 8), 0x23),
    ("bfe.s32", (0x00000F00, 8, 4), 0xFFFFFFFF),
    ("bfe.u32", (0xABCD1234, 0, 32), 0xABCD1234),
    ("prmt.b32", (0x33221100, 0x77665544, 0x5410), 0x55441100),
    ("prmt.b32", (0x33221180, 0x77665544, 0x7638), 0x776633FF),
    ("not.b32", (0xFF,), 0xFFFFFF00),
    ("abs.f32", (f32(-2.0),), f32(2.0)),
    ("add.f32", (f32(1.0), f32(2.0**-25)), f32(1.0)),
    ("add.f32", (0xFFFFFFFF, f32(1.0)), 0x7FFFFFFF),
    ("fma.rn.f32", (f32(1 + 2.0**-23), f32(1 - 2.0**-23), f32(-1.0)), f32(-(2.0**-46))),
    ("fma.rn.ftz.f32", (f32(2.0**-126), f32(0.5), f32(0.0)), 0),
    ("mul.f32", (f32(2.0**-126), f32(0.5)), f32(2.0**-127)),
    ("max.f32", (NAN32, f32(1.0)), f32(1.0)),
    ("max.NaN.f32", (NAN32, f32(1.0)), 0x7FFFFFFF),
    ("min.f32", (f32(-1.0), f32(1.0)), f32(-1.0)),
    ("div.rn.f32", (f32(1.0), f32(3.0)), f32(1.0 / 3)),
    ("sqrt.rn.f32", (f32(2.0),), f32(math.sqrt(2.0))),
    ("ex2.approx.f32", (f32(-3.0),), f32(0.125)),
    ("ex2.approx.ftz.f32", (f32(-127.0),), 0),
    ("cvt.rn.f32.s32", (0xFFFFFFFF,), f32(-1.0)),
    ("cvt.rmi.ftz.f32.f32", (f32(-1.5),), f32(-2.0)),
    ("cvt.rzi.s32.f32", (f32(-1.5),), 0xFFFFFFFF),
    ("cvt.rzi.s32.f32", (f32(1e10),), 0x7FFFFFFF),
    ("cvt.rn.bf16x2.f32", (f32(1.0), f32(1 + 2.0**-8)), 0x3F803F80),
    ("cvt.rn.bf16x2.f32", (NAN32, f32(1 + 3 * 2.0**-8)), 0x7FFF3F82),
    ("cvt.rn.f16x2.f32", (f32(65520.0), f32(1 + 2.0**-11)), 0x7C003C00),
    ("abs.f16x2", (0x8000BC00,), 0x00003C00),
    ("fma.rn.f64", (f64(1 + 2.0**-52), f64(1 - 2.0**-52), f64(-1.0)), f64(-(2.0**-104))),
    ("fma.rn.f64", (f64(1e308), f64(10.0), f64(-math.inf)), f64(-math.inf)),
    ("rcp.approx.ftz.f64", (f64(4.0),), f64(0.25)),
    ("neg.f64", (f64(0.0),), f64(-0.0)),
    ("mul.lo.s64", (2**63 + 5, 2), 10),
    ("shl.b64", (1, 63), 2**63),
    ("cvt.rmi.f64.f64", (f64(-0.5),), f64(-1.0)),
]
WIDENS = [
    ("mul.wide.s32", (0xFFFFFFFF, 2), 2**64 - 2),
    ("mul.wide.u32", (0xFFFFFFFF, 2), 2**33 - 2),
    ("cvt.s64.s32", (0xFFFFFFFF,), 2**64 - 1),
    ("cvt.u64.u32", (0xFFFFFFFF,), 2**32 - 1),
    ("cvt.f64.f32", (f32(1.5),), f64(1.5)),
]


@pytest.mark.parametrize(("name", "given", "expected"), [*OPS, *WIDENS], ids=lambda a: a if isinstance(a, str) else "")
def test_an_instruction(name: str, given: tuple[int, ...], expected: int) -> None:
    """By way of registers, and of constants."""
    wide = name.endswith("64")
    to, of = ("rd" if wide or (name, given, expected) in WIDENS else "r"), ("rd" if wide else "r")
    bits = 64 if to == "rd" else 32
    numbers = torch.zeros(1, dtype=torch.int64)
    registers = [f"%{of}{8 + k}" for k in range(len(given))]
    if name.startswith("sh"):  # by how much is 32 bits wide
        registers[1] = "%r20"
    moves = [f"mov.b{64 if '%rd' in r else 32} {r}, {a};" for r, a in zip(registers, given, strict=True)]
    for operands in (registers, map(str, given)):
        body = f"{' '.join(moves)} {name} %{to}7, {', '.join(operands)};"
        launch(f"{body} st.global.b{bits} [%rd1], %{to}7;", numbers.zero_())
        assert numbers.item() % 2**64 == expected, f"{numbers.item() % 2**64:#x}, expected {expected:#x}"


@pytest.mark.parametrize("kind", ["f32", "f64", "bf16", "f16x2"])
@pytest.mark.parametrize("order", ["eq", "ne", "lt", "ge", "equ", "neu", "ltu", "geu", "num", "nan"])
def test_a_comparison(order: str, kind: str) -> None:
    code = {"f32": f32, "f64": f64, "bf16": lambda a: f32(a) >> 16, "f16x2": lambda a: _half(a) * 0x10001}[kind]
    size = {"f32": "b32", "f64": "b64", "bf16": "b16", "f16x2": "b32"}[kind]
    register = {"b16": "%rs", "b32": "%r", "b64": "%rd"}[size]
    truth = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "ge": lambda a, b: a >= b}
    for a, b in ((1.0, 2.0), (2.0, 2.0), (2.0, -2.0), (-3.0, -2.0), (math.nan, 1.0), (1.0, math.nan)):
        number = torch.zeros(1, dtype=torch.int32)
        body = f"mov.{size} {register}7, {code(a)}; mov.{size} {register}8, {code(b)};"
        body += f"setp.{order}.{kind} %p1|%p2, {register}7, {register}8; selp.b32 %r5, 1, 0, %p1;"
        launch(f"{body} @%p2 add.s32 %r5, %r5, 2; st.global.b32 [%rd1], %r5;", number)
        unordered = math.isnan(a) or math.isnan(b)
        if order in ("num", "nan"):
            expected = unordered == (order == "nan")
        else:
            expected = len(order) == 3 if unordered else truth[order[:2]](a, b)
        second = expected if kind == "f16x2" else not expected
        assert number.item() == expected + 2 * second


def _half(a: float) -> int:
    return struct.unpack("H", struct.pack("e", a))[0]


def test_what_is_not_known_is_an_error() -> None:
    for text in ("frob.b32 %r2, %r1;", "add.sat.s32 %r2, %r1, 1;", "bar.sync 1;", "ld.local.b32 %r2, [%r1];"):
        with pytest.raises(NotImplementedError, match=re.escape(text.rstrip(";"))):
            launch(text)


def test_lanes_that_part_meet_again() -> None:
    """Each lane loops as often as its number says; all of them sum at the end."""
    body = """
    mov.b32 %r2, 0; mov.b32 %r3, 0;
    $again: setp.ge.s32 %p1, %r2, %r1; @%p1 bra $out;
    add.s32 %r2, %r2, 1; add.s32 %r3, %r3, %r2; bra.uni $again;
    $out: redux.sync.add.s32 %r4, %r3, -1;
    shl.b32 %r5, %r1, 2; cvt.u64.u32 %rd2, %r5; add.s64 %rd2, %rd1, %rd2; st.global.b32 [%rd2], %r4;
    """
    numbers = torch.zeros(64, dtype=torch.int32)
    launch(body, numbers, threads=64)
    each = torch.arange(64) * (torch.arange(64) + 1) // 2
    assert numbers.tolist() == [each[:32].sum()] * 32 + [each[32:].sum()] * 32


# --- what the emulator refuses -------------------------------------------------------------------------

# Of 64 threads each stores its number in shared memory, and reads the other warp's.
ROUND = """
shl.b32 %r2, %r1, 2; xor.b32 %r3, %r2, 128; cvt.u64.u32 %rd2, %r2; add.s64 %rd3, %rd1, %rd2;
st.shared.b32 [%r2], %r1;
bar.sync 0;
ld.shared.b32 %r4, [%r3];
st.global.b32 [%rd3], %r4;
"""
# A program counts up what the one before it has left.
CHAIN = """
mov.u32 %r2, %ctaid.x; shl.b32 %r3, %r2, 2; cvt.u64.u32 %rd2, %r3; add.s64 %rd3, %rd1, %rd2;
setp.eq.b32 %p1, %r1, 0; setp.eq.b32 %p2, %r2, 0; mov.b32 %r4, 0; @%p2 bra $store;
$again: ld.volatile.global.b32 %r4, [%rd3+-4];
setp.eq.b32 %p3, %r4, -1; @%p3 bra $again;
$store: add.s32 %r4, %r4, 1; @%p1 st.global.b32 [%rd3], %r4;
"""


def numbers_of(body: str, threads: int = 64, seed: int = 0, **options: Any) -> list[int]:
    numbers = torch.full((threads,), -1, dtype=torch.int32)
    launch(body, numbers, threads=threads, seed=seed, **options)
    return numbers.tolist()


def test_warps_and_programs_that_wait() -> None:
    for seed in range(5):
        assert numbers_of(ROUND, seed=seed) == [*range(32, 64), *range(32)]
        assert numbers_of(CHAIN, seed=seed, grid=9)[:10] == [*range(1, 10), -1]


FAULTS = {
    "a load before the tensor": ("%rd1, %rd2;", "%rd1, -4;", "outside"),
    "a store behind it": ("[%rd3]", "[%rd3+132]", "outside"),
    "a store that is not aligned": ("[%rd3]", "[%rd3+2]", "multiple of 4"),
    "more shared memory than there is": ("[%r3]", "[%r3+960]", "1024 bytes"),
    "what nobody stored": ("[%r3]", "[%r3+256]", "nobody stored"),
    "no barrier": ("bar.sync 0;", "", "without a barrier"),
    "a barrier too early": ("bar.sync 0;", "ld.shared.b32 %r4, [%r3]; bar.sync 0;", "nobody|barrier"),
    "two stores to one place": ("[%r2], %r1", "[0], %r1", "several values"),
    "lanes that stay away": ("bar.sync 0;", "setp.lt.u32 %p1, %r1, 8; @%p1 bra $b; bar.sync 0; $b: ret;", "deadlock"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found(what: str) -> None:
    old, new, message = FAULTS[what]
    assert old in ROUND
    for seed in range(3):
        with pytest.raises(AssertionError, match=message):
            numbers_of(ROUND.replace(old, new), seed=seed)


def test_waiting_for_ever_and_racing_programs_are_found() -> None:
    for seed in range(3):
        with pytest.raises(AssertionError, match="deadlock"):
            numbers_of(CHAIN.replace("@%p1 st", "@%p2 st"), seed=seed, grid=9)
        with pytest.raises(AssertionError, match=r"another program|for ever"):  # not volatile
            numbers_of(CHAIN.replace("ld.volatile", "ld"), seed=seed, grid=9)
        with pytest.raises(AssertionError, match="another program"):
            numbers_of(CHAIN.replace("[%rd3], %r4", "[%rd1], %r2"), seed=seed, grid=9)


# --- compiled kernels ------------------------------------------------------------------------------------

TURNS = (16, 16, 16, 4, True, 32, 2, 2, 1, 4)  # four programs, several tiles of rows each; most weights come and go
FOUR = (16, 16, 16, 4, False, 64, 4, 1, 99, 4)
PLAIN = (2, 16, 16, 4, False, 64, 4, 1, 99, 4)  # without tensor cores
ALONE = (16, 64, 64, 1, False, 64, 4, 1, 99, 4)
TOLERANCES = {"bf16": BFLOAT16, "fp16": HALF, "fp32": FLOAT32, "fp64": FLOAT64, "tf32": HALF}
# The ways of exchanging and dividing, small; of the norm's sums each thread had another one once.
FEW = [
    Run("gru", 32, 20, ragged=True, groups=2, tiling=(16, 16, 16, 2, True, 32, 2, 1, 1, 4), processors=4),
    Run("lstm_projected", 32, 3, "fp32", "tf32", proj=12, tiling=(16, 8, 8, 4, False, 32, 2, 1, 99, 4), steps=2),
    Run("gru_reset_before", 32, 3, "fp32", "tf32", tiling=(16, 8, 8, 4, False, 32, 2, 1, 99, 4), steps=2),
    Run("rnn", 16, 3, "fp32", change="layer_norm", tiling=(4, 8, 8, 2, False, 32, 1, 1, 99, 4), steps=2),
]
CELLS = ["rnn", "gru", "gru_reset_before", "lstm", "lstm_peephole", "lstm_projected"]
TYPED = [("bf16", "ieee"), ("fp16", "ieee"), ("fp32", "tf32"), ("fp32", "ieee"), ("fp64", "ieee")]
MANY = [
    *(
        Run(cell, 64, 20, type, precision, proj=24, tiling=PLAIN if (type, precision) == ("fp32", "ieee") else tiling)
        for cell in CELLS
        for type, precision in TYPED
        for tiling in (ALONE, FOUR, TURNS)
    ),
    *(
        Run(cell, 64, 40, type, "tf32", proj=24, ragged=True, groups=2, tiling=TURNS, processors=8)
        for cell in CELLS
        for type in ("bf16", "fp32", "fp64")
    ),
    *(Run("every_op", H, 20, *typed) for H in (17, 64) for typed in TYPED),
    *(Run("every_op", 64, 20, *typed, tiling=PLAIN if "fp32" in typed else FOUR) for typed in TYPED),
    *(Run("gru", H, B, *typed, steps=4) for H in (17, 37, 130) for B in (1, 3, 20) for typed in TYPED),
    *(Run(cell, 64, 3, *typed, change="layer_norm") for cell in ("gru", "lstm") for typed in TYPED),
    *(Run("gru", 37, 3, *typed, ragged=True, capability=c) for typed in TYPED for c in (80, 120)),
    # As an H100 would have them.
    *(Run("gru", H, B, steps=6) for H in (256, 512) for B in (16, 128)),
    Run("gru", 256, 64, "fp32", "tf32"),
    Run("gru", 256, 16, ragged=True, groups=2),
    Run("lstm", 768, 16, "fp16"),
    Run("lstm_peephole", 256, 1),
    Run("rnn", 300, 1, "fp32", change="layer_norm"),
    Run("gru", 1024, 128),
]


def wrong_of(run: Run, made: dict[str, Any]) -> str:
    allowed = TOLERANCES["tf32" if (run.type, run.precision) == ("fp32", "tf32") else run.type]
    if "fault" in made:
        return f"{run}: {made['fault'].strip()[-600:]}"
    if not all(error <= allowed for error in made["errors"]):
        return f"{run}: off by {made['errors']}, allowed {allowed}"
    return "" if made["same"] else f"{run}: not the same bits in another order"


def wrong_of_small(name: str, made: dict[str, Any]) -> str:
    if "fault" in made:
        return f"{name}: {made['fault'].strip()[-600:]}"
    return "" if made["off"] <= SMALL[name][1] else f"{name}: off by {made['off']}, allowed {SMALL[name][1]}"


def check(names: Iterable[str], runs: Sequence[Run], cache: Path) -> None:
    """Fail with all that is wrong with small kernels and with layers.

    These go forward and backward, with all gradients, against the float64 reference, and in another order of programs
    and warps make the same bits.
    """
    whats = [*({"name": name, "seed": 1} for name in names), *(asdict(run) for run in runs)]
    made = iter(answers(SCRIPT, whats, cache))
    wrong = [wrong_of_small(name, next(made)) for name in names] + [wrong_of(run, next(made)) for run in runs]
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_compiled_kernels(tmp_path: Path) -> None:
    few = ["dot bf16", "dot tf32", "sums", "moves of 16 bits", "chain", "expm1 fp32", "tanh fp32"]
    check(few, [replace(run, seeds=(0, 1)) for run in FEW], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_many_compiled_kernels(part: int, tmp_path: Path) -> None:
    names = list(SMALL)[part::8]
    check(names, [replace(run, seeds=(0, 2, 3)) for run in MANY[part::8]], tmp_path)
