// Any machine: vectors of 16 bytes, which SSE2 and NEON have, and which compilers emulate elsewhere.
#include "program.h"

#define BYTES 16
#define ROWS {4, 4, 4, 2}
#define RUN run_portable
#include "kernels.h"

