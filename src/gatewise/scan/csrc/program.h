// A step of a scan as the kernels run it: what program.py has made of a graph. No cell is named here.
//
// A step is a row of stages. A stage has matrix products of values that are whole by then (states, or what an earlier
// stage stored), and a tape of element-wise instructions that runs on tiles of rows x units, right after the products of
// the same tile, while these are in the nearest cache.
#pragma once
#include <cstdint>
#include <vector>

namespace gatewise {

enum Op : int32_t {
    COPY, ROW,  // ROW: a value for each row
    ADD, SUB, MUL, DIV, NEG, POW, SIGMOID, TANH, RELU, EXP, LOG, SQRT, ABS, SOFTPLUS, ELU, LEAKY_RELU, SOFTSIGN,
    HARDSIGMOID, CLAMP, MINIMUM, MAXIMUM, WHERE, LT, LE, GT, GE, OPS
};

// Where arrays lie in a run: T steps of B rows. The values of step t are at base + (t + shift) * step, or at `first` where
// t + shift is no step; with `turns`, two buffers take turns.
struct Array {
    int64_t base, first, step, row, first_row, shift, turns;
};

// What an instruction reads or makes: a slot, or the part-th block of units of array -1 - place, where it lies.
struct Operand {
    int32_t place, part;
};

struct Instruction {
    int32_t op;
    Operand to, a, b, c;
    double p, q;  // parameters: a clamp's bounds, a slope
};

// Products of one operand with the weights of several gates: to[g] = bias[g] + plus[g] + operand @ W_g^T.
struct Product {
    int32_t weight;   // 0: rows of weight_hh, 1: rows of weight_hh transposed, 2: weight_hr, 3: weight_hr transposed
    int32_t operand;  // an array
    std::vector<int32_t> blocks, to, bias;  // blocks of weight_hh; slots; arrays, or -1
    std::vector<Operand> plus;              // arrays, or place 0 for none
};

struct Mean {
    int32_t to, operand, size;  // a slot of row values, an array, its size
};

struct Stage {
    int32_t size;  // 0: H units, 1: P
    std::vector<Mean> means;
    std::vector<Product> products;
    std::vector<Instruction> tape;
};

// A state: the arrays of its value before and after a step, and its size. Of a backward scan `after` is the gradient that
// leaves the step, `came` the one that came to it, and `seed` the output's (-1: the state is no output).
struct State {
    int32_t before, after, size, came, seed;
};

struct Scratch {
    int32_t array, size, parts;
};

struct Program {
    bool reverse;  // a backward scan: last step first
    int32_t slots, rows;
    std::vector<double> constants;  // the first slots hold them
    std::vector<Stage> stages;
    std::vector<State> states;
    std::vector<Scratch> scratch;
    std::vector<int32_t> columns;  // backward: the arrays that are zero where a step was not taken
};

struct Run {
    int64_t T, B, H, P;
    const uint8_t *resets, *active;  // (T, B), or null
    const void *initial;             // after a reset
    void *g_initial;                 // backward: (B, sum of sizes)
    const void *weight_hh, *weight_hr;
    int64_t threads;
    std::vector<Array> arrays;
    int64_t size(int32_t s) const { return s ? P : H; }
};

// to (M, K) += a (N, M)^T b (N, K), whose rows are a_row and b_row apart.
struct Outer {
    const void *a, *b;
    void *to;
    int64_t a_row, b_row, N, M, K, threads;
};

// to (N, M) = x (N, K) w^T + bias, with w (M, K); or, backwards, x w, with w (K, M).
struct Linear {
    const void *x, *w, *bias;
    void *to;
    int64_t row, N, K, M, backwards, threads;
};

// The kernels, compiled for several instruction sets.
struct Kernels {
    const char *name;
    void (*scan)(const Program &, const Run &, bool is_double);
    void (*outer)(const Outer &, bool is_double);
    void (*linear)(const Linear &, bool is_double);
};
void scan_avx512(const Program &, const Run &, bool);
void outer_avx512(const Outer &, bool);
void linear_avx512(const Linear &, bool);
void scan_avx2(const Program &, const Run &, bool);
void outer_avx2(const Outer &, bool);
void linear_avx2(const Linear &, bool);
void scan_portable(const Program &, const Run &, bool);
void outer_portable(const Outer &, bool);
void linear_portable(const Linear &, bool);

}  // namespace gatewise
