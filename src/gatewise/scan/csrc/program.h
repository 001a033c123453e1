// A step of a scan as the kernels run it: what program.py has made of a graph. No cell is named here.
//
// A step is a row of stages. A stage has matrix products of values that are whole by then (states, or what an earlier
// stage stored), and a tape of element-wise instructions that runs on tiles of rows x units, right after the products of
// the same tile, while these are in the nearest cache. A stage with means has no products, and tiles of whole rows.
#pragma once
#include <cstdint>
#include <vector>

namespace gatewise {

enum Op : int32_t {
    COPY,
    SPREAD,                 // a row's first value, to all that there is of the row
    MEAN, MEAN_OF_PRODUCT,  // of a row's units, and of a * b
    MULTIPLY_ADD,           // a * b + c
    TOTAL, TOTAL_OF_PRODUCT,  // adds the rows of a, and of a * b, to the array `to`
    ADD, SUB, MUL, DIV, NEG, POW, SIGMOID, TANH, RELU, EXP, LOG, SQRT, ABS, SOFTPLUS, ELU, LEAKY_RELU, SOFTSIGN,
    HARDSIGMOID, CLAMP, MINIMUM, MAXIMUM, WHERE, LT, LE, GT, GE, OPS
};

// What an array holds, at each step (or at all of them): the index-th of its kind.
enum Kind : int32_t {
    SCRATCH,               // a stage's, for a later one
    INPUT,                 // a gate's part of the projected input
    STATE, NEW, KEEP,      // a state before the step, and after it; a value that is kept
    VECTOR, BIAS, MASK,
    SEED, CAME, CARRY,     // gradients: of what is given out; that which comes to a state after the step, and leaves before it
    SAVED, COLUMN,         // a kept value, or state -1 - index after the step; what is made for the weights' gradients
    TOTAL_COLUMN           // a column of which only the sum over all steps and rows is wanted, unless columns are asked for
};

struct Holder {
    int32_t kind, index, size, parts;  // rows of `parts` blocks; size: 0 of H values, 1 of P, 2 of one that all units share
};

// What an instruction reads or makes: a slot, or the part-th block of units of array -1 - place, where it lies. With part 1 of
// a slot only a vector of each row is made: all units share the value.
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

struct Stage {
    int32_t size;  // 0: H units, 1: P
    bool whole;    // tiles are to have whole rows
    std::vector<Product> products;
    std::vector<Instruction> tape;
};

// A state: the arrays of its value before and after a step, and its size. Of a backward scan `after` is the gradient that
// leaves the step, `came` the one that came to it, and `seed` the output's (-1: the state is no output).
struct State {
    int32_t before, after, size, came, seed;
};

// A value that is projected, onto these blocks of weight_hh or, if there are none, by weight_hr: the column of what comes
// back from its projections, and the value's own, or -1: the first state before the step.
struct Projected {
    std::vector<int32_t> blocks;
    int32_t made, read;
};

struct Program {
    bool reverse;  // a backward scan: last step first
    int32_t slots, input_gates, hidden_gates;
    std::vector<double> constants;  // the first slots hold them
    std::vector<Stage> stages;
    std::vector<State> states;
    std::vector<Holder> arrays;
    // backward
    std::vector<int32_t> columns;  // arrays, which are zero where a step was not taken; the first is the input's gradient
    std::vector<Projected> projected;
    std::vector<int32_t> vectors;  // the column of each vector's gradient
};

// A scan, with the products around it if weight_ih is given. Tensors lie densely, but for x; (T, B, …) unless said.
// With `flip` the scan's first step is the last of x, g_x, of the output and of its gradient.
struct Run {
    bool flip;
    int64_t T, B, I, H, P, threads;
    int64_t x_step, x_row;            // how far steps and rows of x are apart
    const void *x;                    // projected already; or (T, B, I); or
    const int64_t *indices;           // in place of x, which are one-hot vectors then
    const void *weight_ih, *bias_ih;  // or null; bias_ih alone may be, too
    const void *weight_hh, *bias_hh, *weight_hr, *vectors;
    const void *initial;              // the states after a reset, in a row
    const uint8_t *resets, *active;   // or null
    std::vector<const void *> states; // (B, size) before the first step, or null: zeros
    std::vector<void *> news;         // after each step; forward null: not asked for
    std::vector<void *> keeps;
    std::vector<const void *> masks;
    std::vector<int64_t> mask_turns;  // whether a mask has steps
    std::vector<void *> finals;       // forward: (B, size) after the last step
    // backward; null is zeros, or not asked for
    std::vector<const void *> g_seen;  // of what is given out of each step: the output, and what is watched
    std::vector<const void *> g_finals;
    std::vector<void *> g_states, columns;
    void *g_x, *g_weight_ih, *g_bias_ih, *g_weight_hh, *g_bias_hh, *g_weight_hr, *g_vectors;
    void *g_initial;                  // (B, sum of sizes)
    int64_t size(int32_t s) const { return s == 0 ? H : s == 1 ? P : 1; }
};

// Memory that was in use before, if there is some of this size: the first touch of a fresh page costs as much as the
// arithmetic on it.
void *take_memory(int64_t bytes);
void give_memory(void *data, int64_t bytes);

// What a run's tensors hold; of BFLOAT16 it is float32 too, and products alone round what they multiply.
enum Type : int32_t { FLOAT32, FLOAT64, BFLOAT16 };

// The kernels, compiled for several instruction sets.
struct Kernels {
    typedef void Function(const Program &, const Run &, Type);
    const char *name;
    Function *run, *run_pairs;  // the second of type BFLOAT16; or the first
};
Kernels::Function run_pairs, run_avx512, run_avx2, run_portable;

// Those of an instruction set: 0 is the best that the machine has, 1 portable, 2 avx2, 3 avx512, 4 avx512_bf16.
const Kernels &kernels(int isa);

}  // namespace gatewise
