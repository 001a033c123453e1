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
    static constexpr int terms = 7, mantissa = 23, bias = 127;
};
template <> struct Of<double> {
    typedef double V __attribute__((vector_size(BYTES)));
    typedef double U __attribute__((vector_size(BYTES), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(BYTES)));
    typedef int64_t Int;
    static constexpr double log2e = 1.4426950408889634074, ln2_hi = 6.93147180369123816490e-01,
                            ln2_lo = 1.90821492927058770002e-10;
    static constexpr double low = -760., high = 720., magic = 6755399441055744.;
    static constexpr int terms = 13, mantissa = 52, bias = 1023;
};
typedef uint32_t Pair;  // of values in bfloat16, the first in the lower half
template <> struct Of<Pair> {
    typedef Pair V __attribute__((vector_size(BYTES)));
    typedef Pair U __attribute__((vector_size(BYTES), aligned(4), may_alias));
};
template <class T> using Vec = typename Of<T>::V;
template <class T> using Ints = typename Of<T>::I;
template <class T> constexpr int LANES = BYTES / sizeof(T);

template <class T> inline Vec<T> load(const T *p) { return *reinterpret_cast<const typename Of<T>::U *>(p); }
template <class T> inline void store(T *p, Vec<T> v) { *reinterpret_cast<typename Of<T>::U *>(p) = v; }
// The first `there` lanes.
template <class T> inline void store_some(T *to, Vec<T> v, int64_t there) {
    if (there >= LANES<T>) return store<T>(to, v);
    for (int64_t j = 0; j < there; j++) to[j] = v[j];
}
template <class T> inline Vec<T> load_some(const T *from, int64_t there) {
    if (there >= LANES<T>) return load<T>(from);
    Vec<T> v = {};
    for (int64_t j = 0; j < there; j++) v[j] = from[j];
    return v;
}
template <class T> inline Vec<T> all(T x) { return x - Vec<T>{}; }
template <class T> inline Vec<T> pick(Ints<T> c, Vec<T> a, Vec<T> b) { return c ? a : b; }
template <class T> inline Vec<T> absolute(Vec<T> x) { return (Vec<T>)((Ints<T>)x & std::numeric_limits<typename Of<T>::Int>::max()); }

// x 2^n; the result may be beyond the exponents' range, where halves of n still lie within it.
template <class T> inline Vec<T> scale(Vec<T> x, Vec<T> n) {
#if BYTES == 64
    if constexpr (sizeof(T) == 4)
        return (Vec<T>)_mm512_scalef_ps((__m512)x, (__m512)n);
    else
        return (Vec<T>)_mm512_scalef_pd((__m512d)x, (__m512d)n);
#else
    typedef Of<T> C;
    Ints<T> i = __builtin_convertvector(n, Ints<T>), half = i >> 1;
    return x * (Vec<T>)((half + C::bias) << C::mantissa) * (Vec<T>)((i - half + C::bias) << C::mantissa);
#endif
}
// x = n ln 2 + r, |r| <= ln(2) / 2; gives t with exp(r) = 1 + r + r t, a Taylor series whose rest is below a tenth of an ulp.
template <class T> inline Vec<T> reduced(Vec<T> x, Vec<T> &n, Vec<T> &r) {
    typedef Of<T> C;
    n = (x * C::log2e + C::magic) - C::magic;
    r = x - n * C::ln2_hi - n * C::ln2_lo;
    T terms[C::terms];
    double factorial = 1;
    for (int k = 0; k < C::terms; k++) terms[k] = T(1 / (factorial *= k + 1));
    Vec<T> t = all<T>(terms[C::terms - 1]);
#pragma GCC unroll 16
    for (int k = C::terms - 2; k >= 1; k--) t = t * r + terms[k];
    return t * r;
}
// In what follows bounds are such that NaN passes them.
template <class T> inline Vec<T> exponential(Vec<T> x) {
    typedef Of<T> C;
    Vec<T> bounded = pick<T>(x < C::low, all<T>(C::low), x), n, r;
    bounded = pick<T>(bounded > C::high, all<T>(C::high), bounded);
    Vec<T> t = reduced<T>(bounded, n, r);
    return scale<T>(r * (t + T(1)) + T(1), n);
}
// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), for |x| <= 60.
template <class T> inline Vec<T> exponential_minus_one(Vec<T> x, Vec<T> &n, Vec<T> &r, Vec<T> &t) {
    typedef Of<T> C;
    t = reduced<T>(x, n, r);
    Vec<T> s = (Vec<T>)((__builtin_convertvector(n, Ints<T>) + C::bias) << C::mantissa), whole = s * r;
    return whole * t + (whole + (s - T(1)));
}
// tanh(x) = e / (e + 2) with e = exp(2 |x|) - 1, and the sign of x; where n is 0 it is r / 2, which is |x|, and a small rest.
template <class T> inline Vec<T> tangent(Vec<T> x) {
    Vec<T> two = 2 * absolute<T>(x), n, r, t;
    Vec<T> e = exponential_minus_one<T>(pick<T>(two > T(40), all<T>(40), two), n, r, t);
    Ints<T> small = n == T(0);
    Vec<T> y = pick<T>(small, r * (t - T(0.5) * e), e) / (e + T(2));
    y += pick<T>(small, T(0.5) * r, Vec<T>{});
    return (Vec<T>)((Ints<T>)y | ((Ints<T>)x & std::numeric_limits<typename Of<T>::Int>::min()));
}
// 1 / (1 + exp(-x)) = exp(x) / (1 + exp(x)): of the two, the one in which nothing is large.
template <class T> inline Vec<T> logistic(Vec<T> x) {
    typedef Of<T> C;
    Vec<T> below = -absolute<T>(x), n, r;
    Vec<T> t = reduced<T>(pick<T>(below < C::low, all<T>(C::low), below), n, r), e = scale<T>(r * (t + T(1)) + T(1), n);
    Vec<T> divisor = e + T(1), lost = e - (divisor - T(1));  // what rounding took from the divisor
    Vec<T> y = pick<T>(x < T(0), e, all<T>(1)) / divisor;
    return y - y * lost;
}
template <class T> inline Vec<T> elu(Vec<T> x, T alpha) {
    Vec<T> bounded = pick<T>(x > T(0), all<T>(0), pick<T>(x < T(-60), all<T>(-60), x)), n, r, t;
    return pick<T>(x != x, x, pick<T>(x > T(0), x, alpha * exponential_minus_one<T>(bounded, n, r, t)));
}
// log(1 + exp(z)) = max(z, 0) + log(1 + e), e = exp(-|z|); the last is 2 artanh(e / (2 + e)), an odd series of so many terms.
template <class T> inline Vec<T> log_of_one_plus_exp(Vec<T> z) {
    constexpr int TERMS = sizeof(T) == 4 ? 8 : 17;
    Vec<T> e = exponential<T>(-absolute<T>(z)), s = e / (e + T(2)), square = s * s, sum = all<T>(T(2) / (2 * TERMS - 1));
#pragma GCC unroll 17
    for (int k = TERMS - 2; k >= 0; k--) sum = sum * square + T(2) / (2 * k + 1);
    return pick<T>(z < T(0), Vec<T>{}, z) + s * sum;
}
template <class T> inline Vec<T> truth(Ints<T> c) { return (Vec<T>)(c & (Ints<T>)all<T>(1)); }

#ifdef PAIRS
// sum + the two products of each pair; the instructions take values below 2^-126 for zero.
inline Vec<float> add_pairs(Vec<float> sum, Vec<Pair> x, Vec<Pair> w) {
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}
inline Vec<Pair> rounded(Vec<float> x) { return (Vec<Pair>)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)); }
inline Vec<Pair> pairs_of(Vec<float> a, Vec<float> b) { return rounded(a) | rounded(b) << 16; }
// K values as pairs, the last with a zero where K is odd.
inline void round_row(const float *from, int64_t K, Pair *to) {
    for (int64_t k = 0; k < K; k += 16) {
        const __mmask16 values = K - k < 16 ? (1u << (K - k)) - 1 : 0xffff;
        const __mmask8 pairs = K - k < 16 ? (1u << (K - k + 1) / 2) - 1 : 0xff;
        _mm256_mask_storeu_epi32(to + k / 2, pairs, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(values, from + k)));
    }
}
#endif

}  // namespace
}  // namespace gatewise
