#define SPINFER_IMPLEMENTATION
#include "spinfer.cuh"
