// The binding: a program is read once, from numbers; a run is told where its tensors lie. Python's stable interface
// alone is used, no header of torch's, so one binary serves every Python from 3.11 on and every torch.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <cstring>
#include <new>

#include "reader.h"

using namespace gatewise;

namespace {

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

// Whether there is a tensor for each array that has a number.
bool all_given(const Program &program, const Run &run) {
    for (const Holder &h : program.arrays) {
        if (h.kind == SEED && size_t(h.index) >= run.g_seen.size()) return false;
        if ((h.kind == KEEP || h.kind == SAVED) && h.index >= int64_t(run.keeps.size())) return false;
        if (h.kind == MASK && size_t(h.index) >= run.masks.size()) return false;
    }
    return true;
}

// run(program, …): the fields of a Run, in the order below
PyObject *run_program(PyObject *, PyObject *const *args, Py_ssize_t count) {
    if (count < 1) return PyErr_Format(PyExc_TypeError, "run() without a program");
    const Program *program = static_cast<const Program *>(PyCapsule_GetPointer(args[0], "gatewise.Program"));
    if (!program) return nullptr;
    Arguments in{args + 1, args + count};
    Run run;
    const int isa = int(in.next());
    run.threads = in.next();
    const int64_t type = in.next();
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
    if (program->reverse) {
        run.g_seen = in.pointers<const void *>(), run.g_finals = in.pointers<const void *>();
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
                      all_given(*program, run) &&
                      (program->reverse ? run.g_finals.size() == states && run.g_states.size() == states : run.finals.size() == states);
    if (!in.good || type < FLOAT32 || type > BFLOAT16 || in.p != in.end || !fits) return PyErr_Format(PyExc_ValueError, "not the arguments of this program's run");
    bool room = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        const Kernels &best = kernels(isa);
        (type == BFLOAT16 ? best.run_pairs : best.run)(*program, run, Type(type));
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
