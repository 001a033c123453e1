// Vectors of BYTES bytes, by GCC's extensions, and exp, tanh and sigmoid on them.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

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

}  // namespace
}  // namespace gatewise
