// The kernels: a scan, and the products around it. Included by one file an instruction set,
// which defines BYTES, the width of a vector, ROWS, how many rows of a product registers hold for 1 to 4 vectors of
// columns, and SCAN, OUTER and LINEAR, the names.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

#include "products.h"
#include "tape.h"

namespace gatewise {
namespace {

template <class T> struct Scan {
    const Program &program;
    const Run &run;
    const std::vector<std::vector<Panels<T>>> &panels;  // of each stage's products
    int64_t begin, end;                                 // the rows of this thread
    std::vector<T *> at;                                // where each array's step begins, at row `begin`
    std::vector<int64_t> row;
    std::vector<std::vector<T>> scratch, before, row_values;
    Aligned<T> slots;

    Scan(const Program &p, const Run &r, const std::vector<std::vector<Panels<T>>> &w, int64_t b, int64_t e)
        : program(p), run(r), panels(w), begin(b), end(e), at(r.arrays.size()), row(r.arrays.size()) {
        for (const auto &s : p.scratch) scratch.emplace_back((e - b) * r.size(s.size) * s.parts);
        for (const auto &s : p.states) before.emplace_back(r.resets ? (e - b) * r.size(s.size) : 0);
        row_values.assign(p.rows, std::vector<T>(e - b));
    }

    void find(int64_t t) {
        for (size_t i = 0; i < at.size(); i++) {
            const Array &a = run.arrays[i];
            const int64_t s = t + a.shift;
            const bool outside = s < 0 || s >= run.T;
            T *base = reinterpret_cast<T *>(outside && a.shift ? a.first : a.base);
            row[i] = outside && a.shift ? a.first_row : a.row;
            if (!base) continue;  // scratch
            if (!(outside && a.shift)) base += (a.turns ? (s & 1) : s) * a.step;
            at[i] = base + begin * row[i];
        }
        for (size_t i = 0; i < program.scratch.size(); i++) {
            const auto &s = program.scratch[i];
            at[s.array] = scratch[i].data();
            row[s.array] = run.size(s.size) * s.parts;
        }
    }

    void reset(int64_t t) {
        int64_t offset = 0;
        for (size_t i = 0; i < program.states.size(); i++) {
            const State &s = program.states[i];
            const int64_t size = run.size(s.size);
            for (int64_t b = begin; b < end; b++) {
                const T *from = run.resets[t * run.B + b] ? static_cast<const T *>(run.initial) + offset
                                                          : at[s.before] + (b - begin) * row[s.before];
                std::memcpy(before[i].data() + (b - begin) * size, from, size * sizeof(T));
            }
            at[s.before] = before[i].data();
            row[s.before] = size;
            offset += size;
        }
    }

    // A tile of rows x units: `rows` from row r on, and `width` units from unit j on, of which `there` are in the arrays.
    struct Piece {
        T *slot;
        int64_t size, j, r, there;
        int rows, width;
    };

    Tile<T> find(Operand o, const Piece &piece) const {
        if (o.place >= 0) return {piece.slot + int64_t(o.place) * piece.rows * piece.width, piece.width};
        const int k = -1 - o.place;
        return {at[k] + piece.r * row[k] + piece.j + o.part * piece.size, row[k]};
    }

    // `there` values of each row, and then zeros, in a spare slot: where a tile ends beyond the arrays.
    Tile<T> padded(Tile<T> from, int spare, const Piece &piece) const {
        T *to = piece.slot + int64_t(program.slots + spare) * piece.rows * piece.width;
        for (int m = 0; m < piece.rows; m++) {
            std::memcpy(to + m * piece.width, from.data + m * from.row, piece.there * sizeof(T));
            std::fill(to + m * piece.width + piece.there, to + (m + 1) * piece.width, T(0));
        }
        return {to, piece.width};
    }

    void tape(const Stage &stage, const Piece &piece) {
        const int rows = piece.rows, width = piece.width;
        const bool edge = piece.there < width;
        for (const Instruction &k : stage.tape) {
            Tile<T> to = find(k.to, piece);
            if (k.op == ROW) {
                for (int m = 0; m < rows; m++) {
                    const T value = row_values[k.a.place][piece.r + m];
                    std::fill(to.data + m * width, to.data + (m + 1) * width, value);
                }
                continue;
            }
            Tile<T> given[3] = {find(k.a, piece), find(k.b, piece), find(k.c, piece)};
            const Operand operands[3] = {k.a, k.b, k.c};
            if (edge)
                for (int i = 0; i < 3; i++)
                    if (operands[i].place < 0) given[i] = padded(given[i], i, piece);
            if (edge && k.to.place < 0) {
                Tile<T> made = {piece.slot + int64_t(program.slots + 3) * rows * width, width};
                compute<T>(k, made, given[0], given[1], given[2], rows, width);
                for (int m = 0; m < rows; m++)
                    std::memcpy(to.data + m * to.row, made.data + m * width, piece.there * sizeof(T));
            } else {
                compute<T>(k, to, given[0], given[1], given[2], rows, width);
            }
        }
    }

    void products(const Stage &stage, const std::vector<Panels<T>> &weights, const Piece &piece) {
        constexpr int L = LANES<T>;
        const int rows = piece.rows, width = piece.width;
        T rest[WIDE][L], spare[WIDE][32 * L];
        for (size_t i = 0; i < stage.products.size(); i++) {
            const Product &product = stage.products[i];
            const Panels<T> &w = weights[i];
            const T *a = at[product.operand] + piece.r * row[product.operand];
            const int64_t first = piece.j / L / w.units;
            for (int64_t block = first; block < std::min<int64_t>(w.blocks, first + width / L / w.units); block++)
                for (int part = 0; part < w.parts(); part++) {
                    const int gates = w.first(part + 1) - w.first(part), vectors = gates * w.units;
                    Column<T> column[WIDE];
                    for (int v = 0; v < vectors; v++) {
                        const int64_t unit = (block * w.units + v / gates) * L - piece.j;
                        const int g = w.first(part) + v % gates;
                        const int64_t there = std::min<int64_t>(L, piece.there - unit);
                        column[v] = {find({product.to[g], 0}, piece).data + unit, nullptr, nullptr, 0, 0};
                        if (there > 0 && product.bias[g] >= 0) {
                            column[v].bias = at[product.bias[g]] + piece.j + unit;
                            if (there < L) column[v].bias = rest_of(column[v].bias, 1, 0, there, rest[v]);
                        }
                        if (there > 0 && product.plus[g].place < 0) {
                            const Tile<T> plus = find(product.plus[g], piece);
                            column[v].plus = plus.data + unit, column[v].plus_row = plus.row, column[v].ahead = width;
                            if (there < L) {
                                column[v].plus = rest_of(column[v].plus, rows, plus.row, there, spare[v]);
                                column[v].plus_row = L, column[v].ahead = 0;
                            }
                        }
                    }
                    multiply<T>(vectors, rows, a, row[product.operand], w.panel(block, part), w.K, column, width);
                }
        }
    }

    static const T *rest_of(const T *from, int rows, int64_t row, int64_t there, T *to) {
        for (int m = 0; m < rows; m++) {
            std::memcpy(to + m * LANES<T>, from + m * row, there * sizeof(T));
            std::fill(to + m * LANES<T> + there, to + (m + 1) * LANES<T>, T(0));
        }
        return to;
    }

    void constants(T *slot, int n) {
        for (size_t c = 0; c < program.constants.size(); c++) std::fill(slot + c * n, slot + (c + 1) * n, T(program.constants[c]));
    }

    void step(int64_t t) {
        constexpr int L = LANES<T>;
        find(t);
        if (run.resets) reset(t);
        const int64_t B = end - begin;
        for (size_t i = 0; i < program.stages.size(); i++) {
            const Stage &stage = program.stages[i];
            const int64_t size = run.size(stage.size), units = (size + L - 1) / L;
            for (const Mean &mean : stage.means) {
                const int64_t width = run.size(mean.size);
                for (int64_t b = 0; b < B; b++) {
                    const T *a = at[mean.operand] + b * row[mean.operand];
                    double sum = 0;
                    for (int64_t u = 0; u < width; u++) sum += a[u];
                    row_values[mean.to][b] = T(sum / width);
                }
            }
            // A tile of products has up to 32 rows, so that a panel is used often while it is near, and as many units
            // as a panel. A tile without takes whole rows, as they lie in memory.
            int rows = int(std::min<int64_t>(B, 32));
            int wide = 1;  // vectors of units
            if (stage.products.empty()) {
                wide = int(std::min<int64_t>(units, 512 / L));
                rows = int(std::max<int64_t>(1, std::min<int64_t>(B, 512 / (wide * L))));
            }
            for (const auto &w : panels[i]) wide = std::max(wide, w.units);
            while (rows * wide * L < 256 && wide < units) wide *= 2;  // an instruction is to have some work
            const int width = wide * L;
            T *slot = slots.take(int64_t(program.slots + 4) * rows * width);
            int filled = 0;
            for (int64_t j = 0; j < size; j += width) {
                for (int64_t r = 0; r < B; r += rows) {
                    const int here = int(std::min<int64_t>(rows, B - r));
                    if (filled != here) constants(slot, here * width), filled = here;
                    const Piece piece{slot, size, j, r, std::min<int64_t>(width, size - j), here, width};
                    products(stage, panels[i], piece);
                    tape(stage, piece);
                }
            }
        }
        if (run.active) hold(t);
        if (program.reverse && run.resets) cut(t);
    }

    // Where a step is not taken, states (backward: their gradients) stay as they were.
    void hold(int64_t t) {
        for (int64_t b = begin; b < end; b++) {
            if (run.active[t * run.B + b]) continue;
            for (const State &s : program.states) {
                T *to = at[s.after] + (b - begin) * row[s.after];
                const int32_t from = program.reverse ? s.came : s.before;
                std::memcpy(to, at[from] + (b - begin) * row[from], run.size(s.size) * sizeof(T));
                if (program.reverse && s.seed >= 0) {
                    const T *g = at[s.seed] + (b - begin) * row[s.seed];
                    for (int64_t u = 0; u < run.size(s.size); u++) to[u] += g[u];
                }
            }
            for (int32_t column : program.columns)
                std::memset(at[column] + (b - begin) * row[column], 0, row[column] * sizeof(T));
        }
    }

    // Backward: where a sequence begins, the gradient goes to the initial state, and no further.
    void cut(int64_t t) {
        int64_t offset = 0, all = 0;
        for (const State &s : program.states) all += run.size(s.size);
        for (const State &s : program.states) {
            for (int64_t b = begin; b < end; b++) {
                if (!run.resets[t * run.B + b]) continue;
                T *g = at[s.after] + (b - begin) * row[s.after], *to = static_cast<T *>(run.g_initial) + b * all + offset;
                for (int64_t u = 0; u < run.size(s.size); u++) to[u] += g[u], g[u] = 0;
            }
            offset += run.size(s.size);
        }
    }

    void all_steps() {
        for (int64_t s = 0; s < run.T; s++) step(program.reverse ? run.T - 1 - s : s);
    }
};

// part(0), part(1) … each in a thread of its own, the first in this one. Starting one costs some 20 us.
template <class F> void in_threads(int64_t threads, const F &part) {
    std::vector<std::thread> others;
    for (int64_t k = 1; k < threads; k++) others.emplace_back(part, k);
    part(0);
    for (auto &thread : others) thread.join();
}

template <class T> void run_as(const Program &program, const Run &run) {
    std::vector<std::vector<Panels<T>>> panels;
    std::vector<std::unique_ptr<Aligned<T>>> memory;
    double work = 0;
    for (const Stage &stage : program.stages) {
        panels.emplace_back();
        for (const Product &product : stage.products) {
            memory.emplace_back(new Aligned<T>);
            panels.back().push_back(pack<T>(product, run, *memory.back()));
            work += double(run.size(stage.size)) * product.to.size() * panels.back().back().K;
        }
    }
    // A thread has rows of its own for all steps, so threads wait for each other once.
    int64_t threads = std::min<int64_t>(run.threads, run.B);
    if (work * run.T * run.B < 4e6) threads = 1;
    in_threads(threads, [&](int64_t k) {
        Scan<T> scan(program, run, panels, run.B * k / threads, run.B * (k + 1) / threads);
        scan.all_steps();
    });
}

template <class T> void outer_as(const Outer &o) {
    const T *a = static_cast<const T *>(o.a), *b = static_cast<const T *>(o.b);
    T *to = static_cast<T *>(o.to);
    const int64_t threads = double(o.N) * o.M * o.K < 4e6 ? 1 : std::min<int64_t>(o.threads, (o.M + 7) / 8);
    in_threads(threads, [&](int64_t k) {
        const int64_t rows = ((o.M + threads - 1) / threads + 7) / 8 * 8;
        outer_products<T>(a, o.a_row, b, o.b_row, o.N, o.K, to, std::min(o.M, rows * k), std::min(o.M, rows * (k + 1)));
    });
}

template <class T> void linear_as(const Linear &l) {
    Run run;  // as a product with weight_hr is: (P, H) transposed, or as it lies
    run.H = l.backwards ? l.M : l.K;
    run.P = l.backwards ? l.K : l.M;
    run.weight_hr = l.w;
    Product product{l.backwards ? 3 : 2, 0, {}, {0}, {-1}, {}};
    Aligned<T> memory;
    const Panels<T> panels = pack<T>(product, run, memory);
    const int64_t threads = double(l.N) * l.M * l.K < 4e6 ? 1 : std::min<int64_t>(l.threads, (l.N + 63) / 64);
    in_threads(threads, [&](int64_t k) { linear_rows<T>(l, panels, l.N * k / threads, l.N * (k + 1) / threads); });
}

}  // namespace

void SCAN(const Program &program, const Run &run, bool is_double) {
    if (is_double)
        run_as<double>(program, run);
    else
        run_as<float>(program, run);
}

void OUTER(const Outer &outer, bool is_double) {
    if (is_double)
        outer_as<double>(outer);
    else
        outer_as<float>(outer);
}

void LINEAR(const Linear &linear, bool is_double) {
    if (is_double)
        linear_as<double>(linear);
    else
        linear_as<float>(linear);
}

}  // namespace gatewise
