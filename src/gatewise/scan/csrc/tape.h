// The instructions of a tape, on slots of n values.
#pragma once
#include "program.h"
#include "vectors.h"

namespace gatewise {
namespace {

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

}  // namespace
}  // namespace gatewise
