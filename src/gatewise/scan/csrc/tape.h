// The instructions of a tape, on tiles of rows x units.
#pragma once
#include "program.h"
#include "vectors.h"

namespace gatewise {
namespace {

// A tile of an operand: rows of values, so far apart.
template <class T> struct Tile {
    T *data;
    int64_t row;
};

template <class T, class F> inline void every(int rows, int width, F f) {
    if (width == LANES<T>)
        for (int m = 0; m < rows; m++) f(m, 0);
    else
        for (int m = 0; m < rows; m++)
            for (int i = 0; i < width; i += LANES<T>) f(m, i);
}
template <class T, class F> inline void each(Tile<T> to, Tile<T> a, int rows, int width, F f) {
    every<T>(rows, width, [=](int m, int i) { store<T>(to.data + m * to.row + i, f(load<T>(a.data + m * a.row + i))); });
}
template <class T, class F> inline void each(Tile<T> to, Tile<T> a, Tile<T> b, int rows, int width, F f) {
    every<T>(rows, width, [=](int m, int i) {
        store<T>(to.data + m * to.row + i, f(load<T>(a.data + m * a.row + i), load<T>(b.data + m * b.row + i)));
    });
}
template <class T, class F> inline void one_by_one(Tile<T> to, Tile<T> a, Tile<T> b, int rows, int width, F f) {
    for (int m = 0; m < rows; m++)
        for (int i = 0; i < width; i++) to.data[m * to.row + i] = f(a.data[m * a.row + i], b.data[m * b.row + i]);
}
// The sum of a vector's lanes, in all of them.
template <class T> inline Vec<T> sum_of_lanes(Vec<T> x) {
    constexpr int L = LANES<T>;
#ifdef __clang__
    T sum = 0;
    for (int i = 0; i < L; i++) sum += x[i];
    return all<T>(sum);
#else
#pragma GCC unroll 4
    for (int n = L / 2; n > 0; n /= 2) {
        Ints<T> other;
        for (int i = 0; i < L; i++) other[i] = i ^ n;
        x += __builtin_shuffle(x, other);
    }
    return x;
#endif
}
// The mean of f over `there` units, of which it gives a vector from a unit on; others than these count for nothing.
template <class T, class F> inline void means(Tile<T> to, int rows, int64_t there, F f) {
    constexpr int L = LANES<T>;
    Ints<T> lane;
    for (int i = 0; i < L; i++) lane[i] = i;
    for (int m = 0; m < rows; m++) {
        Vec<T> sum[4] = {};
        int64_t i = 0;
        for (; i + 4 * L <= there; i += 4 * L)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) sum[v] += f(m, i + v * L);
        for (; i + L <= there; i += L) sum[0] += f(m, i);
        if (i < there) sum[1] += pick<T>(lane < typename Of<T>::Int(there - i), f(m, i), Vec<T>{});
        store<T>(to.data + m * to.row, sum_of_lanes<T>((sum[0] + sum[1]) + (sum[2] + sum[3])) / T(there));
    }
}
// f gives the values of a row from a unit on, which go to the rows of `to`, or are added to it if that is one row: those of
// active rows.
template <class T, class F> inline void total(Tile<T> to, int rows, int64_t there, const uint8_t *active, F f) {
    for (int64_t i = 0; i < there; i += LANES<T>) {
        Vec<T> sum = to.row ? Vec<T>{} : load_some<T>(to.data + i, there - i);
        for (int m = 0; m < rows; m++)
            if (to.row)
                store_some<T>(to.data + m * to.row + i, f(m, i), there - i);
            else if (!active || active[m])
                sum += f(m, i);
        if (!to.row) store_some<T>(to.data + i, sum, there - i);
    }
}
template <class T>
void total(const Instruction &k, Tile<T> to, Tile<T> a, Tile<T> b, int rows, int64_t there, const uint8_t *active) {
    auto value = [=](int m, int64_t i) { return load<T>(a.data + m * a.row + i); };
    auto product = [=](int m, int64_t i) { return load<T>(a.data + m * a.row + i) * load<T>(b.data + m * b.row + i); };
    if (k.op == TOTAL) return total<T>(to, rows, there, active, value);
    total<T>(to, rows, there, active, product);
}
template <class T> void power(Tile<T> to, Tile<T> a, Tile<T> b, int rows, int width) {
    const T exponent = b.data[0];
    bool same = true;
    for (int m = 0; m < rows; m++)
        for (int i = 0; i < width; i++) same &= b.data[m * b.row + i] == exponent;
    typedef Vec<T> V;
    if (same && exponent == T(2)) return each<T>(to, a, rows, width, [](V x) { return x * x; });
    if (same && exponent == T(1)) return each<T>(to, a, rows, width, [](V x) { return x; });
    if (same && exponent == T(-1)) return each<T>(to, a, rows, width, [](V x) { return T(1) / x; });
    if (same && exponent == T(3)) return each<T>(to, a, rows, width, [](V x) { return x * x * x; });
    one_by_one<T>(to, a, b, rows, width, [](T x, T y) { return std::pow(x, y); });
}

// Of `width` units `there` are some's, and the others only fill the last vector.
template <class T>
void compute(const Instruction &k, Tile<T> to, Tile<T> a, Tile<T> b, Tile<T> c, int rows, int width, int64_t there) {
    typedef Vec<T> V;
    const T p = T(k.p), q = T(k.q);
    switch (k.op) {
        case COPY: return each<T>(to, a, rows, width, [](V x) { return x; });
        case MEAN: return means<T>(to, rows, there, [=](int m, int64_t i) { return load<T>(a.data + m * a.row + i); });
        case MEAN_OF_PRODUCT:
            return means<T>(to, rows, there, [=](int m, int64_t i) {
                return load<T>(a.data + m * a.row + i) * load<T>(b.data + m * b.row + i);
            });
        case MULTIPLY_ADD:
            return every<T>(rows, width, [=](int m, int i) {
                const V product = load<T>(a.data + m * a.row + i) * load<T>(b.data + m * b.row + i);
                store<T>(to.data + m * to.row + i, product + load<T>(c.data + m * c.row + i));
            });
        case ADD: return each<T>(to, a, b, rows, width, [](V x, V y) { return x + y; });
        case SUB: return each<T>(to, a, b, rows, width, [](V x, V y) { return x - y; });
        case MUL: return each<T>(to, a, b, rows, width, [](V x, V y) { return x * y; });
        case DIV: return each<T>(to, a, b, rows, width, [](V x, V y) { return x / y; });
        case NEG: return each<T>(to, a, rows, width, [](V x) { return -x; });
        case POW: return power<T>(to, a, b, rows, width);
        case SIGMOID: return each<T>(to, a, rows, width, [](V x) { return logistic<T>(x); });
        case TANH: return each<T>(to, a, rows, width, [](V x) { return tangent<T>(x); });
        case RELU: return each<T>(to, a, rows, width, [](V x) { return pick<T>(x <= T(0), V{}, x); });
        case EXP: return each<T>(to, a, rows, width, [](V x) { return exponential<T>(x); });
        case ABS: return each<T>(to, a, rows, width, [](V x) { return absolute<T>(x); });
        case ELU: return each<T>(to, a, rows, width, [p](V x) { return elu<T>(x, p); });
        case LEAKY_RELU: return each<T>(to, a, rows, width, [p](V x) { return pick<T>(x > T(0), x, x * p); });
        case SOFTSIGN: return each<T>(to, a, rows, width, [](V x) { return x / (absolute<T>(x) + T(1)); });
        case HARDSIGMOID: return each<T>(to, a, rows, width, [](V x) {
            V y = x + T(3);
            y = pick<T>(y < T(0), V{}, y);
            return pick<T>(y > T(6), all<T>(6), y) / T(6);
        });
        case CLAMP: return each<T>(to, a, rows, width, [p, q](V x) {
            x = pick<T>(x < p, all<T>(p), x);
            return pick<T>(x > q, all<T>(q), x);
        });
        case MINIMUM: return each<T>(to, a, b, rows, width, [](V x, V y) { return pick<T>((x < y) | (x != x), x, y); });
        case MAXIMUM: return each<T>(to, a, b, rows, width, [](V x, V y) { return pick<T>((x > y) | (x != x), x, y); });
        case LT: return each<T>(to, a, b, rows, width, [](V x, V y) { return truth<T>(x < y); });
        case LE: return each<T>(to, a, b, rows, width, [](V x, V y) { return truth<T>(x <= y); });
        case GT: return each<T>(to, a, b, rows, width, [](V x, V y) { return truth<T>(x > y); });
        case GE: return each<T>(to, a, b, rows, width, [](V x, V y) { return truth<T>(x >= y); });
        case WHERE:
            return every<T>(rows, width, [=](int m, int i) {
                Ints<T> which = load<T>(a.data + m * a.row + i) != T(0);
                V yes = load<T>(b.data + m * b.row + i), no = load<T>(c.data + m * c.row + i);
                store<T>(to.data + m * to.row + i, pick<T>(which, yes, no));
            });
        case LOG: return one_by_one<T>(to, a, a, rows, width, [](T x, T) { return std::log(x); });
        case SQRT: return one_by_one<T>(to, a, a, rows, width, [](T x, T) { return std::sqrt(x); });
        case SOFTPLUS: return each<T>(to, a, rows, width, [p, q](V x) {
            return pick<T>(x * p > q, x, log_of_one_plus_exp<T>(x * p) / p);
        });
    }
}

}  // namespace
}  // namespace gatewise
