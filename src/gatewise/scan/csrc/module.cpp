// The binding: a program is read once, from numbers; a run is told where its tensors lie. Python's stable interface
// alone is used, no header of torch's, so one binary serves every Python from 3.11 on and every torch.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>

#include "program.h"

using namespace gatewise;

namespace {

const Kernels PORTABLE = {"portable", scan_portable, outer_portable, linear_portable},
              AVX2 = {"avx2", scan_avx2, outer_avx2, linear_avx2},
              AVX512 = {"avx512", scan_avx512, outer_avx512, linear_avx512};

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
        Scratch s;
        s.array = int32_t(in.next()), s.size = int32_t(in.next()), s.parts = int32_t(in.next());
        program.scratch.push_back(s);
    }
    program.columns = in.list();
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

// run(program, isa, integers: bytes of int64): see the fields below, in their order
PyObject *run_program(PyObject *, PyObject *args) {
    PyObject *capsule;
    int isa;
    const char *bytes;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Oiy#", &capsule, &isa, &bytes, &length)) return nullptr;
    const Program *program = static_cast<const Program *>(PyCapsule_GetPointer(capsule, "gatewise.Program"));
    if (!program) return nullptr;
    std::vector<int64_t> aligned(length / 8);
    std::memcpy(aligned.data(), bytes, aligned.size() * 8);
    Reader in{aligned.data(), aligned.data() + aligned.size()};
    Run run;
    const bool is_double = in.next();
    run.T = in.next(), run.B = in.next(), run.H = in.next(), run.P = in.next(), run.threads = in.next();
    run.resets = reinterpret_cast<const uint8_t *>(in.next());
    run.active = reinterpret_cast<const uint8_t *>(in.next());
    run.initial = reinterpret_cast<const void *>(in.next());
    run.g_initial = reinterpret_cast<void *>(in.next());
    run.weight_hh = reinterpret_cast<const void *>(in.next());
    run.weight_hr = reinterpret_cast<const void *>(in.next());
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Array a;
        a.base = in.next(), a.first = in.next(), a.step = in.next(), a.row = in.next();
        a.first_row = in.next(), a.shift = in.next(), a.turns = in.next();
        run.arrays.push_back(a);
    }
    if (!in.good) {
        PyErr_SetString(PyExc_ValueError, "not the numbers of a run");
        return nullptr;
    }
    Py_BEGIN_ALLOW_THREADS;
    kernels(isa).scan(*program, run, is_double);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// outer(isa, double?, a, a_row, b, b_row, to, N, M, K, threads): to += a^T b
PyObject *run_outer(PyObject *, PyObject *args) {
    int isa, is_double;
    long long a, b, to;
    Outer o;
    long long a_row, b_row, N, M, K, threads;
    if (!PyArg_ParseTuple(args, "iiLLLLLLLLL", &isa, &is_double, &a, &a_row, &b, &b_row, &to, &N, &M, &K, &threads))
        return nullptr;
    o.a = reinterpret_cast<const void *>(a), o.b = reinterpret_cast<const void *>(b), o.to = reinterpret_cast<void *>(to);
    o.a_row = a_row, o.b_row = b_row, o.N = N, o.M = M, o.K = K, o.threads = threads;
    Py_BEGIN_ALLOW_THREADS;
    kernels(isa).outer(o, is_double);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyObject *instruction_set(PyObject *, PyObject *) { return PyUnicode_FromString(kernels(0).name); }

// linear(isa, double?, x, row, w, bias or 0, to, N, K, M, backwards?, threads): to = x w^T + bias, or x w
PyObject *run_linear(PyObject *, PyObject *args) {
    int isa, is_double;
    long long x, row, w, bias, to, N, K, M, backwards, threads;
    if (!PyArg_ParseTuple(args, "iiLLLLLLLLLL", &isa, &is_double, &x, &row, &w, &bias, &to, &N, &K, &M, &backwards, &threads))
        return nullptr;
    Linear l;
    l.x = reinterpret_cast<const void *>(x), l.w = reinterpret_cast<const void *>(w);
    l.bias = reinterpret_cast<const void *>(bias), l.to = reinterpret_cast<void *>(to);
    l.row = row, l.N = N, l.K = K, l.M = M, l.backwards = backwards, l.threads = threads;
    Py_BEGIN_ALLOW_THREADS;
    kernels(isa).linear(l, is_double);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// Memory that is kept when a tensor dies, for the next of its size: the first touch of a fresh page costs as much as the
// arithmetic on it. At most KEPT bytes wait. Python's lock guards all of it, since tensors hold Python's objects.
constexpr int64_t KEPT = int64_t(256) << 20;
std::multimap<int64_t, void *> waiting;
int64_t waiting_bytes = 0;

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
    if (buffer->data) {
        waiting.emplace(buffer->size, buffer->data);
        waiting_bytes += buffer->size;
        while (waiting_bytes > KEPT) {
            auto largest = std::prev(waiting.end());
            std::free(largest->second);
            waiting_bytes -= largest->first;
            waiting.erase(largest);
        }
    }
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
    size = (size + 63) / 64 * 64;
    Buffer *buffer = reinterpret_cast<Buffer *>(PyType_GenericAlloc(buffer_type, 0));
    if (!buffer) return nullptr;
    buffer->size = size;
    auto found = waiting.find(size);
    if (found != waiting.end()) {
        buffer->data = found->second;
        waiting_bytes -= size;
        waiting.erase(found);
    } else if (!(buffer->data = std::aligned_alloc(64, size))) {
        Py_DECREF(buffer);
        return PyErr_NoMemory();
    }
    return reinterpret_cast<PyObject *>(buffer);
}

PyMethodDef methods[] = {
    {"program", make_program, METH_VARARGS, "program(integers, numbers): a program of them"},
    {"run", run_program, METH_VARARGS, "run(program, isa, integers): run it; isa 0 is the machine's best"},
    {"outer", run_outer, METH_VARARGS, "outer(isa, double, a, row, b, row, to, N, M, K, threads): to += a^T b"},
    {"linear", run_linear, METH_VARARGS, "linear(isa, double, x, row, w, bias, to, N, K, M, backwards, threads)"},
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
