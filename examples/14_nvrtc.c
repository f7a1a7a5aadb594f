/* 14_nvrtc.c - kernels at run time: NVRTC and the driver API.
 *
 *     14_nvrtc DIRECTORY-OF-THE-HEADERS
 *
 * The idea. The device half of spinfer includes nothing, so a program can carry both headers as strings, put a kernel
 * of its own behind them, and compile it for the GPU that it finds: no nvcc, no include path, no file. What it gets
 * from the library is the decode, the memory and the tensor-core functions (sections 3 to 7 of spinfer.cuh); here a
 * kernel decodes a weight to dense, and the result must be what was encoded. The same works from CuPy: 14_cupy.py.
 *
 * Introduces: the headers under NVRTC, a spinfer_matrix as a kernel argument */
#include <cuda.h>
#include <nvrtc.h>

#include "common.h"

#define CHECK_NVRTC(call) CHECK((call) == NVRTC_SUCCESS)
#define CHECK_CU(call) CHECK((call) == CUDA_SUCCESS)

enum { ROWS = 192, COLS = 160 };

static const char kernel_text[] =
    "#include \"spinfer.cuh\"\n"
    "extern \"C\" __global__ void decode(spinfer_matrix W, uint16_t *dense)\n"
    "{\n"
    "    const uint32_t row = SPINFER_GROUP_ROWS * blockIdx.y, col = SPINFER_GROUP_COLS * blockIdx.x;\n"
    "    spinfer_decode_group(spinfer_record_at(&W, blockIdx.y, blockIdx.x), dense + row * W.cols + col, W.cols,\n"
    "                         threadIdx.x, threadIdx.y, blockDim.y);\n"
    "}\n";

static char *read_file(const char *directory, const char *name)
{
    char  path[4096], *text;
    FILE *file;
    long  bytes;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(1);
    }
    CHECK(fseek(file, 0, SEEK_END) == 0);
    bytes = ftell(file);
    CHECK(bytes > 0 && fseek(file, 0, SEEK_SET) == 0);
    text = (char *)allocate((size_t)bytes + 1);
    CHECK(fread(text, 1, (size_t)bytes, file) == (size_t)bytes);
    text[bytes] = 0;
    fclose(file);
    return text;
}

/* The kernel as PTX for this architecture. What the compiler says goes to stderr. */
static char *compile(const char *directory, int compute)
{
    const char *const names[2] = {"spinfer.cuh", "spinfer_encode.h"};
    char             *headers[2], architecture[64], *text;
    const char       *options[1] = {architecture};
    nvrtcProgram      program;
    nvrtcResult       result;
    size_t            bytes;
    headers[0] = read_file(directory, names[0]);
    headers[1] = read_file(directory, names[1]);
    snprintf(architecture, sizeof architecture, "--gpu-architecture=compute_%d", compute);
    CHECK_NVRTC(nvrtcCreateProgram(&program, kernel_text, "decode.cu", 2, (const char *const *)headers, names));
    result = nvrtcCompileProgram(program, 1, options);
    CHECK_NVRTC(nvrtcGetProgramLogSize(program, &bytes));
    text = (char *)allocate(bytes);
    CHECK_NVRTC(nvrtcGetProgramLog(program, text));
    fputs(text, stderr);
    free(text);
    CHECK_NVRTC(result);
    CHECK_NVRTC(nvrtcGetPTXSize(program, &bytes));
    text = (char *)allocate(bytes);
    CHECK_NVRTC(nvrtcGetPTX(program, text));
    CHECK_NVRTC(nvrtcDestroyProgram(&program));
    printf("%s: %zu bytes of PTX\n", architecture, bytes);
    free(headers[0]);
    free(headers[1]);
    return text;
}

static CUdeviceptr copy_to_gpu(const void *host, size_t bytes)
{
    CUdeviceptr device;
    CHECK_CU(cuMemAlloc(&device, bytes));
    CHECK_CU(cuMemcpyHtoD(device, host, bytes));
    return device;
}

int main(int argc, char **argv)
{
    static uint16_t dense[ROWS * COLS], decoded[ROWS * COLS];
    CUdevice        device;
    CUcontext       context;
    CUmodule        module;
    CUfunction      decode;
    CUdeviceptr     dense_gpu, offsets, data;
    spinfer_matrix  host, W;
    void           *arguments[2];
    char           *ptx;
    int             major, minor;
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY-OF-THE-HEADERS\n", argv[0]);
        return 1;
    }
    if (cuInit(0) != CUDA_SUCCESS || cuDeviceGet(&device, 0) != CUDA_SUCCESS) {
        puts("skipped: no GPU");
        return SKIPPED;
    }
    CHECK_CU(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    CHECK_CU(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
    if (major < 8) {
        puts("skipped: the GPU is older than sm_80");
        return SKIPPED;
    }
    CHECK_CU(cuDevicePrimaryCtxRetain(&context, device));
    CHECK_CU(cuCtxSetCurrent(context));
    ptx = compile(argv[1], 10 * major + minor);
    CHECK_CU(cuModuleLoadData(&module, ptx));
    CHECK_CU(cuModuleGetFunction(&decode, module, "decode"));

    fill_normal(dense, ROWS * COLS, 0.02, SPINFER_FP16, 1);
    prune_iid(dense, ROWS, COLS, 0.5, 2);
    host = W = encode_matrix(dense, ROWS, COLS, SPINFER_FP16);
    offsets = copy_to_gpu(host.offsets, (size_t)spinfer_offsets_bytes(ROWS, COLS));
    data = copy_to_gpu(host.data, (size_t)host.data_bytes);
    W.offsets = (const uint32_t *)(uintptr_t)offsets;
    W.data = (const void *)(uintptr_t)data;
    memset(decoded, 0xff, sizeof decoded);
    dense_gpu = copy_to_gpu(decoded, sizeof decoded);

    arguments[0] = &W; /* the struct itself, by value */
    arguments[1] = &dense_gpu;
    CHECK_CU(cuLaunchKernel(decode, COLS / SPINFER_GROUP_COLS, ROWS / SPINFER_GROUP_ROWS, 1, 32, 4, 1, 0, NULL,
                            arguments, NULL));
    CHECK_CU(cuMemcpyDtoH(decoded, dense_gpu, sizeof decoded));
    CHECK(memcmp(decoded, dense, sizeof dense) == 0);
    printf("%d weights decoded, bit for bit\nOK\n", (int)(ROWS * COLS));

    CHECK_CU(cuMemFree(dense_gpu));
    CHECK_CU(cuMemFree(offsets));
    CHECK_CU(cuMemFree(data));
    CHECK_CU(cuModuleUnload(module));
    CHECK_CU(cuDevicePrimaryCtxRelease(device));
    free_matrix(&host);
    free(ptx);
    return 0;
}
