// AVX2: chosen at load time where the machine has it.
#include "program.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)  // clang sets targets in another way
// Before the target is set, so that no inline function of the library is compiled for it and used elsewhere.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define BYTES 32
#define ROWS {6, 6, 4, 2}
#define RUN run_avx2
#include "kernels.h"
#pragma GCC pop_options
#else
namespace gatewise {
void run_avx2(const Program &, const Run &, Type) {}
}  // namespace gatewise
#endif
