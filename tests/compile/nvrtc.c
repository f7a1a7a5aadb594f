/* spinfer under NVRTC: both headers handed in as strings, no include path, no file system, no GPU.
 *
 *     compile_nvrtc DIRECTORY-OF-THE-HEADERS */
#include <nvrtc.h>

#include "common.h"

#define CHECK_NVRTC(call) CHECK((call) == NVRTC_SUCCESS)

static const char program_text[] =
    "#include \"spinfer.cuh\"\n"
    "extern \"C\" __global__ void decode(const uint64_t *bitmaps, const uint16_t *values,\n"
    "                                  spinfer_frag_a *out)\n"
    "{\n"
    "    spinfer_decode_tc_tile(&out[threadIdx.x], bitmaps, values, threadIdx.x);\n"
    "}\n"
    "SPINFER_DEVICE void negate(const spinfer_dtype dtype, const spinfer_spmm_args *args, uint32_t row, uint32_t "
    "token,\n"
    "                           spinfer_sums sum)\n"
    "{\n"
    "    for (int i = 0; i < 4; i++) sum.row[i] = -sum.row[i];\n"
    "    spinfer_store_rows(dtype, 4, args->Y + token * args->ldy + row, spinfer_rows_left(args, row), sum);\n"
    "}\n"
    "SPINFER_DEFINE_SPMM_KERNEL(multiply, SPINFER_FP16, 1, 1, 16, negate);\n";

static char *read_file(const char *directory, const char *name)
{
    char  path[4096], *text;
    FILE *file;
    long  bytes;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    bytes = ftell(file);
    CHECK(bytes > 0 && fseek(file, 0, SEEK_SET) == 0);
    text = (char *)allocate((size_t)bytes + 1);
    CHECK(fread(text, 1, (size_t)bytes, file) == (size_t)bytes);
    text[bytes] = 0;
    fclose(file);
    return text;
}

static void compile(const char *const *headers, const char *const *names, const char *architecture)
{
    nvrtcProgram program;
    nvrtcResult  result;
    size_t       bytes;
    char        *text;
    CHECK_NVRTC(nvrtcCreateProgram(&program, program_text, "program.cu", 2, headers, names));
    result = nvrtcCompileProgram(program, 1, &architecture);
    CHECK_NVRTC(nvrtcGetProgramLogSize(program, &bytes));
    text = (char *)allocate(bytes);
    CHECK_NVRTC(nvrtcGetProgramLog(program, text));
    fputs(text, stderr);
    CHECK(result == NVRTC_SUCCESS && bytes <= 1); /* an empty log: no warnings either */
    free(text);
    CHECK_NVRTC(nvrtcGetPTXSize(program, &bytes));
    text = (char *)allocate(bytes);
    CHECK_NVRTC(nvrtcGetPTX(program, text));
    CHECK(strstr(text, ".entry decode") && strstr(text, "popc.b32") && strstr(text, ".entry multiply"));
    printf("%s: %zu bytes of PTX\n", architecture, bytes);
    free(text);
    CHECK_NVRTC(nvrtcDestroyProgram(&program));
}

int main(int argc, char **argv)
{
    const char *const names[2] = {"spinfer.cuh", "spinfer_encode.h"};
    const char       *headers[2];
    CHECK(argc == 2);
    headers[0] = read_file(argv[1], names[0]);
    headers[1] = read_file(argv[1], names[1]);
    compile(headers, names, "--gpu-architecture=compute_80");
    compile(headers, names, "--gpu-architecture=compute_90");
    free((void *)headers[0]);
    free((void *)headers[1]);
    return 0;
}
