/* load_and_multiply.cu - the kernels for load_and_multiply.c: one file of a program defines SPINFER_IMPLEMENTATION. */
#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"
