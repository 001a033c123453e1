// Matrix products: panels of packed weights, tiles of rows that stay in registers.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "program.h"
#include "vectors.h"

namespace gatewise {
namespace {

// Values in memory that other calls have used, and will.
template <class T> struct Values {
    T *data = nullptr;
    int64_t length = 0;
    Values() = default;
    explicit Values(int64_t n) { take(n); }
    Values(const Values &) = delete;
    Values &operator=(const Values &) = delete;
    ~Values() { give_memory(data, length * sizeof(T)); }
    T *take(int64_t n) {
        if (n > length) {
            give_memory(data, length * sizeof(T));
            data = static_cast<T *>(take_memory(n * sizeof(T)));
            length = n;
        }
        return data;
    }
};

// How long the rows are that a product multiplies.
inline int64_t depth(const Product &product, const Run &run) {
    switch (product.weight) {
        case 0: return run.P;
        case 1: return int64_t(product.blocks.size()) * run.H;
        case 2: return run.H;
        default: return run.P;
    }
}

// What a product reads, E: values of the type T in which it sums; or pairs of them, rounded to bfloat16, of which one
// instruction adds both products. A row of K values is `length` elements.
template <class E> using Sum = std::conditional_t<std::is_same_v<E, Pair>, float, E>;
template <class E> constexpr int SPAN = std::is_same_v<E, Pair> ? 2 : 1;
template <class E> inline int64_t length(int64_t K) { return (K + SPAN<E> - 1) / SPAN<E>; }

// sum + x w
template <class E> inline Vec<Sum<E>> add(Vec<Sum<E>> sum, Vec<E> x, Vec<E> w) {
    if constexpr (SPAN<E> == 1)
        return sum + x * w;
    else
        return add_pairs(sum, x, w);
}
// Two vectors as one of elements: a alone, or a and b in pairs.
template <class E> inline Vec<E> join(Vec<Sum<E>> a, Vec<Sum<E>> b) {
    if constexpr (SPAN<E> == 1)
        return a;
    else
        return pairs_of(a, b);
}

// Rows of values as elements, in `memory` if they are not that already; `row` becomes how far they are apart.
template <class E> const E *elements(const Sum<E> *from, int64_t rows, int64_t K, int64_t &row, Values<E> &memory) {
    if constexpr (SPAN<E> == 1) {
        return from;
    } else {
        const int64_t wide = length<E>(K);
        E *to = memory.take(rows * wide);
        for (int64_t m = 0; m < rows; m++) round_row(from + m * row, K, to + m * wide);
        row = wide;
        return to;
    }
}

constexpr int WIDE = 4;  // vectors of columns in a panel, at most

// The weights of one product, packed. A panel has the columns of some units (`units` vectors of them) and some gates, side
// by side for each k; the panels of all gates of these units follow each other, so that a tile of units finds them together.
template <class E> struct Panels {
    int units, gates;
    int64_t K, blocks;  // K elements deep
    E *data;

    Panels(int gates, int64_t K, int64_t vectors)
        : units(gates == 1 ? 4 : gates == 2 ? 2 : 1), gates(gates), K(K), blocks((vectors + units - 1) / units), data(nullptr) {}
    // The gates are shared out evenly among panels: 5 are 3 and 2.
    int parts() const { return (gates + WIDE - 1) / WIDE; }
    int first(int part) const { return (gates * part + parts() - 1) / parts(); }
    E *panel(int64_t block, int part) const { return data + (block * gates + first(part)) * units * K * LANES<E>; }
};

// A vector of columns of a tile: where its sums go, and from what they start.
template <class T> struct Column {
    T *to;
    const T *bias, *plus;     // or null
    int64_t plus_row, ahead;  // where the next tile will read, if it will: its rows are far apart, and fetched meanwhile
};

// MR rows of a, from its elements (m, k) or, DOWN, (k, m), times a panel.
template <class E, int MR, int NV, bool DOWN = false>
inline void tile(const E *a, int64_t row, const E *panel, int64_t K, Vec<Sum<E>> (&sum)[MR][NV]) {
    for (int64_t k = 0; k < K; k++) {
        Vec<E> w[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) w[v] = load<E>(panel + (k * NV + v) * LANES<E>);
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            const Vec<E> x = all<E>(DOWN ? a[k * row + m] : a[m * row + k]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[m][v] = add<E>(sum[m][v], x, w[v]);
        }
    }
}

// One row: a single chain of additions would wait for itself, so four run side by side.
template <class E, int NV> inline void tile_of_one(const E *a, const E *panel, int64_t K, Vec<Sum<E>> (&sum)[1][NV]) {
    constexpr int CHAINS = 4;
    Vec<Sum<E>> part[CHAINS][NV] = {};
    int64_t k = 0;
    for (; k + CHAINS <= K; k += CHAINS) {
#pragma GCC unroll 4
        for (int j = 0; j < CHAINS; j++) {
            const Vec<E> x = all<E>(a[k + j]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) part[j][v] = add<E>(part[j][v], x, load<E>(panel + ((k + j) * NV + v) * LANES<E>));
        }
    }
    for (; k < K; k++)
        for (int v = 0; v < NV; v++) part[0][v] = add<E>(part[0][v], all<E>(a[k]), load<E>(panel + (k * NV + v) * LANES<E>));
    for (int v = 0; v < NV; v++) sum[0][v] += (part[0][v] + part[1][v]) + (part[2][v] + part[3][v]);
}

// `rows` rows times one panel; the sums of a column go to rows `width` apart.
template <class E, int MR, int NV>
inline int rows_of(int rows, const E *a, int64_t row, const E *panel, int64_t K, const Column<Sum<E>> *column, int64_t width, int done) {
    typedef Sum<E> T;
    for (; done + MR <= rows; done += MR) {
        Vec<T> sum[MR][NV];
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) {
                sum[m][v] = column[v].bias ? load<T>(column[v].bias) : Vec<T>{};
                if (!column[v].plus) continue;
                const T *plus = column[v].plus + (done + m) * column[v].plus_row;
                sum[m][v] += load<T>(plus);
                if (column[v].ahead) __builtin_prefetch(plus + column[v].ahead);
            }
        if constexpr (MR == 1)
            tile_of_one<E, NV>(a + done * row, panel, K, sum);
        else
            tile<E, MR, NV>(a + done * row, row, panel, K, sum);
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++)
                store<T>(column[v].to + (done + m) * width, sum[m][v]);
    }
    return done;
}
template <class E, int NV>
void multiply(int rows, const E *a, int64_t row, const E *panel, int64_t K, const Column<Sum<E>> *column, int64_t width) {
    constexpr int most[] = ROWS;
    int done = rows_of<E, most[NV - 1], NV>(rows, a, row, panel, K, column, width, 0);
    if constexpr (most[NV - 1] > 4) done = rows_of<E, 4, NV>(rows, a, row, panel, K, column, width, done);
    done = rows_of<E, 2, NV>(rows, a, row, panel, K, column, width, done);
    rows_of<E, 1, NV>(rows, a, row, panel, K, column, width, done);
}
template <class E>
void multiply(int vectors, int rows, const E *a, int64_t row, const E *panel, int64_t K, const Column<Sum<E>> *column, int64_t width) {
    switch (vectors) {
        case 1: return multiply<E, 1>(rows, a, row, panel, K, column, width);
        case 2: return multiply<E, 2>(rows, a, row, panel, K, column, width);
        case 3: return multiply<E, 3>(rows, a, row, panel, K, column, width);
        default: return multiply<E, 4>(rows, a, row, panel, K, column, width);
    }
}

// The sum over n of outer products, A^T B, with A (N, M) and B (N, K): what the weights' gradients are. It is added to what
// is there, or put there. Both are packed in blocks of rows that stay near.
template <class E, int MR, int NV>
inline void outer(const E *a, int64_t row, const E *panel, int64_t n, Sum<E> *to, int64_t width, int64_t columns, bool add) {
    typedef Sum<E> T;
    Vec<T> sum[MR][NV] = {};
    tile<E, MR, NV, true>(a, row, panel, n, sum);
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            T *at = to + m * width + v * LANES<T>;
            const int64_t there = std::min<int64_t>(LANES<T>, columns - v * LANES<T>);
            store_some<T>(at, add ? load_some<T>(at, there) + sum[m][v] : sum[m][v], there);
        }
}

// MR rows of it.
template <class E, int MR>
inline void outer(int vectors, const E *a, int64_t row, const E *panel, int64_t n, Sum<E> *to, int64_t width, int64_t columns, bool add) {
    switch (vectors) {
        case 1: return outer<E, MR, 1>(a, row, panel, n, to, width, columns, add);
        case 2: return outer<E, MR, 2>(a, row, panel, n, to, width, columns, add);
        default: return outer<E, MR, 3>(a, row, panel, n, to, width, columns, add);
    }
}

// The rows [begin, end) of it; b(n) is where row n of B lies.
template <class E, class F>
void outer_products(const Sum<E> *a, int64_t a_row, const F &b, int64_t N, int64_t K, Sum<E> *to, int64_t begin, int64_t end, bool add) {
    typedef Sum<E> T;
    constexpr int L = LANES<T>, WIDEST = 3, most[] = ROWS, MR = most[WIDEST - 1], S = SPAN<E>;
    constexpr int64_t BLOCK = 256, GROUP = 2 * MR;  // rows of A^T, which lie in one line or two of the cache
    if (N <= 4) {  // as many passes over what is made as products; nothing is read so often that packing would pay
        for (int64_t m = begin; m < end; m++)
            for (int64_t j = 0; j < K; j += L) {
                const int64_t there = std::min<int64_t>(L, K - j);
                Vec<T> sum = add ? load_some<T>(to + m * K + j, there) : Vec<T>{};
                for (int64_t n = 0; n < N; n++) sum += a[n * a_row + m] * load_some<T>(b(n) + j, there);
                store_some<T>(to + m * K + j, sum, there);
            }
        return;
    }
    const int64_t vectors = (K + L - 1) / L, longest = length<E>(std::min(BLOCK, N));
    Values<E> memory(vectors * longest * L);
    E *packed = memory.data, rows[BLOCK / S * GROUP];
    for (int64_t i = 0; i < N; i += BLOCK, add = true) {
        const int64_t n = std::min(BLOCK, N - i), depth = length<E>(n);
        for (int64_t k = 0; k < depth; k++) {
            const T *from = b(i + k * S), *second = S * k + S - 1 < n ? b(i + k * S + S - 1) : nullptr;
            for (int64_t v = 0; v < vectors; v++) {
                const int64_t panel = v / WIDEST * WIDEST, wide = std::min<int64_t>(WIDEST, vectors - panel);
                const Vec<T> other = S > 1 && second ? load_some<T>(second + v * L, K - v * L) : Vec<T>{};
                store<E>(packed + (panel * longest + k * wide + v % WIDEST) * L, join<E>(load_some<T>(from + v * L, K - v * L), other));
            }
        }
        for (int64_t group = begin; group < end; group += GROUP) {
            const int64_t wide = std::min(GROUP, end - group);
            for (int64_t k = 0; k < depth; k++) {
                const T *from = a + (i + k * S) * a_row + group;
                if constexpr (S == 1) {
                    for (int64_t m = 0; m < wide; m++) rows[k * GROUP + m] = from[m];
                } else {
                    static_assert(GROUP == L);
                    const Vec<T> other = S * k + 1 < n ? load_some<T>(from + a_row, wide) : Vec<T>{};
                    store<E>(rows + k * GROUP, join<E>(load_some<T>(from, wide), other));
                    __builtin_prefetch(from + a_row + GROUP);
                }
                __builtin_prefetch(from + GROUP);
            }
            for (int64_t v = 0; v < vectors; v += WIDEST) {
                const int beside = int(std::min<int64_t>(WIDEST, vectors - v));
                const E *panel = packed + v * longest * L;
                int64_t m = 0;
                for (; m + MR <= wide; m += MR)
                    outer<E, MR>(beside, rows + m, GROUP, panel, depth, to + (group + m) * K + v * L, K, K - v * L, add);
                for (; m < wide; m++)
                    outer<E, 1>(beside, rows + m, GROUP, panel, depth, to + (group + m) * K + v * L, K, K - v * L, add);
            }
        }
    }
}

// LANES x LANES values, transposed in registers: column vectors of rows that are `row` apart.
template <class T> inline void transpose(const T *from, int64_t row, T *to, int64_t step) {
    constexpr int L = LANES<T>;
#ifdef __clang__  // has another builtin for shuffles, with other rules
    for (int i = 0; i < L; i++)
        for (int k = 0; k < L; k++) to[k * step + i] = from[i * row + k];
#else
    Vec<T> a[L], b[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) a[i] = load<T>(from + i * row);
    // log2(L) rounds: rows i and i + L/2 are interleaved; after the last, a[i] is column i.
    Ints<T> low, high;
    for (int i = 0; i < L; i++) low[i] = i / 2 + (i % 2) * L, high[i] = L / 2 + i / 2 + (i % 2) * L;
#pragma GCC unroll 4
    for (int round = 1; round < L; round *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < L / 2; i++) {
            b[2 * i] = __builtin_shuffle(a[i], a[i + L / 2], low);
            b[2 * i + 1] = __builtin_shuffle(a[i], a[i + L / 2], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < L; i++) a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) store<T>(to + i * step, a[i]);
#endif
}

// A vector of columns, of which `there` are some gate's units from `unit` on; the others are zeros.
template <class T>
void pack_column(const Product &product, const Run &run, const T *weight, int64_t ld, int64_t K, int64_t unit, int gate, int64_t there, T *to, int64_t step) {
    constexpr int L = LANES<T>;
    const bool hr = product.weight >= 2, transposed = product.weight == 0 || product.weight == 2;
    if (there <= 0) {
        for (int64_t k = 0; k < K; k++) std::fill(to + k * step, to + k * step + L, T(0));
    } else if (transposed) {  // rows of the weights become columns
        const T *from = weight + ((hr ? 0 : product.blocks[gate] * run.H) + unit) * ld;
        int64_t k = 0;
        if (there == L)
            for (; k + L <= K; k += L) transpose<T>(from + k, ld, to + k * step, step);
        for (; k < K; k++)
            for (int j = 0; j < L; j++) to[k * step + j] = j < there ? from[j * ld + k] : T(0);
    } else {
        for (int64_t k = 0; k < K; k++) {
            const T *from = hr ? weight + k * ld : weight + (product.blocks[k / run.H] * run.H + k % run.H) * ld;
            std::memcpy(to + k * step, from + unit, there * sizeof(T));
            std::fill(to + k * step + there, to + k * step + L, T(0));
        }
    }
}

template <class E> Panels<E> pack(const Product &product, const Run &run, Values<E> &memory) {
    typedef Sum<E> T;
    constexpr int L = LANES<T>;
    const bool hr = product.weight >= 2;
    const T *weight = static_cast<const T *>(hr ? run.weight_hr : run.weight_hh);
    const int64_t N = product.weight == 0 || product.weight == 3 ? run.H : run.P;
    const int64_t K = depth(product, run);
    const int64_t ld = hr ? run.H : run.P;
    Panels<E> panels(int(product.to.size()), length<E>(K), (N + L - 1) / L);
    panels.data = memory.take(panels.blocks * panels.units * panels.gates * panels.K * L);
    Values<T> column(SPAN<E> > 1 ? (K + 1) * L : 0);
    for (int64_t block = 0; block < panels.blocks; block++)
        for (int part = 0; part < panels.parts(); part++) {
            const int gates = panels.first(part + 1) - panels.first(part), wide = gates * panels.units;
            for (int v = 0; v < wide; v++) {
                const int64_t unit = (block * panels.units + v / gates) * L, there = std::min<int64_t>(L, N - unit);
                const int gate = panels.first(part) + v % gates;
                E *to = panels.panel(block, part) + v * L;
                if constexpr (SPAN<E> == 1) {
                    pack_column<T>(product, run, weight, ld, K, unit, gate, there, to, int64_t(wide) * L);
                } else {
                    pack_column<T>(product, run, weight, ld, K, unit, gate, there, column.data, L);
                    store<T>(column.data + K * L, Vec<T>{});
                    for (int64_t k = 0; k < panels.K; k++)
                        store<E>(to + k * wide * L, join<E>(load<T>(column.data + 2 * k * L), load<T>(column.data + (2 * k + 1) * L)));
                }
            }
        }
    return panels;
}

// --- few rows, for which packing would cost more than the product: the weights are read as they lie ------------------------

// The sums of L vectors' lanes, as one vector: neighbours are added, four times (of 16 lanes), and stay in order.
template <class T> inline Vec<T> sums_of_lanes(Vec<T> (&a)[LANES<T>]) {
    constexpr int L = LANES<T>;
#ifdef __clang__
    Vec<T> sum = {};
    for (int j = 0; j < L; j++)
        for (int l = 0; l < L; l++) sum[j] += a[j][l];
    return sum;
#else
    Ints<T> even, odd;
    for (int i = 0; i < L; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
#pragma GCC unroll 4
    for (int n = L; n > 1; n /= 2)
#pragma GCC unroll 8
        for (int j = 0; j < n / 2; j++)
            a[j] = __builtin_shuffle(a[2 * j], a[2 * j + 1], even) + __builtin_shuffle(a[2 * j], a[2 * j + 1], odd);
    return a[0];
#endif
}

// x . w_j for `there` (1 to L) rows of w, ld apart.
template <class T> inline Vec<T> dots(const T *x, const T *w, int64_t ld, int64_t K, int64_t there) {
    constexpr int L = LANES<T>;
    Vec<T> sum[L] = {};
    const T *row[L];
    for (int j = 0; j < L; j++) row[j] = w + std::min<int64_t>(j, there - 1) * ld;
    int64_t k = 0;
    for (; k + L <= K; k += L) {
        const Vec<T> v = load<T>(x + k);
#pragma GCC unroll 16
        for (int j = 0; j < L; j++) sum[j] += v * load<T>(row[j] + k);
    }
    for (; k < K; k++)
        for (int j = 0; j < L; j++) sum[j][0] += x[k] * row[j][k];
    return sums_of_lanes<T>(sum);
}

// Adds `there` columns of x w to `sum`, for rows of w that are ld apart: long pieces of a row at once, as they lie.
constexpr int PIECE = 8;  // vectors
template <class T> inline void combine(const T *x, const T *w, int64_t ld, int64_t K, int64_t there, T *sum) {
    constexpr int L = LANES<T>;
    int64_t j = 0;
    for (; j + PIECE * L <= there; j += PIECE * L) {
        Vec<T> s[PIECE];
#pragma GCC unroll 8
        for (int v = 0; v < PIECE; v++) s[v] = load<T>(sum + j + v * L);
        for (int64_t k = 0; k < K; k++) {
            const Vec<T> a = all<T>(x[k]);
#pragma GCC unroll 8
            for (int v = 0; v < PIECE; v++) s[v] += a * load<T>(w + k * ld + j + v * L);
        }
#pragma GCC unroll 8
        for (int v = 0; v < PIECE; v++) store<T>(sum + j + v * L, s[v]);
    }
    for (; j < there; j += L) {
        const int64_t some = std::min<int64_t>(L, there - j);
        Vec<T> s = load_some<T>(sum + j, some);
        for (int64_t k = 0; k < K; k++) s += x[k] * load_some<T>(w + k * ld + j, some);
        store_some<T>(sum + j, s, some);
    }
}

// Adds `there` columns of a product of the row x, from unit `unit` of a gate on, to `sum`.
template <class T>
inline void unpacked(const Product &product, const Run &run, const T *x, int gate, int64_t unit, int64_t there, T *sum) {
    constexpr int L = LANES<T>;
    const bool hr = product.weight >= 2;
    const T *w = static_cast<const T *>(hr ? run.weight_hr : run.weight_hh) + (product.weight % 2 ? unit : 0);
    const int64_t ld = hr ? run.H : run.P;
    if (product.weight == 3) return combine<T>(x, w, ld, run.P, there, sum);
    if (product.weight == 1) {
        for (size_t i = 0; i < product.blocks.size(); i++)
            combine<T>(x + i * run.H, w + product.blocks[i] * run.H * ld, ld, run.H, there, sum);
        return;
    }
    w += ((hr ? 0 : product.blocks[gate] * run.H) + unit) * ld;
    for (int64_t j = 0; j < there; j += L) {
        const int64_t some = std::min<int64_t>(L, there - j);
        store_some<T>(sum + j, load_some<T>(sum + j, some) + dots<T>(x, w + j * ld, ld, depth(product, run), some), some);
    }
}

// A linear map: w, (M, K) or, `transposed`, (K, M), packed unless it is to meet few rows.
template <class E> struct Linear {
    typedef Sum<E> T;
    Product product;
    Run as;  // w is packed as weight_hr is, which is (P, H)
    const int64_t K, M;
    Values<E> memory;
    Panels<E> panels{1, 0, 0};

    Linear(const void *w, int64_t K, int64_t M, bool transposed, bool packed)
        : product{transposed ? 3 : 2, 0, {}, {0}, {-1}, {}}, K(K), M(M) {
        as.H = transposed ? M : K, as.P = transposed ? K : M, as.weight_hr = w;
        if (packed) panels = pack<E>(product, as, memory);
    }

    // to (n, M) = x w^T (or x w) + bias; blocks of rows stay near while the panels pass by.
    void run(const T *x, int64_t row, const T *bias, T *to, int64_t n) const {
        constexpr int L = LANES<T>;
        constexpr int64_t BLOCK = 64;
        if (!panels.data) {
            for (int64_t r = 0; r < n; r++) {
                if (bias)
                    std::memcpy(to + r * M, bias, M * sizeof(T));
                else
                    std::fill(to + r * M, to + (r + 1) * M, T(0));
                unpacked<T>(product, as, x + r * row, 0, 0, M, to + r * M);
            }
            return;
        }
        Values<E> memory;
        T edge[BLOCK * WIDE * L], padded[WIDE * L];
        for (int64_t r = 0; r < n; r += BLOCK) {
            const int rows = int(std::min(BLOCK, n - r));
            int64_t apart = row;
            const E *a = elements<E>(x + r * row, rows, K, apart, memory);
            for (int64_t block = 0; block < panels.blocks; block++) {
                const int64_t first = block * panels.units * L, there = std::min<int64_t>(panels.units * L, M - first);
                const bool whole = there == panels.units * L;
                if (bias && !whole) {
                    std::fill(padded, padded + panels.units * L, T(0));
                    std::memcpy(padded, bias + first, there * sizeof(T));
                }
                Column<T> column[WIDE];
                for (int v = 0; v < panels.units; v++) {
                    const T *from = !bias ? nullptr : whole ? bias + first + v * L : padded + v * L;
                    column[v] = {whole ? to + r * M + first + v * L : edge + v * L, from, nullptr, 0, 0};
                }
                const int64_t width = whole ? M : panels.units * L;
                multiply<E>(panels.units, rows, a, apart, panels.panel(block, 0), panels.K, column, width);
                for (int m = 0; m < rows && !whole; m++)
                    std::memcpy(to + (r + m) * M + first, edge + m * panels.units * L, there * sizeof(T));
            }
        }
    }
};

}  // namespace
}  // namespace gatewise
