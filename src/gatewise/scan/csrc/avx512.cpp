// AVX512: chosen at load time where the machine has it.
#include "program.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)  // clang sets targets in another way
// Before the target is set, so that no inline function of the library is compiled for it and used elsewhere.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define BYTES 64
#define ROWS {12, 12, 8, 4}
#define SCAN scan_avx512
#define OUTER outer_avx512
#define LINEAR linear_avx512
#include "kernels.h"
#pragma GCC pop_options
#else
namespace gatewise {
void scan_avx512(const Program &, const Run &, bool) {}
void outer_avx512(const Outer &, bool) {}
void linear_avx512(const Linear &, bool) {}
}  // namespace gatewise
#endif
