/* implementation.cu - the one .cu file of a program that is otherwise C (13_from_c.c): it compiles kernels and launch
 * functions, and has no code of its own. */
#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"
