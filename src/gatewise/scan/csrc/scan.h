// The steps of a scan, by several threads.
#pragma once
#include <atomic>
#include <thread>

#include "products.h"
#include "tape.h"

namespace gatewise {
namespace {

// Threads that run the same program, each its part, and wait for each other.
struct Team {
    const int64_t threads;
    std::atomic<int64_t> arrived{0}, round{0};
    explicit Team(int64_t n) : threads(n) {}
    void wait() {
        if (threads == 1) return;
        const int64_t now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int turns = 0; round.load(std::memory_order_acquire) == now; turns++)
            if (turns > 4000) std::this_thread::yield();
    }
    // part(0), part(1) … each in a thread of its own, the first in this one.
    template <class F> void run(const F &part) {
        std::vector<std::thread> others;
        for (int64_t k = 1; k < threads; k++) others.emplace_back(part, k);
        part(0);
        for (auto &thread : others) thread.join();
    }
};

// Values between the stages of a step: of the threads that share a step's units, or of one alone.
template <class T> struct Between {
    std::vector<Values<T>> scratch, before;  // of the arrays, the states
    Between(const Program &program, const Run &run, int64_t rows)
        : scratch(program.arrays.size()), before(run.resets ? program.states.size() : 0) {
        for (size_t i = 0; i < scratch.size(); i++) {
            const Holder &h = program.arrays[i];
            if (h.kind == SCRATCH) scratch[i].take(rows * run.size(h.size) * h.parts);
        }
        for (size_t i = 0; i < before.size(); i++) before[i].take(rows * run.size(program.states[i].size));
    }
};

// Where an array lies: the values of step t at base + (t + shift) * step, or at `first` where t + shift is no step; with
// `turns`, two buffers take turns.
template <class T> struct Place {
    T *base;
    const T *first;
    int64_t step, row, first_row, shift;
    bool turns;
};

// A thread's part of the steps: the rows [begin, end) and, of their units, one of `shares` shares.
template <class T, class E> struct Scan {
    const Program &program;
    const Run &run;
    const std::vector<std::vector<Panels<E>>> &panels;  // of each stage's products
    const std::vector<Place<T>> &places;                // of the arrays
    Between<T> &between;
    Team &team;
    const int64_t begin, end, share, shares;
    std::vector<T *> at;  // where each array's step begins, at row `begin`
    std::vector<int64_t> row;
    T *totals;  // of the columns
    Values<T> slots;
    // What a stage's products multiply: rows of elements, so far apart.
    struct Rows {
        Values<E> memory;
        const E *data;
        int64_t row;
    };
    std::vector<Rows> factors;

    Scan(const Program &p, const Run &r, const std::vector<std::vector<Panels<E>>> &w, const std::vector<Place<T>> &places,
         Between<T> &between, Team &team, int64_t begin, int64_t end, int64_t share, int64_t shares, T *totals)
        : program(p), run(r), panels(w), places(places), between(between), team(team), begin(begin), end(end), share(share),
          shares(shares), at(p.arrays.size()), row(p.arrays.size()), totals(totals) {
        size_t most = 0;
        for (const Stage &stage : p.stages) most = std::max(most, stage.products.size());
        factors = std::vector<Rows>(most);
    }

    void wait() {
        if (shares > 1) team.wait();
    }

    void find(int64_t t) {
        for (size_t i = 0; i < at.size(); i++) {
            const Place<T> &p = places[i];
            const Holder &h = program.arrays[i];
            if (h.kind == SCRATCH) {
                at[i] = between.scratch[i].data, row[i] = p.row;
                continue;
            }
            if (h.kind == TOTAL_COLUMN && !p.base) {
                at[i] = totals + h.index * run.H, row[i] = 0;
                continue;
            }
            const int64_t s = t + p.shift;
            const bool outside = p.shift && (s < 0 || s >= run.T);
            row[i] = outside ? p.first_row : p.row;
            at[i] = (outside ? const_cast<T *>(p.first) : p.base + (p.turns ? (s & 1) : s) * p.step) + begin * row[i];
        }
    }

    void reset(int64_t t) {
        int64_t offset = 0;
        for (size_t i = 0; i < program.states.size(); i++) {
            const State &s = program.states[i];
            const int64_t size = run.size(s.size);
            T *before = between.before[i].data;
            for (int64_t b = begin; b < end && share == 0; b++) {
                const T *from = run.resets[t * run.B + b] ? static_cast<const T *>(run.initial) + offset
                                                          : at[s.before] + (b - begin) * row[s.before];
                std::memcpy(before + (b - begin) * size, from, size * sizeof(T));
            }
            at[s.before] = before;
            row[s.before] = size;
            offset += size;
        }
        wait();
    }

    // A tile of rows x units: `rows` from row r on, and `width` units from unit j on, of which `there` are in the arrays.
    struct Piece {
        T *slot;
        int64_t size, j, r, there;
        int rows, width;
        bool back;
    };

    Tile<T> find(Operand o, const Piece &piece) const {
        if (o.place >= 0) return {piece.slot + int64_t(o.place) * piece.rows * piece.width, piece.width};
        const int k = -1 - o.place;
        if (program.arrays[k].size == 2) return {at[k] + piece.r * row[k], row[k]};
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

    void tape(const Stage &stage, const Piece &piece, const uint8_t *active) {
        const int rows = piece.rows, width = piece.width;
        const bool edge = piece.there < width;
        for (const Instruction &k : stage.tape) {
            Tile<T> to = find(k.to, piece);
            const int part = k.to.place >= 0 && k.to.part ? LANES<T> : width;
            if (k.op == SPREAD) {
                const bool one = k.to.place < 0 && program.arrays[-1 - k.to.place].size == 2;
                const int64_t n = one ? 1 : k.to.place < 0 ? piece.there : part;
                const Tile<T> from = find(k.a, piece);
                for (int m = 0; m < rows; m++) std::fill_n(to.data + m * to.row, n, T(from.data[m * from.row]));
                continue;
            }
            Tile<T> given[3] = {find(k.a, piece), find(k.b, piece), find(k.c, piece)};
            const Operand operands[3] = {k.a, k.b, k.c};
            if (edge)
                for (int i = 0; i < 3; i++)
                    if (operands[i].place < 0) given[i] = padded(given[i], i, piece);
            if (stage.products.empty())  // tiles follow each other in memory: what the next one reads is fetched meanwhile
                for (int i = 0; i < 3; i++)
                    if (operands[i].place < 0 && given[i].row)
                        for (int m = 0; m < rows; m++)
                            for (int u = 0; u < width; u += 64 / int(sizeof(T)))
                                __builtin_prefetch(given[i].data + (m + rows) * given[i].row + u);
            if (k.op == TOTAL || k.op == TOTAL_OF_PRODUCT) {
                total<T>(k, to, given[0], given[1], rows, piece.there, active ? active + piece.r : nullptr);
            } else if (edge && k.to.place < 0) {
                Tile<T> made = {piece.slot + int64_t(program.slots + 3) * rows * width, width};
                compute<T>(k, made, given[0], given[1], given[2], rows, width, piece.there);
                for (int m = 0; m < rows; m++)
                    std::memcpy(to.data + m * to.row, made.data + m * width, piece.there * sizeof(T));
            } else {
                compute<T>(k, to, given[0], given[1], given[2], rows, part, piece.there);
            }
        }
    }

    void products(const Stage &stage, const std::vector<Panels<E>> &weights, const Piece &piece) {
        constexpr int L = LANES<T>;
        const int rows = piece.rows, width = piece.width;
        T rest[WIDE][L], spare[WIDE][32 * L];
        for (size_t i = 0; i < stage.products.size(); i++) {
            const Product &product = stage.products[i];
            const Panels<E> &w = weights[i];
            if (!w.data) {
                few_rows(product, piece);
                continue;
            }
            const E *a = factors[i].data + piece.r * factors[i].row;
            const int64_t first = piece.j / L / w.units;
            const int64_t last = std::min<int64_t>(w.blocks, first + width / L / w.units) - 1;
            // There and back: the panels that were last in one step are first in the next, and still near.
            for (int64_t k = first; k <= last; k++)
                for (int part = 0; part < w.parts(); part++) {
                    const int64_t block = piece.back ? last - (k - first) : k;
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
                    multiply<E>(vectors, rows, a, factors[i].row, w.panel(block, part), w.K, column, width);
                }
        }
    }

    // A product whose weights are not packed.
    void few_rows(const Product &product, const Piece &piece) {
        for (size_t g = 0; g < product.to.size(); g++)
            for (int m = 0; m < piece.rows; m++) {
                T *sum = find({product.to[g], 0}, piece).data + m * piece.width;
                const T *bias = product.bias[g] < 0 ? nullptr : at[product.bias[g]] + piece.j;
                const Tile<T> plus = product.plus[g].place < 0 ? find(product.plus[g], piece) : Tile<T>{nullptr, 0};
                for (int64_t u = 0; u < piece.there; u++)
                    sum[u] = (bias ? bias[u] : T(0)) + (plus.data ? plus.data[m * plus.row + u] : T(0));
                const T *x = at[product.operand] + (piece.r + m) * row[product.operand];
                unpacked<T>(product, run, x, int(g), piece.j, piece.there, sum);
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
            for (size_t k = 0; k < stage.products.size(); k++) {
                const Product &product = stage.products[k];
                if (!panels[i][k].data) continue;
                factors[k].row = row[product.operand];
                factors[k].data = elements<E>(at[product.operand], B, depth(product, run), factors[k].row, factors[k].memory);
            }
            // A tile of products has up to 32 rows, so that a panel is used often while it is near, and as many units
            // as a panel. A tile without takes whole rows, as they lie in memory. Threads share units, or whole rows.
            int rows = int(std::min<int64_t>(B, 32));
            const int64_t own = stage.whole ? units : (units + shares - 1) / shares;
            int wide = 1;  // vectors of units
            if (stage.products.empty()) {
                wide = int(stage.whole ? units : std::min<int64_t>(own, 512 / L));
                rows = int(std::max<int64_t>(1, std::min<int64_t>(B, (stage.whole ? 1024 : 512) / (wide * L))));
            }
            for (const auto &w : panels[i]) wide = std::max(wide, w.units);
            while (rows * wide * L < 256 && wide < own) wide *= 2;  // an instruction is to have some work
            const int width = wide * L;
            T *slot = slots.take(int64_t(program.slots + 4) * rows * width);
            int filled = 0;
            const int64_t tiles = (size + width - 1) / width;
            const int64_t first_unit = stage.whole ? 0 : tiles * share / shares * width;
            const int64_t last_unit = stage.whole ? size : tiles * (share + 1) / shares * width;
            const int64_t first_row = stage.whole ? B * share / shares : 0;
            const int64_t last_row = stage.whole ? B * (share + 1) / shares : B;
            for (int64_t j = first_unit; j < last_unit; j += width) {
                for (int64_t r = first_row; r < last_row; r += rows) {
                    const int here = int(std::min<int64_t>(rows, last_row - r));
                    if (filled != here) constants(slot, here * width), filled = here;
                    const Piece piece{slot, size, j, r, std::min<int64_t>(width, size - j), here, width, bool(t & 1)};
                    products(stage, panels[i], piece);
                    tape(stage, piece, run.active ? run.active + t * run.B + begin : nullptr);
                }
            }
            wait();
        }
        if (share == 0 && run.active) hold(t);
        if (share == 0 && program.reverse && run.resets) cut(t);
        if (run.active || (program.reverse && run.resets)) wait();
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
};

}  // namespace
}  // namespace gatewise
