// AVX512_BF16, the products of pairs: chosen at load time where the machine has it.
#include "program.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)  // clang sets targets in another way
// Before the target is set, so that no inline function of the library is compiled for it and used elsewhere.
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define BYTES 64
#define ROWS {12, 12, 8, 4}
#define RUN run_pairs
#define PAIRS
#include "kernels.h"
#pragma GCC pop_options
#else
namespace gatewise {
void run_pairs(const Program &, const Run &, Type) {}
}  // namespace gatewise
#endif
