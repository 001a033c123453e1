// A layer in one direction: the projection of its input, the scan, and backward the weights' gradients, some steps at a
// time, so that what one makes is still near when the next reads it, and little of it exists at once. Included by one file
// an instruction set, which defines BYTES, the width of a vector, ROWS, how many rows of a product registers hold for 1 to 4
// vectors of columns, RUN, the name, and PAIRS where there are instructions for pairs of values in bfloat16.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "scan.h"

namespace gatewise {
namespace {

// In values of the type T; its products read elements of the type E.
template <class T, class E = T> struct Layer {
    const Program &program;
    const Run &run;
    const int64_t width;  // of the projected input
    int64_t threads = 1, together = 1;  // how many there are, and how many of them share the units of the same rows
    int64_t chunk;  // steps
    const bool packed;
    std::vector<std::vector<Panels<E>>> panels;
    std::vector<Values<E>> packed_weights;
    std::vector<Values<T>> columns, turns, totals;  // of the columns, the states, the threads
    std::vector<Place<T>> places;
    Values<T> projected, zeros, table, g_table, x_rows;
    std::unique_ptr<Linear<E>> forth, back;  // by weight_ih
    bool projects = false;  // what the steps read: forward always, backward if a derivative does

    static const T *of(const void *p) { return static_cast<const T *>(p); }
    static T *of(void *p) { return static_cast<T *>(p); }

    Layer(const Program &p, const Run &r) : program(p), run(r), width(p.input_gates * r.H), packed(r.T * r.B > 4) {
        double work = double(run.I) * width;  // multiplications and additions, a row of a step
        int64_t weights = 0;
        size_t products = 0;
        for (const Stage &stage : program.stages) products += stage.products.size();
        packed_weights = std::vector<Values<E>>(products);
        panels.reserve(program.stages.size()), places.reserve(program.arrays.size());
        for (const Stage &stage : program.stages) {
            panels.emplace_back();
            for (const Product &product : stage.products) {
                const bool as_it_lies = !packed || (run.B == 1 && product.weight % 2);
                panels.back().push_back(as_it_lies ? Panels<E>(1, 0, 0) : pack<E>(product, run, packed_weights[--products]));
                weights += run.size(stage.size) * product.to.size() * depth(product, run);
            }
        }
        work += double(weights) * (program.reverse ? 2 : 1);
        zeros.take(std::max(run.H, run.P));
        std::fill(zeros.data, zeros.data + zeros.length, T(0));
        // Threads have rows of their own, or units, whose weights are then near: where there are many weights or few rows.
        if (work * run.T * run.B > 4e6) threads = run.threads;
        const bool units = threads > 1 && weights * run.B > 5e5 && (weights * sizeof(T) > 600000 || run.B < 8 * threads);
        if (units)
            together = threads;
        else
            threads = std::min(threads, run.B);
        // The gradients of the weights are read and written once a chunk, so backward it is large.
        chunk = run.T;
        if (run.weight_ih) chunk = std::max<int64_t>(1, std::min(run.T, (program.reverse ? 1024 : 128) / run.B));
        for (const Holder &h : program.arrays) projects |= run.weight_ih && h.kind == INPUT;
        if (projects) {
            projected.take(chunk * run.B * width);
            if (run.indices) {
                table.take(run.I * width);
                for (int64_t m = 0; m < width; m++)
                    for (int64_t i = 0; i < run.I; i++)
                        table.data[i * width + m] = of(run.weight_ih)[m * run.I + i] + (run.bias_ih ? of(run.bias_ih)[m] : T(0));
            } else {
                forth.reset(new Linear<E>(run.weight_ih, run.I, width, false, packed));
            }
        }
        if (projects && !run.indices && !x_lies_densely()) x_rows.take(chunk * run.B * run.I);
        if (program.reverse && run.weight_ih) {
            if (run.g_x) back.reset(new Linear<E>(run.weight_ih, width, run.I, true, packed));
            if (run.indices && run.g_weight_ih) {
                g_table.take(run.I * width);
                std::fill(g_table.data, g_table.data + run.I * width, T(0));
            }
            // Products are put where they go, then added; what none goes to is zero.
            std::vector<char> reached(program.hidden_gates + 1, 0);
            for (const Projected &p : program.projected) {
                for (int32_t block : p.blocks) reached[block] = 1;
                if (p.blocks.empty()) reached[program.hidden_gates] = 1;
            }
            for (int32_t g = 0; g < program.hidden_gates && run.g_weight_hh; g++)
                if (!reached[g]) zero(of(run.g_weight_hh) + g * run.H * run.P, run.H * run.P);
            if (!reached[program.hidden_gates]) zero(run.g_weight_hr, run.P * run.H);
            zero(run.g_bias_ih, width), zero(run.g_bias_hh, program.hidden_gates * run.H);
            zero(run.g_vectors, int64_t(program.vectors.size()) * run.H);
        }
        columns = std::vector<Values<T>>(program.columns.size());
        for (size_t c = 0; c < columns.size() && run.columns.empty(); c++)
            if (!is_total(c)) columns[c].take(chunk * run.B * column_width(c));
        turns = std::vector<Values<T>>(program.states.size());
        for (size_t k = 0; k < turns.size(); k++)
            if (program.reverse || !run.news[k]) turns[k].take(2 * run.B * run.size(program.states[k].size));
        for (size_t i = 0; i < program.arrays.size(); i++) places.push_back(place(program.arrays[i]));
    }

    static void zero(void *p, int64_t n) {
        if (p) std::memset(p, 0, n * sizeof(T));
    }

    // Where an array lies, if all steps are there; `begin_chunk` moves what holds some steps alone.
    Place<T> place(const Holder &h) {
        const int64_t row = run.size(h.size) * h.parts, step = run.B * row;
        auto steps = [&](const void *p, bool flip = false) {
            T *base = const_cast<T *>(of(p));
            return Place<T>{flip ? base + (run.T - 1) * step : base, nullptr, flip ? -step : step, row, 0, 0, false};
        };
        auto fixed = [&](const void *p, int64_t row) { return Place<T>{const_cast<T *>(of(p)), nullptr, 0, row, 0, 0, false}; };
        auto two = [&](const Values<T> &v, const void *first, int64_t shift) {
            return Place<T>{v.data, first ? of(first) : zeros.data, step, row, first ? row : 0, shift, true};
        };
        switch (h.kind) {
            case INPUT: {
                Place<T> p = fixed(run.weight_ih ? projected.data : run.x, width);
                p.base += h.index * run.H, p.step = run.B * width;
                return p;
            }
            case STATE: case NEW: {
                Place<T> p = run.news[h.index] ? steps(run.news[h.index], run.flip && h.index == 0) : two(turns[h.index], nullptr, 0);
                if (h.kind == STATE) {
                    const void *first = run.states[h.index];
                    p.shift = -1, p.first = first ? of(first) : zeros.data, p.first_row = first ? row : 0;
                }
                return p;
            }
            case KEEP: return steps(run.keeps[h.index]);
            case SAVED: return h.index >= 0 ? steps(run.keeps[h.index]) : steps(run.news[-1 - h.index], run.flip && h.index == -1);
            case VECTOR: return fixed(of(run.vectors) + h.index * run.H, 0);
            case BIAS: return fixed(run.bias_hh ? of(run.bias_hh) + h.index * run.H : zeros.data, 0);
            case MASK: return run.mask_turns[h.index] ? steps(run.masks[h.index]) : fixed(run.masks[h.index], row);
            case SEED:
                return run.g_seen[h.index] ? steps(run.g_seen[h.index], run.flip && h.index == 0) : fixed(zeros.data, 0);
            case CARRY: return two(turns[h.index], nullptr, 0);
            case CAME: return two(turns[h.index], run.g_finals[h.index], 1);
            case TOTAL_COLUMN:
                if (run.columns.empty()) return fixed(nullptr, 0);  // each thread has its own
                return steps(run.columns[h.index]);
            case COLUMN: return steps(run.columns.empty() ? columns[h.index].data : run.columns[h.index]);
            default: return fixed(nullptr, row);
        }
    }

    // What holds the steps of a chunk alone is found as if it held all.
    void begin_chunk(int64_t t0) {
        if (!run.weight_ih) return;
        for (size_t i = 0; i < places.size(); i++) {
            const Holder &h = program.arrays[i];
            if (h.kind == INPUT) places[i].base = projected.data + h.index * run.H - t0 * places[i].step;
            if (h.kind == COLUMN) places[i].base = columns[h.index].data - t0 * places[i].step;
        }
    }

    void all() {
        Team team(threads);
        std::vector<std::unique_ptr<Between<T>>> between(threads / together);
        const int64_t groups = threads / together;
        for (int64_t k = 0; k < groups; k++)
            between[k].reset(new Between<T>(program, run, run.B * (k + 1) / groups - run.B * k / groups));
        totals = std::vector<Values<T>>(threads);
        team.run([&](int64_t k) {
            const int64_t group = together > 1 ? 0 : k;
            if (!program.vectors.empty()) std::fill_n(totals[k].take(columns.size() * run.H), columns.size() * run.H, T(0));
            Scan<T, E> scan(program, run, panels, places, *between[group], team, run.B * group / groups, run.B * (group + 1) / groups,
                         together > 1 ? k : 0, together, totals[k].data);
            for (int64_t done = 0; done < run.T; done += chunk) {
                const int64_t n = std::min(chunk, run.T - done), t0 = program.reverse ? run.T - done - n : done;
                if (k == 0) begin_chunk(t0);
                if (projects) project(t0, n, k);
                team.wait();
                for (int64_t i = 0; i < n; i++) scan.step(program.reverse ? t0 + n - 1 - i : t0 + i);
                team.wait();
                if (program.reverse && run.weight_ih) {
                    finish(t0, n, k);
                    team.wait();
                }
            }
        });
        end();
    }

    // --- the input ------------------------------------------------------------------------------------

    const T *x_at(int64_t t, int64_t b) const { return of(run.x) + (run.flip ? run.T - 1 - t : t) * run.x_step + b * run.x_row; }
    bool x_lies_densely() const { return !run.flip && run.x_row == run.I && run.x_step == run.B * run.I; }

    // A thread's part of projecting the steps of a chunk.
    void project(int64_t t0, int64_t n, int64_t k) {
        const int64_t first = n * run.B * k / threads, last = n * run.B * (k + 1) / threads;
        if (run.indices) {
            for (int64_t i = first; i < last; i++)
                std::memcpy(projected.data + i * width, table.data + index_at(t0 + i / run.B, i % run.B) * width, width * sizeof(T));
        } else {
            if (x_rows.data) gather_x(t0, first, last);
            const T *x = x_rows.data ? x_rows.data : x_at(t0, 0);
            forth->run(x + first * run.I, run.I, of(run.bias_ih), projected.data + first * width, last - first);
        }
    }
    void gather_x(int64_t t0, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++)
            std::memcpy(x_rows.data + i * run.I, x_at(t0 + i / run.B, i % run.B), run.I * sizeof(T));
    }
    int64_t index_at(int64_t t, int64_t b) const { return run.indices[(run.flip ? run.T - 1 - t : t) * run.x_step + b * run.x_row]; }

    // --- the gradients --------------------------------------------------------------------------------

    bool is_total(int32_t c) const { return program.arrays[program.columns[c]].kind == TOTAL_COLUMN; }
    const T *column(int32_t c) const { return columns[c].data; }
    int64_t column_width(int32_t c) const {
        const Holder &h = program.arrays[program.columns[c]];
        return run.size(h.size) * h.parts;
    }

    // A thread's part of what the steps of a chunk give to the gradients of the weights and of x.
    void finish(int64_t t0, int64_t n, int64_t k) {
        const int64_t N = n * run.B;
        const Place<T> before = place(Holder{STATE, 0, program.states[0].size, 1});
        std::vector<char> there(program.hidden_gates + 1, t0 + n < run.T);  // of each gate: whether an earlier product is
        for (const Projected &p : program.projected) {
            const T *made = column(p.made);
            const int64_t a_row = column_width(p.made), K = p.blocks.empty() ? run.H : run.P;
            auto read = [&](int64_t i) {  // where the value lies that was projected
                if (p.read >= 0) return column(p.read) + i * K;
                const int64_t t = t0 + i / run.B, b = i % run.B;
                if (run.resets && run.resets[t * run.B + b]) return of(run.initial);
                if (t == 0) return before.first + b * before.first_row;
                return static_cast<const T *>(before.base + (t - 1) * before.step + b * before.row);
            };
            if (p.blocks.empty() && run.g_weight_hr) {
                products(made, a_row, read, K, N, run.P, of(run.g_weight_hr), k, there[program.hidden_gates]);
                there[program.hidden_gates] = 1;
            }
            for (size_t g = 0, end; g < p.blocks.size(); g = end) {  // gates that lie together are one product
                for (end = g + 1; end < p.blocks.size() && p.blocks[end] == p.blocks[end - 1] + 1; end++)
                    if (there[p.blocks[end]] != there[p.blocks[g]]) break;
                const int64_t M = int64_t(end - g) * run.H, first = p.blocks[g];
                const T *part = made + g * run.H;
                if (run.g_weight_hh) products(part, a_row, read, K, N, M, of(run.g_weight_hh) + first * run.H * K, k, there[first]);
                if (run.g_bias_hh) sums(part, a_row, N, M, of(run.g_bias_hh) + first * run.H, k);
                std::fill(there.begin() + first, there.begin() + first + (end - g), 1);
            }
        }
        for (size_t v = 0; v < program.vectors.size() && run.g_vectors; v++)
            if (!is_total(program.vectors[v])) sums(column(program.vectors[v]), run.H, N, run.H, of(run.g_vectors) + v * run.H, k);
        if (run.g_bias_ih && !same_bias()) sums(column(0), width, N, width, of(run.g_bias_ih), k);
        if (run.indices && run.g_weight_ih) {
            const int64_t first = width * k / threads, last = width * (k + 1) / threads;
            for (int64_t i = 0; i < N; i++) {
                const T *from = column(0) + i * width;
                T *to = g_table.data + index_at(t0 + i / run.B, i % run.B) * width;
                for (int64_t m = first; m < last; m++) to[m] += from[m];
            }
        } else if (run.g_weight_ih) {
            auto x = [&](int64_t i) { return x_at(t0 + i / run.B, i % run.B); };
            products(column(0), width, x, run.I, N, width, of(run.g_weight_ih), k, t0 + n < run.T);
        }
        if (!run.g_x) return;
        const int64_t first = N * k / threads, last = N * (k + 1) / threads;
        for (int64_t i = first; i < last;) {
            const int64_t t = i / run.B, end = run.flip ? std::min(last, (t + 1) * run.B) : last;
            T *to = of(run.g_x) + ((run.flip ? run.T - 1 - t0 - t : t0 + t) * run.B + i % run.B) * run.I;
            back->run(column(0) + i * width, width, nullptr, to, end - i);
            i = end;
        }
    }
    // Whether each gate's two biases get the same.
    bool same_bias() const {
        if (!run.g_bias_hh || program.projected.size() != 1 || program.projected[0].made) return false;
        const auto &blocks = program.projected[0].blocks;
        for (size_t g = 0; g < blocks.size(); g++)
            if (blocks[g] != int32_t(g)) return false;
        return int32_t(blocks.size()) == program.input_gates;
    }
    template <class F> void products(const T *a, int64_t a_row, const F &b, int64_t K, int64_t N, int64_t M, T *to, int64_t k, bool add) {
        const int64_t rows = ((M + threads - 1) / threads + 7) / 8 * 8;
        outer_products<E>(a, a_row, b, N, K, to, std::min(M, rows * k), std::min(M, rows * (k + 1)), add);
    }
    void sums(const T *a, int64_t a_row, int64_t N, int64_t M, T *to, int64_t k) {
        const int64_t first = M * k / threads, last = M * (k + 1) / threads;
        for (int64_t i = 0; i < N; i++)
            for (int64_t m = first; m < last; m++) to[m] += a[i * a_row + m];
    }

    // --- after the last step --------------------------------------------------------------------------

    void end() {
        for (size_t k = 0; k < program.states.size(); k++) {
            void *to = program.reverse ? run.g_states[k] : run.finals[k];
            const int64_t size = run.size(program.states[k].size), t = program.reverse ? 0 : run.T - 1;
            if (!to) continue;
            const Place<T> p = place(Holder{program.reverse ? CARRY : NEW, int32_t(k), program.states[k].size, 1});
            std::memcpy(to, p.base + (p.turns ? (t & 1) : t) * p.step, run.B * size * sizeof(T));
        }
        for (size_t v = 0; v < program.vectors.size() && run.g_vectors; v++)
            for (int64_t k = 0; k < threads && is_total(program.vectors[v]); k++)
                for (int64_t u = 0; u < run.H; u++) of(run.g_vectors)[v * run.H + u] += totals[k].data[program.vectors[v] * run.H + u];
        if (program.reverse && run.g_bias_ih && same_bias()) std::memcpy(run.g_bias_ih, run.g_bias_hh, width * sizeof(T));
        if (g_table.data)
            for (int64_t m = 0; m < width; m++)
                for (int64_t i = 0; i < run.I; i++) of(run.g_weight_ih)[m * run.I + i] = g_table.data[i * width + m];
    }
};

}  // namespace

void RUN(const Program &program, const Run &run, Type type) {
#ifdef PAIRS
    if (type == BFLOAT16) Layer<float, Pair>(program, run).all();
#else
    if (type == FLOAT64)
        Layer<double>(program, run).all();
    else
        Layer<float>(program, run).all();
#endif
}

}  // namespace gatewise
