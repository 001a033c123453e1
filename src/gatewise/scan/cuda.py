"""The GPU executor: Triton kernels generated from both graphs (kernel.py), of which one launch runs many steps.

No cell is named here, and none is written: what the kernels know are tiles, products and exchanges.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import OPS
from gatewise.scan.gpu import tiling
from gatewise.scan.gpu.kernel import Writer, write
from gatewise.scan.gpu.source import PRODUCTS, Kernel, Tiling, Wish
from gatewise.scan.gpu.tiling import Device, Work
from gatewise.scan.plan import Gradients, Inputs, backward_plan, unfit

TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SCRATCH = 1 << 28  # bytes of buffers that only an exchange needs, for as many steps as a launch then has
STEPS = 1 << 15  # of a launch at most
H100 = Device(132, 227 * 1024)
force: Tiling | None = None  # tests choose


@lru_cache(maxsize=1)
def _device_functions() -> ModuleType | str:
    """What kernels call, and Triton with it; or why there is none."""
    try:
        triton = importlib.import_module("triton")
        if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
            return f"Triton is {triton.__version__}, the kernels need 3.6 or later"
        return importlib.import_module("gatewise.scan.gpu.device")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("triton", "numpy"):  # its interpreter needs numpy
            raise
        name = error.name.partition(".")[0]
        return f"{name} is not installed; torch's CUDA builds for Linux bring triton, elsewhere: pip install {name}"


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU, as TRITON_INTERPRET=1 has it do."""
    functions = _device_functions()
    return not isinstance(functions, str) and not hasattr(functions.missing, "cache_key")


def why_not(graph: Graph, inputs: Inputs, others: Sequence[Tensor | None] = ()) -> str:
    """Why these kernels can't run a scan; empty if they can."""
    like = inputs.weight_hr
    if isinstance(why := _device_functions(), str):
        return why
    if like.device.type != "cuda" and not (like.device.type == "cpu" and interpreted()):
        return (
            f"the tensors are on {like.device}, the Triton kernels run on a CUDA device, "
            "or with TRITON_INTERPRET=1 set before Python starts on the CPU"
        )
    if like.dtype not in TYPES:
        return f"the tensors are {like.dtype}, the Triton kernels have {', '.join(sorted(TYPES.values()))}"
    if like.device.type == "cuda" and (why := _unable(like.device)):
        return why
    if why := unfit(graph, inputs, others) or _unwritten(graph):
        return why
    widest = max(column.width(inputs) for column in backward_plan(graph).columns)
    if (numbers := max(inputs.x.shape[1] * widest, inputs.weight_hh.numel())) >= 1 << 31:
        return f"a step reads or makes {numbers} numbers, the Triton kernels count {(1 << 31) - 1} at most"
    if not _divisible(graph, inputs, 1):
        return f"H = {inputs.hidden_size} is more than {device_of(like).processors} multiprocessors can share"
    return ""


def together(graph: Graph, inputs: Inputs) -> bool:
    """Whether one call takes samples of all groups: on a small device each may need all multiprocessors."""
    return _divisible(graph, inputs, inputs.groups)


def _divisible(graph: Graph, inputs: Inputs, groups: int) -> bool:
    return all(tilings(graph, inputs, backward, groups) for backward in (False, True))


@lru_cache(maxsize=256)
def _unwritten(graph: Graph) -> str:
    """Which ops of a cell no kernel can have; empty if there are none."""
    used = {node.op for g in (graph, backward_plan(graph).graph) for node in g.nodes if node.op in OPS}
    missing = sorted(op for op in used if op != "mean" and not OPS[op].triton)
    return f"no kernel for {', '.join(missing)}" if missing else ""


def _unable(device: torch.device) -> str:
    if torch.version.hip:
        return "the Triton kernels were not tried on ROCm"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"the device has compute capability {'.'.join(map(str, capability))}, the Triton kernels need 8.0"
    return ""


def reason(graph: Graph, inputs: Inputs) -> str:
    """What runs, in words."""
    groups = inputs.groups if together(graph, inputs) else 1
    like, chosen = inputs.weight_hr, tilings(graph, inputs, False, groups)[0]
    full = "tf32" if precision(like) == "tf32" else "full float32"
    products = f", float32 products in {full}" if like.dtype is torch.float32 else ""
    where = " in Triton's interpreter" if interpreted() else ""
    return f"Triton kernels{where}{products}, tiles of {chosen.rows} rows x {chosen.units} units"


def precision(like: Tensor) -> str:
    """Of products: float32's follow torch's setting for recurrent layers, as torch.nn's do on a GPU."""
    if like.dtype is not torch.float32 or like.device.type != "cuda":
        return "ieee"
    rnn = getattr(torch.backends.cudnn, "rnn", None)
    setting = rnn.fp32_precision if rnn is not None else "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    return "tf32" if setting == "tf32" else "ieee"


@lru_cache(maxsize=16)
def _properties(index: int) -> Device:
    properties = importlib.import_module("triton.runtime.driver").driver.active.utils.get_device_properties(index)
    return Device(properties["multiprocessor_count"], properties["max_shared_mem"])


def device_of(like: Tensor) -> Device:
    """The device's sizes."""
    return _properties(like.device.index or 0) if like.device.type == "cuda" else H100


def tilings(graph: Graph, inputs: Inputs, backward: bool, groups: int) -> tuple[Tiling, ...]:
    """How a scan of so many of its groups of samples could be divided, best first."""
    if force is not None:
        return (force,)
    if interpreted():  # which runs a launch's programs one after the other, so none may wait for another
        return (tiling.alone(inputs.hidden_size, inputs.projected_size),)
    return tiling.choose(work_of(graph, inputs, backward, groups), device_of(inputs.weight_hr))


def work_of(graph: Graph, inputs: Inputs, backward: bool, groups: int) -> Work:
    """What a step consists of."""
    like = inputs.weight_hr
    rate = "float64" if like.dtype is torch.float64 else "tensor"
    rate = precision(like) if like.dtype is torch.float32 else rate
    sizes = inputs.x.shape[1] // inputs.groups, groups, inputs.hidden_size, inputs.projected_size, graph.projects_output
    return Work(*sizes, *_products(graph, backward), like.element_size(), rate)


@lru_cache(maxsize=256)
def _products(graph: Graph, backward: bool) -> tuple[int, int, int, int, int, int]:
    """Of a step, as `Work` has it: gates, projections, operands, sums, exchanges and early ones."""
    plan = backward_plan(graph)
    run = plan.graph if backward else graph
    roots = [*plan.states, *(i for c in plan.columns for i in c.nodes)] if backward else [i for _, i in graph.outputs]
    live = [run.nodes[i] for i in closure(run.nodes, roots)]
    gates = sum(len(node.args) for node in live if node.op in ("project", "unproject"))
    wish = Wish(graph, backward, () if backward else graph.watched, True, 2, 2, "float32", "ieee", False, False)
    levels = Writer(wish, Tiling(1, 1, 1, 2, False, 16, 1, 1, 0, 4)).level
    early = int(not backward and any(node.op in PRODUCTS for node in live))
    projections = sum(node.op in ("output", "unoutput") for node in live)
    operands = sum(len(node.args) for node in set(live) if node.op in PRODUCTS and node.op != "project")
    operands += len({node.args for node in live if node.op == "project"})
    together = Counter(node.args for node in live if node.op == "project")
    exchanges = max(levels.values(), default=0) + early
    return gates, projections, operands, max(together.values(), default=1), exchanges, early


# --- a kernel at work ------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def compiled(source: str) -> Any:
    """The kernel of a source."""
    import triton

    name = f"<gatewise kernel {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    functions = _device_functions()
    scope = {**vars(functions), "__name__": "gatewise.scan.gpu.generated"}
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)  # where inspect finds it
    exec(compile(source, name, "exec"), scope)
    function = scope[source.partition("def ")[2].partition("(")[0]]
    return triton.jit(do_not_specialize=["start", "stop", "batch", "groups", "parts", "turns"])(function)


def launch(kernel: Kernel, tiles: Tiling, arrays: Mapping[str, Tensor], inputs: Inputs, backward: bool) -> None:
    """Run all steps."""
    function = compiled(kernel.source)
    x, groups, steps, batch = inputs.x, inputs.groups, inputs.x.shape[0], inputs.x.shape[1] // inputs.groups
    scratch = {name: arrays[name] for name in kernel.exchanged if name.startswith(("whole", "means"))}
    length = min([steps, STEPS, *(t.shape[0] for t in scratch.values())])
    for name in set(kernel.exchanged) - set(scratch):
        _unset(arrays[name])
    row_tiles = -(-batch // tiles.rows)
    parts = row_tiles
    if tiles.tiles > 1:
        parts = min(row_tiles, max(1, device_of(x).processors // (tiles.tiles * groups)))
    turns = -(-row_tiles // parts)
    assert tiles.turns or turns == 1, "rows would be left out"
    begins = range(0, steps, length)
    options = {"num_warps": tiles.warps, "num_stages": 1, "launch_cooperative_grid": tiles.tiles > 1}
    # A multiprocessor's 65536 are for one program; unasked, ptxas would spill some to make room for a second.
    options["maxnreg"] = min(255, 65536 // (32 * tiles.warps))
    given = [arrays[name] for name in kernel.arrays]
    for begin in reversed(begins) if backward else begins:
        for buffer in scratch.values():
            _unset(buffer)
        end = min(begin + length, steps)
        with torch.cuda.device_of(x):
            function[(tiles.tiles * parts * groups,)](
                *given, begin, end, batch, groups, x.stride(0), x.stride(1), parts, turns, **options
            )


def _unset(buffer: Tensor) -> None:
    """Set all bits, which means: not there yet."""
    buffer.view(BITS[buffer.element_size()]).fill_(-1)


def _wish(graph: Graph, inputs: Inputs, backward: bool, extras: Sequence[int], keep: bool) -> Wish:
    like = inputs.weight_hr
    return Wish(
        graph, backward, tuple(extras), keep, inputs.hidden_size, inputs.projected_size, TYPES[like.dtype],
        precision(like), inputs.resets.shape[0] > 0, inputs.active.shape[0] > 0, interpreted(),
    )  # fmt: skip


def _common(inputs: Inputs, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """The arrays that both directions of a scan read; the states or their gradients are held in float32 at least."""
    arrays = {name: getattr(inputs, name).contiguous() for name in ("weight_hh", "bias_hh", "weight_hr", "vectors")}
    arrays["x"] = inputs.x
    arrays["initial"] = inputs.initial.contiguous()
    # Not in bytes, as torch has them: Triton takes the smallest type that a product's operand comes from for its own,
    # and would lay out 16-bit operands as if they were made of 8-bit ones, and the weights in registers (3.7).
    arrays["resets"], arrays["active"] = (t.contiguous().to(torch.int32) for t in (inputs.resets, inputs.active))
    for k, (first, state) in enumerate(zip(inputs.states, states, strict=True)):
        arrays[f"first{k}"] = first.contiguous()
        arrays[f"carry{k}"] = state.to(wide(state.dtype), copy=True, memory_format=torch.contiguous_format)
    arrays.update((f"mask{k}", mask.contiguous()) for k, mask in enumerate(inputs.masks))
    return arrays


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which states and sums are held."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _rows(inputs: Inputs) -> Inputs:
    """The inputs with x's rows in one piece each."""
    return inputs if inputs.x.stride(2) == 1 else inputs._replace(x=inputs.x.contiguous())


def run(
    graph: Graph, inputs: Inputs, backward: bool, extras: Sequence[int], keep: bool, arrays: dict[str, Tensor]
) -> None:
    """Run all steps, divided in the best way that the device can run; what the kernel stores is added to arrays."""
    wish = _wish(graph, inputs, backward, extras, keep)
    found = tilings(graph, inputs, backward, inputs.groups)
    for tiles in found:
        if (wish, tiles) in _too_large and tiles is not found[-1]:
            continue
        kernel = write(wish, tiles)
        _allocate(graph, inputs, kernel, tiles, arrays)
        try:
            launch(kernel, tiles, arrays, inputs, backward)
            return
        except _out_of_resources():
            _too_large.add((wish, tiles))
            if tiles is found[-1]:
                raise


_too_large: set[tuple[Wish, Tiling]] = set()  # what the compiler made needs more shared memory than was reckoned


@lru_cache(maxsize=1)
def _out_of_resources() -> type[Exception]:
    error: type[Exception] = importlib.import_module("triton.runtime.errors").OutOfResources
    return error


def forward(
    graph: Graph, inputs: Inputs, extras: Sequence[int], keep: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run T steps; see `reference.forward`."""
    inputs = _rows(inputs)
    like, (steps, batch) = inputs.weight_hr, inputs.x.shape[:2]
    arrays = _common(inputs, inputs.states)
    for k, i in enumerate(extras):
        arrays[f"keep{k}"] = like.new_empty(steps, batch, inputs.kept_width(graph, i))
    run(graph, inputs, False, extras, keep, arrays)
    finals = tuple(arrays[f"carry{k}"].to(like.dtype) for k in range(len(inputs.states)))
    columns = [arrays[f"new{k}"] for k in range(len(finals) if keep else 1)]
    return finals, (*columns, *(arrays[f"keep{k}"] for k in range(len(extras))))


def reverse(
    graph: Graph,
    inputs: Inputs,
    kept: Sequence[Tensor],
    g_states: Sequence[Tensor],
    g_seen: Sequence[Tensor],
) -> Gradients:
    """Run the T steps of the backward graph, last to first; see `reference.reverse`."""
    inputs = _rows(inputs)
    like, (steps, batch) = inputs.weight_hr, inputs.x.shape[:2]
    plan, states = backward_plan(graph), len(graph.states)
    arrays = _common(inputs, g_states)
    totals = []
    if inputs.resets.shape[0]:
        totals = [torch.zeros_like(arrays[f"carry{k}"]) for k in range(states)]
    arrays.update((f"total{k}", total) for k, total in enumerate(totals))
    arrays.update((f"new{k}", column.contiguous()) for k, column in enumerate(kept[:states]))
    arrays.update((f"keep{k}", extra.contiguous()) for k, extra in enumerate(kept[states:]))
    arrays.update((f"seed{k}", g.contiguous()) for k, g in enumerate(g_seen))
    for c, column in enumerate(plan.columns):
        arrays[f"column{c}"] = like.new_empty(steps, batch, column.width(inputs))
    run(graph, inputs, True, (), True, arrays)
    dtype = like.dtype
    initial = torch.cat(totals, 1).to(dtype) if totals else like.new_zeros(batch, inputs.initial.shape[-1])
    columns = tuple(arrays[f"column{c}"] for c in range(len(plan.columns)))
    return Gradients(tuple(arrays[f"carry{k}"].to(dtype) for k in range(states)), initial, columns)


def _allocate(graph: Graph, inputs: Inputs, kernel: Kernel, tiles: Tiling, arrays: dict[str, Tensor]) -> None:
    """Add the new states of all steps, weights turned as some kernels want them, and the buffers that only exchanges
    need: for all steps, or for as many as there is room."""
    like, (steps, batch) = inputs.weight_hr, inputs.x.shape[:2]
    if "turned_hh" in kernel.arrays:
        arrays["turned_hh"] = inputs.weight_hh.unflatten(-2, (-1, inputs.hidden_size)).mT.contiguous()
    if "turned_hr" in kernel.arrays:
        arrays["turned_hr"] = inputs.weight_hr.mT.contiguous()
    for k, state in enumerate(inputs.states):
        if (name := f"new{k}") in kernel.arrays and name not in arrays:
            arrays[name] = like.new_empty(steps, batch, state.shape[1])
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name in kernel.exchanged:
        if name.startswith("whole"):
            shapes[name] = (batch, inputs.width(graph, int(name.removeprefix("whole")))), like.dtype
        elif name.startswith("means"):
            shapes[name] = (batch, tiles.tiles * int(name.rpartition("x")[2])), wide(like.dtype)
    numbers = sum(rest[0] * rest[1] * dtype.itemsize for rest, dtype in shapes.values())
    length = min(steps, STEPS, max(1, SCRATCH // max(1, numbers)))
    for name, (rest, dtype) in shapes.items():
        arrays[name] = like.new_empty((length, *rest), dtype=dtype)
