// The binding: a program is read once, from numbers; a run is told where its tensors lie. Python's stable interface
// alone is used, no header of torch's, so one binary serves every Python from 3.11 on and every torch.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

#include "program.h"

using namespace gatewise;

namespace gatewise {

// Pieces that wait to be used again, KEPT bytes at most. Of two threads that come at once one goes to the system, so a
// process forked meanwhile does not wait for ever.
namespace {
constexpr int64_t KEPT = int64_t(256) << 20, SMALL = 1 << 17;  // small pieces the system's allocator keeps itself
std::mutex guard;
std::multimap<int64_t, void *> waiting;
int64_t waiting_bytes = 0;
}  // namespace

void *take_memory(int64_t bytes) {
    if (bytes <= 0) return nullptr;
    bytes = (bytes + 63) / 64 * 64;
    if (bytes >= SMALL && guard.try_lock()) {
        std::lock_guard<std::mutex> lock(guard, std::adopt_lock);
        auto found = waiting.find(bytes);
        if (found != waiting.end()) {
            void *data = found->second;
            waiting_bytes -= bytes;
            waiting.erase(found);
            return data;
        }
    }
    void *data = std::aligned_alloc(64, bytes);
    if (!data) throw std::bad_alloc();
    return data;
}

void give_memory(void *data, int64_t bytes) {
    if (!data) return;
    bytes = (bytes + 63) / 64 * 64;
    if (bytes < SMALL || !guard.try_lock()) return std::free(data);
    std::lock_guard<std::mutex> lock(guard, std::adopt_lock);
    waiting.emplace(bytes, data);
    waiting_bytes += bytes;
    while (waiting_bytes > KEPT) {
        auto largest = std::prev(waiting.end());
        std::free(largest->second);
        waiting_bytes -= largest->first;
        waiting.erase(largest);
    }
}

}  // namespace gatewise

namespace {

const Kernels PORTABLE = {"portable", run_portable}, AVX2 = {"avx2", run_avx2}, AVX512 = {"avx512", run_avx512};

const Kernels &choose() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return PORTABLE;
}

const Kernels &kernels(int isa) {
    static const Kernels &best = choose();
    const Kernels *all[] = {&best, &PORTABLE, &AVX2, &AVX512};
    return *all[isa & 3];
}

// Reads 64-bit numbers in a row.
struct Reader {
    const int64_t *p, *end;
    bool good = true;
    int64_t next() { return p < end ? *p++ : (good = false, 0); }
    Operand operand() {
        const int32_t place = int32_t(next());
        return {place, int32_t(next())};
    }
    std::vector<int32_t> list() {
        std::vector<int32_t> made;
        for (int64_t n = next(); n > 0 && good; n--) made.push_back(int32_t(next()));
        return made;
    }
};

bool read(Program &program, Reader &in, const double *numbers, int64_t count) {
    auto number = [&](int64_t i) { return i < 0 || i >= count ? 0.0 : numbers[i]; };
    program.reverse = in.next();
    program.slots = int32_t(in.next());
    program.rows = int32_t(in.next());
    program.input_gates = int32_t(in.next()), program.hidden_gates = int32_t(in.next());
    for (int64_t i = 0, n = in.next(); i < n && in.good; i++) program.constants.push_back(number(i));
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Stage stage;
        stage.size = int32_t(in.next());
        for (int64_t k = in.next(); k > 0 && in.good; k--) {
            Mean mean;
            mean.to = int32_t(in.next()), mean.operand = int32_t(in.next()), mean.size = int32_t(in.next());
            stage.means.push_back(mean);
        }
        for (int64_t k = in.next(); k > 0 && in.good; k--) {
            Product product;
            product.weight = int32_t(in.next()), product.operand = int32_t(in.next());
            product.blocks = in.list(), product.to = in.list(), product.bias = in.list();
            for (size_t g = 0; g < product.to.size(); g++) product.plus.push_back(in.operand());
            stage.products.push_back(product);
        }
        for (int64_t k = in.next(); k > 0 && in.good; k--) {
            Instruction i;
            i.op = int32_t(in.next());
            i.to = in.operand(), i.a = in.operand(), i.b = in.operand(), i.c = in.operand();
            i.p = number(in.next()), i.q = number(in.next());
            if (i.op < 0 || i.op >= OPS) return false;
            stage.tape.push_back(i);
        }
        program.stages.push_back(stage);
    }
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        State s;
        s.before = int32_t(in.next()), s.after = int32_t(in.next()), s.size = int32_t(in.next());
        s.came = int32_t(in.next()), s.seed = int32_t(in.next());
        program.states.push_back(s);
    }
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Holder h;
        h.kind = int32_t(in.next()), h.index = int32_t(in.next()), h.size = int32_t(in.next()), h.parts = int32_t(in.next());
        program.arrays.push_back(h);
    }
    program.columns = in.list();
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Projected p;
        p.blocks = in.list(), p.made = int32_t(in.next()), p.read = int32_t(in.next());
        program.projected.push_back(p);
    }
    program.vectors = in.list();
    return in.good;
}

void forget(PyObject *capsule) {
    delete static_cast<Program *>(PyCapsule_GetPointer(capsule, "gatewise.Program"));
}

// program(integers: bytes of int64, numbers: bytes of float64) -> a program
PyObject *make_program(PyObject *, PyObject *args) {
    const char *integers, *numbers;
    Py_ssize_t length, count;
    if (!PyArg_ParseTuple(args, "y#y#", &integers, &length, &numbers, &count)) return nullptr;
    Program *program = new Program;
    std::vector<int64_t> aligned(length / 8);
    std::vector<double> doubles(count / 8);
    if (length) std::memcpy(aligned.data(), integers, aligned.size() * 8);
    if (count) std::memcpy(doubles.data(), numbers, doubles.size() * 8);
    Reader in{aligned.data(), aligned.data() + aligned.size()};
    if (!read(*program, in, doubles.data(), int64_t(doubles.size()))) {
        delete program;
        PyErr_SetString(PyExc_ValueError, "not a program");
        return nullptr;
    }
    return PyCapsule_New(program, "gatewise.Program", forget);
}

// Reads Python's integers in a row; a list of them begins with its length.
struct Arguments {
    PyObject *const *p, *const *end;
    bool good = true;
    int64_t next() { return p < end ? PyLong_AsLongLong(*p++) : (good = false, 0); }
    void *pointer() { return reinterpret_cast<void *>(next()); }
    template <class P> std::vector<P> pointers() {
        std::vector<P> made;
        for (int64_t n = next(); n > 0 && good; n--) made.push_back(pointer());
        return made;
    }
};

// run(program, …): the fields of a Run, in the order below
PyObject *run_program(PyObject *, PyObject *const *args, Py_ssize_t count) {
    if (count < 1) return PyErr_Format(PyExc_TypeError, "run() without a program");
    const Program *program = static_cast<const Program *>(PyCapsule_GetPointer(args[0], "gatewise.Program"));
    if (!program) return nullptr;
    Arguments in{args + 1, args + count};
    Run run;
    const int isa = int(in.next());
    run.threads = in.next();
    const bool is_double = in.next();
    run.flip = in.next();
    run.T = in.next(), run.B = in.next(), run.I = in.next(), run.H = in.next(), run.P = in.next();
    run.x_step = in.next(), run.x_row = in.next(), run.x = in.pointer();
    run.indices = static_cast<const int64_t *>(in.pointer());
    run.weight_ih = in.pointer(), run.bias_ih = in.pointer(), run.weight_hh = in.pointer(), run.bias_hh = in.pointer();
    run.weight_hr = in.pointer(), run.vectors = in.pointer(), run.initial = in.pointer();
    run.resets = static_cast<const uint8_t *>(in.pointer()), run.active = static_cast<const uint8_t *>(in.pointer());
    run.states = in.pointers<const void *>(), run.news = in.pointers<void *>(), run.keeps = in.pointers<void *>();
    run.masks = in.pointers<const void *>();
    for (size_t i = 0; i < run.masks.size(); i++) run.mask_turns.push_back(in.next());
    run.g_output = nullptr;
    if (program->reverse) {
        run.g_output = in.pointer(), run.g_finals = in.pointers<const void *>();
        run.g_states = in.pointers<void *>(), run.columns = in.pointers<void *>();
        run.g_x = in.pointer(), run.g_weight_ih = in.pointer(), run.g_bias_ih = in.pointer();
        run.g_weight_hh = in.pointer(), run.g_bias_hh = in.pointer(), run.g_weight_hr = in.pointer();
        run.g_vectors = in.pointer(), run.g_initial = in.pointer();
    } else {
        run.finals = in.pointers<void *>();
    }
    if (PyErr_Occurred()) return nullptr;
    const size_t states = program->states.size();
    const bool fits = run.states.size() == states && run.news.size() == states &&
                      (program->reverse ? run.g_finals.size() == states && run.g_states.size() == states : run.finals.size() == states);
    if (!in.good || in.p != in.end || !fits) return PyErr_Format(PyExc_ValueError, "not the arguments of this program's run");
    bool room = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        kernels(isa).run(*program, run, is_double);
    } catch (const std::bad_alloc &) {
        room = false;
    }
    Py_END_ALLOW_THREADS;
    if (!room) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *instruction_set(PyObject *, PyObject *) { return PyUnicode_FromString(kernels(0).name); }

struct Buffer {
    PyObject_HEAD void *data;
    Py_ssize_t size;
};

int view_buffer(PyObject *self, Py_buffer *view, int flags) {
    Buffer *buffer = reinterpret_cast<Buffer *>(self);
    return PyBuffer_FillInfo(view, self, buffer->data, buffer->size, 0, flags);
}

void free_buffer(PyObject *self) {
    Buffer *buffer = reinterpret_cast<Buffer *>(self);
    give_memory(buffer->data, buffer->size);
    PyTypeObject *type = Py_TYPE(self);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyType_Slot buffer_slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void *>(free_buffer)},
    {Py_bf_getbuffer, reinterpret_cast<void *>(view_buffer)},
    {0, nullptr},
};
PyType_Spec buffer_spec = {"gatewise.scan._kernels.Buffer", sizeof(Buffer), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, buffer_slots};
PyTypeObject *buffer_type = nullptr;

// buffer(bytes) -> an object with so much writable memory, not initialised
PyObject *make_buffer(PyObject *, PyObject *args) {
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "n", &size)) return nullptr;
    Buffer *buffer = reinterpret_cast<Buffer *>(PyType_GenericAlloc(buffer_type, 0));
    if (!buffer) return nullptr;
    try {
        buffer->data = take_memory(size);
        buffer->size = size;
    } catch (const std::bad_alloc &) {
        Py_DECREF(buffer);
        return PyErr_NoMemory();
    }
    return reinterpret_cast<PyObject *>(buffer);
}

PyMethodDef methods[] = {
    {"program", make_program, METH_VARARGS, "program(integers, numbers): a program of them"},
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_program)), METH_FASTCALL, "run(program, …): run it"},
    {"buffer", make_buffer, METH_VARARGS, "buffer(bytes): memory that is used again when it is free"},
    {"instruction_set", instruction_set, METH_NOARGS, "The instruction set that isa 0 stands for"},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__kernels() {
    buffer_type = reinterpret_cast<PyTypeObject *>(PyType_FromSpec(&buffer_spec));
    return buffer_type ? PyModule_Create(&definition) : nullptr;
}
