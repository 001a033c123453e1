// Which instruction set runs.
#include "program.h"

namespace gatewise {
namespace {

const Kernels PORTABLE = {"portable", run_portable, run_portable}, AVX2 = {"avx2", run_avx2, run_avx2},
              AVX512 = {"avx512", run_avx512, run_avx512}, AVX512_BF16 = {"avx512_bf16", run_avx512, run_pairs};

const Kernels &choose() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return __builtin_cpu_supports("avx512bf16") ? AVX512_BF16 : AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return PORTABLE;
}

}  // namespace

const Kernels &kernels(int isa) {
    static const Kernels &best = choose();
    const Kernels *all[] = {&best, &PORTABLE, &AVX2, &AVX512, &AVX512_BF16};
    return *all[isa < 0 || isa > 4 ? 0 : isa];
}

}  // namespace gatewise
