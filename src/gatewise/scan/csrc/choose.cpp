// Which instruction set runs.
#include "program.h"

namespace gatewise {
namespace {

const Kernels PORTABLE = {"portable", run_portable}, AVX2 = {"avx2", run_avx2}, AVX512 = {"avx512", run_avx512};

const Kernels &choose() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return PORTABLE;
}

}  // namespace

const Kernels &kernels(int isa) {
    static const Kernels &best = choose();
    const Kernels *all[] = {&best, &PORTABLE, &AVX2, &AVX512};
    return *all[isa & 3];
}

}  // namespace gatewise
