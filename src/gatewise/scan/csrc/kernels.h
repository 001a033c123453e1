// The kernels, written once over GCC's vector extensions, which clang has too. Included by one file an instruction set,
// which defines BYTES, the width of a vector, ROWS, how many rows of a product registers hold for 1 to 4 vectors of
// columns, and SCAN, OUTER and LINEAR, the names.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

namespace gatewise {
namespace {

template <class T> struct Of;
template <> struct Of<float> {
    typedef float V __attribute__((vector_size(BYTES)));
    typedef float U __attribute__((vector_size(BYTES), aligned(4), may_alias));
    typedef int32_t I __attribute__((vector_size(BYTES)));
    typedef int32_t Int;
    static constexpr float log2e = 1.44269504088896341f, ln2_hi = 0.693145751953125f, ln2_lo = 1.42860682030941723e-6f;
    static constexpr float low = -110.f, high = 90.f, magic = 12582912.f;
    static constexpr int terms = 8, mantissa = 23, bias = 127;
};
template <> struct Of<double> {
    typedef double V __attribute__((vector_size(BYTES)));
    typedef double U __attribute__((vector_size(BYTES), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(BYTES)));
    typedef int64_t Int;
    static constexpr double log2e = 1.4426950408889634074, ln2_hi = 6.93147180369123816490e-01,
                            ln2_lo = 1.90821492927058770002e-10;
    static constexpr double low = -760., high = 720., magic = 6755399441055744.;
    static constexpr int terms = 14, mantissa = 52, bias = 1023;
};
template <class T> using Vec = typename Of<T>::V;
template <class T> using Ints = typename Of<T>::I;
template <class T> constexpr int LANES = BYTES / sizeof(T);

template <class T> inline Vec<T> load(const T *p) { return *reinterpret_cast<const typename Of<T>::U *>(p); }
template <class T> inline void store(T *p, Vec<T> v) { *reinterpret_cast<typename Of<T>::U *>(p) = v; }
template <class T> inline Vec<T> all(T x) { return x - Vec<T>{}; }
template <class T> inline Vec<T> pick(Ints<T> c, Vec<T> a, Vec<T> b) {
    return (Vec<T>)((c & (Ints<T>)a) | (~c & (Ints<T>)b));
}
template <class T> inline Vec<T> absolute(Vec<T> x) { return (Vec<T>)((Ints<T>)x & std::numeric_limits<typename Of<T>::Int>::max()); }

// --- exp, tanh and sigmoid --------------------------------------------------------------------------

// exp(r) - 1 - r as a Taylor series of so many terms.
template <class T, int TERMS> inline Vec<T> series(Vec<T> r) {
    double factorial = 1;
    T terms[TERMS];
    for (int k = 2; k < TERMS; k++) terms[k] = T(1 / (factorial *= k));
    Vec<T> p = all<T>(terms[TERMS - 1]);
    for (int k = TERMS - 2; k >= 2; k--) p = p * r + terms[k];
    return r * r * p;
}
// exp(x) = 2^n exp(r), |r| <= ln(2) / 2: gives exp(r) - 1 - r, to below half an ulp; n is a number. 2^n may lie outside
// the exponents' range, so exp applies it in two halves.
template <class T> inline Vec<T> reduced(Vec<T> x, Vec<T> &n, Vec<T> &r) {
    typedef Of<T> C;
    n = (x * C::log2e + C::magic) - C::magic;
    r = x - n * C::ln2_hi - n * C::ln2_lo;
    return series<T, C::terms>(r);
}
template <class T> inline Vec<T> power_of_two(Ints<T> n) { return (Vec<T>)((n + Of<T>::bias) << Of<T>::mantissa); }
template <class T> inline Vec<T> exponential(Vec<T> x) {
    typedef Of<T> C;
    Vec<T> bounded = pick<T>(x < C::low, all<T>(C::low), x), n, r;
    bounded = pick<T>(bounded > C::high, all<T>(C::high), bounded);
    Vec<T> p = reduced<T>(bounded, n, r);
    p = (p + r) + T(1);
    Ints<T> i = __builtin_convertvector(n, Ints<T>), half = i >> 1;
    p = p * power_of_two<T>(half) * power_of_two<T>(i - half);
    return pick<T>(x != x, x, p);
}
template <class T> inline Vec<T> exponential_minus_one(Vec<T> x) {  // for |x| <= 60
    Vec<T> n, r, p = reduced<T>(x, n, r), s = power_of_two<T>(__builtin_convertvector(n, Ints<T>));
    return s * (p + r) + (s - T(1));
}
template <class T> inline Vec<T> tangent(Vec<T> x) {
    Vec<T> a = absolute<T>(x), two = 2 * pick<T>(a < T(20), a, all<T>(20));
    // With e = exp(2a) - 1 it is 1 - 2 / (e + 2). Where a is small that would cancel, so there n = 0, r = 2a, and it is
    // a + (2p - r r - r p) / (2 (e + 2)), of which a small part alone is rounded.
    typedef Of<T> C;
    Ints<T> small = a < T(0.55);
    Vec<T> n = pick<T>(small, Vec<T>{}, (two * C::log2e + C::magic) - C::magic);
    Vec<T> r = two - n * C::ln2_hi - n * C::ln2_lo, p = series<T, C::terms + 5>(r);
    Vec<T> s = power_of_two<T>(__builtin_convertvector(n, Ints<T>)), e = s * (p + r) + (s - T(1));
    Vec<T> y = pick<T>(small, p - T(0.5) * r * (r + p), all<T>(-2)) / (e + T(2));
    y = pick<T>(small, a, all<T>(1)) + y;
    Ints<T> sign = (Ints<T>)x & std::numeric_limits<typename Of<T>::Int>::min();
    return pick<T>(x != x, x, (Vec<T>)((Ints<T>)y | sign));
}
template <class T> inline Vec<T> logistic(Vec<T> x) {
    Vec<T> e = exponential<T>(-absolute<T>(x));
    Vec<T> y = pick<T>(x < T(0), e, all<T>(1)) / (e + T(1));
    return pick<T>(x != x, x, y);
}
template <class T> inline Vec<T> elu(Vec<T> x, T alpha) {
    Vec<T> bounded = pick<T>(x > T(0), all<T>(0), pick<T>(x < T(-60), all<T>(-60), x));
    return pick<T>(x != x, x, pick<T>(x > T(0), x, alpha * exponential_minus_one<T>(bounded)));
}
template <class T> inline Vec<T> truth(Ints<T> c) { return (Vec<T>)(c & (Ints<T>)all<T>(1)); }

// --- the tape ---------------------------------------------------------------------------------------

template <class T, class F> inline void each(T *to, const T *a, int n, F f) {
    for (int i = 0; i < n; i += LANES<T>) store<T>(to + i, f(load<T>(a + i)));
}
template <class T, class F> inline void each(T *to, const T *a, const T *b, int n, F f) {
    for (int i = 0; i < n; i += LANES<T>) store<T>(to + i, f(load<T>(a + i), load<T>(b + i)));
}
template <class T> void power(T *to, const T *a, const T *b, int n) {
    bool same = true;
    for (int i = 1; i < n; i++) same &= b[i] == b[0];
    typedef Vec<T> V;
    if (same && b[0] == T(2)) return each<T>(to, a, n, [](V x) { return x * x; });
    if (same && b[0] == T(1)) return each<T>(to, a, n, [](V x) { return x; });
    if (same && b[0] == T(-1)) return each<T>(to, a, n, [](V x) { return T(1) / x; });
    if (same && b[0] == T(3)) return each<T>(to, a, n, [](V x) { return x * x * x; });
    for (int i = 0; i < n; i++) to[i] = std::pow(a[i], b[i]);
}

template <class T> void compute(const Instruction &k, T *const slot, int n) {
    typedef Vec<T> V;
    T *to = slot + int64_t(k.to) * n;
    const T *a = slot + int64_t(k.a) * n, *b = slot + int64_t(k.b) * n, *c = slot + int64_t(k.c) * n;
    const T p = T(k.p), q = T(k.q);
    switch (k.op) {
        case ADD: return each<T>(to, a, b, n, [](V x, V y) { return x + y; });
        case SUB: return each<T>(to, a, b, n, [](V x, V y) { return x - y; });
        case MUL: return each<T>(to, a, b, n, [](V x, V y) { return x * y; });
        case DIV: return each<T>(to, a, b, n, [](V x, V y) { return x / y; });
        case NEG: return each<T>(to, a, n, [](V x) { return -x; });
        case POW: return power<T>(to, a, b, n);
        case SIGMOID: return each<T>(to, a, n, [](V x) { return logistic<T>(x); });
        case TANH: return each<T>(to, a, n, [](V x) { return tangent<T>(x); });
        case RELU: return each<T>(to, a, n, [](V x) { return pick<T>(x <= T(0), V{}, x); });
        case EXP: return each<T>(to, a, n, [](V x) { return exponential<T>(x); });
        case ABS: return each<T>(to, a, n, [](V x) { return absolute<T>(x); });
        case ELU: return each<T>(to, a, n, [p](V x) { return elu<T>(x, p); });
        case LEAKY_RELU: return each<T>(to, a, n, [p](V x) { return pick<T>(x > T(0), x, x * p); });
        case SOFTSIGN: return each<T>(to, a, n, [](V x) { return x / (absolute<T>(x) + T(1)); });
        case HARDSIGMOID: return each<T>(to, a, n, [](V x) {
            V y = x + T(3);
            y = pick<T>(y < T(0), V{}, y);
            return pick<T>(y > T(6), all<T>(6), y) / T(6);
        });
        case CLAMP: return each<T>(to, a, n, [p, q](V x) {
            x = pick<T>(x < p, all<T>(p), x);
            return pick<T>(x > q, all<T>(q), x);
        });
        case MINIMUM: return each<T>(to, a, b, n, [](V x, V y) { return pick<T>((x < y) | (x != x), x, y); });
        case MAXIMUM: return each<T>(to, a, b, n, [](V x, V y) { return pick<T>((x > y) | (x != x), x, y); });
        case LT: return each<T>(to, a, b, n, [](V x, V y) { return truth<T>(x < y); });
        case LE: return each<T>(to, a, b, n, [](V x, V y) { return truth<T>(x <= y); });
        case GT: return each<T>(to, a, b, n, [](V x, V y) { return truth<T>(x > y); });
        case GE: return each<T>(to, a, b, n, [](V x, V y) { return truth<T>(x >= y); });
        case COPY: return each<T>(to, a, n, [](V x) { return x; });
        case WHERE:
            for (int i = 0; i < n; i += LANES<T>)
                store<T>(to + i, pick<T>(load<T>(a + i) != T(0), load<T>(b + i), load<T>(c + i)));
            return;
        case LOG:
            for (int i = 0; i < n; i++) to[i] = std::log(a[i]);
            return;
        case SQRT:
            for (int i = 0; i < n; i++) to[i] = std::sqrt(a[i]);
            return;
        case SOFTPLUS:
            for (int i = 0; i < n; i++) to[i] = a[i] * p > q ? a[i] : std::log1p(std::exp(a[i] * p)) / p;
            return;
    }
}

// --- products ---------------------------------------------------------------------------------------

// The weights of one product, in panels: `wide` vectors of columns side by side for each k. The columns' vectors are in
// the order of units first, gates second, so that a tile of units finds all its gates together.
template <class T> struct Panels {
    int wide, gates;
    int64_t K, vectors;
    T *data;
};

template <class T, int MR, int NV>
inline void tile(const T *a, int64_t row, const T *panel, int64_t K, Vec<T> (&sum)[MR][NV]) {
    for (int64_t k = 0; k < K; k++) {
        Vec<T> w[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) w[v] = load<T>(panel + (k * NV + v) * LANES<T>);
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            const Vec<T> x = all<T>(a[m * row + k]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[m][v] += x * w[v];
        }
    }
}

// One row: a single chain of additions would wait for itself, so four run side by side.
template <class T, int NV> inline void tile_of_one(const T *a, const T *panel, int64_t K, Vec<T> (&sum)[1][NV]) {
    constexpr int CHAINS = 4;
    Vec<T> part[CHAINS][NV] = {};
    int64_t k = 0;
    for (; k + CHAINS <= K; k += CHAINS) {
#pragma GCC unroll 4
        for (int j = 0; j < CHAINS; j++) {
            const Vec<T> x = all<T>(a[k + j]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) part[j][v] += x * load<T>(panel + ((k + j) * NV + v) * LANES<T>);
        }
    }
    for (; k < K; k++)
        for (int v = 0; v < NV; v++) part[0][v] += a[k] * load<T>(panel + (k * NV + v) * LANES<T>);
    for (int v = 0; v < NV; v++) sum[0][v] += (part[0][v] + part[1][v]) + (part[2][v] + part[3][v]);
}

// `rows` rows times one panel; to[v] is where the column vector v of the tile lies, rows `width` apart.
template <class T, int MR, int NV>
inline int rows_of(int rows, const T *a, int64_t row, const T *panel, int64_t K, T *const *to, const T *const *bias, int width, int done) {
    for (; done + MR <= rows; done += MR) {
        Vec<T> sum[MR][NV];
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[m][v] = bias[v] ? load<T>(bias[v]) : Vec<T>{};
        if constexpr (MR == 1)
            tile_of_one<T, NV>(a + done * row, panel, K, sum);
        else
            tile<T, MR, NV>(a + done * row, row, panel, K, sum);
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++)
                if (to[v]) store<T>(to[v] + int64_t(done + m) * width, sum[m][v]);
    }
    return done;
}
template <class T, int NV>
void multiply(int rows, const T *a, int64_t row, const T *panel, int64_t K, T *const *to, const T *const *bias, int width) {
    constexpr int most[] = ROWS;
    int done = rows_of<T, most[NV - 1], NV>(rows, a, row, panel, K, to, bias, width, 0);
    if constexpr (most[NV - 1] > 4) done = rows_of<T, 4, NV>(rows, a, row, panel, K, to, bias, width, done);
    done = rows_of<T, 2, NV>(rows, a, row, panel, K, to, bias, width, done);
    rows_of<T, 1, NV>(rows, a, row, panel, K, to, bias, width, done);
}

template <class T> struct Aligned {
    std::unique_ptr<char[]> memory;
    T *data = nullptr;
    int64_t length = 0;
    T *take(int64_t n) {
        if (n > length) {
            memory.reset(new char[n * sizeof(T) + 64]());  // zeros: what was there may be slow to compute with
            data = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(memory.get()) + 63) & ~uintptr_t(63));
            length = n;
        }
        return data;
    }
};

// The sum over n of outer products, to += A^T B, with A (N, M) and B (N, K): what the weights' gradients are. B is packed in
// blocks of rows that stay near; a row of A is read as it lies.
template <class T, int MR, int NV>
inline void outer(const T *a, int64_t row, const T *panel, int64_t n, T *to, int64_t width, int64_t columns) {
    Vec<T> sum[MR][NV] = {};
    for (int64_t i = 0; i < n; i++) {
        Vec<T> w[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) w[v] = load<T>(panel + (i * NV + v) * LANES<T>);
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            const Vec<T> x = all<T>(a[i * row + m]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[m][v] += x * w[v];
        }
    }
    for (int m = 0; m < MR; m++)
        for (int v = 0; v < NV; v++) {
            T *at = to + m * width + v * LANES<T>;
            const int64_t there = std::min<int64_t>(LANES<T>, columns - v * LANES<T>);
            if (there == LANES<T>)
                store<T>(at, load<T>(at) + sum[m][v]);
            else
                for (int64_t j = 0; j < there; j++) at[j] += sum[m][v][j];
        }
}

template <class T>
void outer_products(const T *a, int64_t a_row, const T *b, int64_t b_row, int64_t N, int64_t K, T *to, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>, NV = 3, most[] = ROWS, MR = most[NV - 1];
    constexpr int64_t BLOCK = 256;
    const int64_t panels = (K + NV * L - 1) / (NV * L);
    Aligned<T> memory;
    T *packed = memory.take(panels * BLOCK * NV * L);
    for (int64_t i = 0; i < N; i += BLOCK) {
        const int64_t n = std::min(BLOCK, N - i);
        for (int64_t p = 0; p < panels; p++)
            for (int64_t k = 0; k < n; k++) {
                T *row = packed + (p * BLOCK + k) * NV * L;
                const int64_t first = p * NV * L, there = std::min<int64_t>(NV * L, K - first);
                std::memcpy(row, b + (i + k) * b_row + first, there * sizeof(T));
                if (there < NV * L) std::memset(row + there, 0, (NV * L - there) * sizeof(T));
            }
        for (int64_t p = 0; p < panels; p++) {
            const T *panel = packed + p * BLOCK * NV * L;
            int64_t m = begin;
            for (; m + MR <= end; m += MR)
                outer<T, MR, NV>(a + i * a_row + m, a_row, panel, n, to + m * K + p * NV * L, K, K - p * NV * L);
            for (; m < end; m++)
                outer<T, 1, NV>(a + i * a_row + m, a_row, panel, n, to + m * K + p * NV * L, K, K - p * NV * L);
        }
    }
}

// LANES x LANES values, transposed in registers: column vectors of rows that are `row` apart.
template <class T> inline void transpose(const T *from, int64_t row, T *to, int64_t step) {
    constexpr int L = LANES<T>;
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
}

int wide_of(int) { return 3; }

template <class T> Panels<T> pack(const Product &product, const Run &run, Aligned<T> &memory) {
    constexpr int L = LANES<T>;
    const int G = int(product.to.size());
    const bool transposed = product.weight == 0 || product.weight == 2;  // rows of the weights become columns
    const bool hr = product.weight >= 2;
    const T *weight = static_cast<const T *>(hr ? run.weight_hr : run.weight_hh);
    const int64_t N = product.weight == 0 || product.weight == 3 ? run.H : run.P;
    const int64_t K = product.weight == 0 ? run.P : product.weight == 1 ? int64_t(product.blocks.size()) * run.H
                      : product.weight == 2 ? run.H : run.P;
    const int64_t ld = hr ? run.H : run.P, units = (N + L - 1) / L;
    const int wide = int(std::min<int64_t>(wide_of(G), units * G));
    Panels<T> panels{wide, G, K, (units * G + wide - 1) / wide * wide, nullptr};
    panels.data = memory.take(panels.vectors * K * L);
    for (int64_t i = 0; i < panels.vectors; i++) {
        const int64_t unit = i / G * L;
        T *to = panels.data + (i / wide * K * wide + i % wide) * L;
        const int64_t step = int64_t(wide) * L;
        if (i >= units * G) {
            for (int64_t k = 0; k < K; k++) std::fill(to + k * step, to + k * step + L, T(0));
        } else if (transposed) {
            const int64_t block = hr ? 0 : product.blocks[i % G] * run.H;
            const T *from = weight + (block + unit) * ld;
            int64_t k = 0;
            if (unit + L <= N)
                for (; k + L <= K; k += L) transpose<T>(from + k, ld, to + k * step, step);
            for (; k < K; k++)
                for (int j = 0; j < L; j++) to[k * step + j] = unit + j < N ? from[j * ld + k] : T(0);
        } else {
            for (int64_t k = 0; k < K; k++) {
                const T *from = hr ? weight + k * ld : weight + (product.blocks[k / run.H] * run.H + k % run.H) * ld;
                const int64_t there = std::min<int64_t>(L, N - unit);
                std::memcpy(to + k * step, from + unit, there * sizeof(T));
                std::fill(to + k * step + there, to + k * step + L, T(0));
            }
        }
    }
    return panels;
}

// --- a scan -----------------------------------------------------------------------------------------

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

    // `there` values and then zeros, `width` in all; pieces are short, and a call of memcpy would cost as much again.
    static void copy(T *to, const T *from, int64_t there, int64_t width) {
        int64_t i = 0;
        for (; i + LANES<T> <= there; i += LANES<T>) store<T>(to + i, load<T>(from + i));
        for (; i < there; i++) to[i] = from[i];
        for (; i < width; i++) to[i] = T(0);
    }

    void tape(const Stage &stage, T *slot, int64_t j, int width, int64_t r, int rows) {
        const int n = rows * width;
        const int64_t there = std::min<int64_t>(width, run.size(stage.size) - j);
        for (const Instruction &k : stage.tape) {
            if (k.op == LOAD) {
                T *to = slot + int64_t(k.to) * n;
                const T *from = at[k.a] + r * row[k.a] + j + int64_t(k.p) * run.size(stage.size);
                for (int m = 0; m < rows; m++, to += width, from += row[k.a]) copy(to, from, there, width);
            } else if (k.op == STORE) {
                const T *from = slot + int64_t(k.a) * n;
                T *to = at[k.to] + r * row[k.to] + j + int64_t(k.p) * run.size(stage.size);
                for (int m = 0; m < rows; m++, from += width, to += row[k.to]) copy(to, from, there, there);
            } else if (k.op == ROW) {
                T *to = slot + int64_t(k.to) * n;
                for (int m = 0; m < rows; m++, to += width) std::fill(to, to + width, row_values[k.a][r + m]);
            } else {
                compute<T>(k, slot, n);
            }
        }
    }

    void products(const Stage &stage, const std::vector<Panels<T>> &weights, T *slot, int64_t j, int width, int64_t r, int rows) {
        constexpr int L = LANES<T>;
        const int n = rows * width;
        const int64_t size = run.size(stage.size);
        for (size_t i = 0; i < stage.products.size(); i++) {
            const Product &product = stage.products[i];
            const Panels<T> &w = weights[i];
            const T *a = at[product.operand] + r * row[product.operand];
            const int64_t first = j / L * w.gates, last = std::min<int64_t>(w.vectors, (j + width) / L * w.gates);
            for (int64_t v = first; v < last; v += w.wide) {
                T *to[4];
                const T *bias[4];
                T padded[4][L];
                for (int q = 0; q < w.wide; q++) {
                    const int64_t unit = (v + q) / w.gates * L;
                    const int g = int((v + q) % w.gates);
                    const bool inside = unit - j < width && unit < (size + L - 1) / L * L;
                    to[q] = inside ? slot + int64_t(product.to[g]) * n + (unit - j) : nullptr;
                    bias[q] = nullptr;
                    if (inside && product.bias[g] >= 0) {
                        const T *b = at[product.bias[g]] + unit;
                        bias[q] = b;
                        if (unit + L > size) {  // the bias ends within the vector
                            std::fill(padded[q], padded[q] + L, T(0));
                            std::memcpy(padded[q], b, (size - unit) * sizeof(T));
                            bias[q] = padded[q];
                        }
                    }
                }
                const T *panel = w.data + v * w.K * L;
                switch (w.wide) {
                    case 1: multiply<T, 1>(rows, a, row[product.operand], panel, w.K, to, bias, width); break;
                    case 2: multiply<T, 2>(rows, a, row[product.operand], panel, w.K, to, bias, width); break;
                    case 3: multiply<T, 3>(rows, a, row[product.operand], panel, w.K, to, bias, width); break;
                    default: multiply<T, 4>(rows, a, row[product.operand], panel, w.K, to, bias, width);
                }
            }
        }
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
            // A tile of products has up to 32 rows, so that a panel is used often while it is near, and units so many
            // that an instruction has some work to do. A tile without takes whole rows, as they lie in memory.
            int rows = int(std::min<int64_t>(B, 32));
            int wide = 1;  // vectors of units; a multiple of what the panels hold
            if (stage.products.empty()) {
                wide = int(std::min<int64_t>(units, 1024 / L));
                rows = int(std::max<int64_t>(1, std::min<int64_t>(B, 1024 / (wide * L))));
            }
            for (bool fits = false; !fits; wide += !fits) {
                fits = true;
                for (const auto &w : panels[i]) fits &= wide * w.gates % w.wide == 0;
            }
            while (rows * wide * L < 256 && wide < units) wide *= 2;
            const int width = wide * L;
            T *slot = slots.take(int64_t(program.slots) * rows * width);
            int filled = 0;
            for (int64_t j = 0; j < size; j += width) {
                for (int64_t r = 0; r < B; r += rows) {
                    const int here = int(std::min<int64_t>(rows, B - r));
                    if (filled != here) constants(slot, here * width), filled = here;
                    products(stage, panels[i], slot, j, width, r, here);
                    tape(stage, slot, j, width, r, here);
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

template <class T> void run_as(const Program &program, const Run &run) {
    std::vector<std::vector<Panels<T>>> panels;
    std::vector<std::unique_ptr<Aligned<T>>> memory;
    double work = 0;
    for (const Stage &stage : program.stages) {
        panels.emplace_back();
        for (const Product &product : stage.products) {
            memory.emplace_back(new Aligned<T>);
            panels.back().push_back(pack<T>(product, run, *memory.back()));
            work += double(panels.back().back().vectors) * LANES<T> * panels.back().back().K;
        }
    }
    // A thread has rows of its own for all steps, so threads wait for each other once. Starting one costs some 20 us.
    int64_t threads = std::min<int64_t>(run.threads, run.B);
    if (work * run.T * run.B < 4e6) threads = 1;
    std::vector<std::thread> others;
    auto part = [&](int64_t k) {
        Scan<T> scan(program, run, panels, run.B * k / threads, run.B * (k + 1) / threads);
        scan.all_steps();
    };
    for (int64_t k = 1; k < threads; k++) others.emplace_back(part, k);
    part(0);
    for (auto &thread : others) thread.join();
}

template <class T> void outer_as(const Outer &o) {
    const T *a = static_cast<const T *>(o.a), *b = static_cast<const T *>(o.b);
    T *to = static_cast<T *>(o.to);
    const int64_t threads = double(o.N) * o.M * o.K < 4e6 ? 1 : std::min<int64_t>(o.threads, (o.M + 7) / 8);
    auto part = [&](int64_t k) {
        const int64_t rows = ((o.M + threads - 1) / threads + 7) / 8 * 8;
        outer_products<T>(a, o.a_row, b, o.b_row, o.N, o.K, to, std::min(o.M, rows * k), std::min(o.M, rows * (k + 1)));
    };
    std::vector<std::thread> others;
    for (int64_t k = 1; k < threads; k++) others.emplace_back(part, k);
    part(0);
    for (auto &thread : others) thread.join();
}

// The rows [begin, end) of a linear map: blocks of rows that stay near, while the panels pass by.
template <class T> void linear_rows(const Linear &l, const Panels<T> &w, int64_t begin, int64_t end) {
    constexpr int L = LANES<T>;
    constexpr int64_t BLOCK = 64;
    const T *x = static_cast<const T *>(l.x), *bias = static_cast<const T *>(l.bias);
    T *to = static_cast<T *>(l.to);
    T edge[BLOCK * 4 * L], padded[4 * L];
    for (int64_t r = begin; r < end; r += BLOCK) {
        const int rows = int(std::min(BLOCK, end - r));
        for (int64_t v = 0; v < w.vectors && v * L < l.M; v += w.wide) {
            const int64_t first = v * L, there = std::min<int64_t>(w.wide * L, l.M - first);
            const bool whole = there == w.wide * L;
            T *at[4];
            const T *biases[4];
            if (bias && !whole) {
                std::fill(padded, padded + w.wide * L, T(0));
                std::memcpy(padded, bias + first, there * sizeof(T));
            }
            for (int q = 0; q < w.wide; q++) {
                at[q] = whole ? to + r * l.M + first + q * L : edge + q * L;
                biases[q] = !bias ? nullptr : whole ? bias + first + q * L : padded + q * L;
            }
            const int width = whole ? int(l.M) : w.wide * L;
            const T *a = x + r * l.row, *panel = w.data + v * w.K * L;
            switch (w.wide) {
                case 1: multiply<T, 1>(rows, a, l.row, panel, w.K, at, biases, width); break;
                case 2: multiply<T, 2>(rows, a, l.row, panel, w.K, at, biases, width); break;
                default: multiply<T, 3>(rows, a, l.row, panel, w.K, at, biases, width);
            }
            for (int m = 0; m < rows && !whole; m++)
                std::memcpy(to + (r + m) * l.M + first, edge + m * width, there * sizeof(T));
        }
    }
}

template <class T> void linear_as(const Linear &l) {
    Run run;  // as a product with weight_hr is: (P, H) transposed, or as it lies
    run.H = l.backwards ? l.M : l.K;
    run.P = l.backwards ? l.K : l.M;
    run.weight_hr = l.w;
    Product product{l.backwards ? 3 : 2, 0, {}, {0}, {-1}};
    Aligned<T> memory;
    const Panels<T> panels = pack<T>(product, run, memory);
    const int64_t threads = double(l.N) * l.M * l.K < 4e6 ? 1 : std::min<int64_t>(l.threads, (l.N + 63) / 64);
    std::vector<std::thread> others;
    auto part = [&](int64_t k) { linear_rows<T>(l, panels, l.N * k / threads, l.N * (k + 1) / threads); };
    for (int64_t k = 1; k < threads; k++) others.emplace_back(part, k);
    part(0);
    for (auto &thread : others) thread.join();
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
