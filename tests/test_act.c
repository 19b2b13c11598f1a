/* The fused activation of wgmma_gemm against the arithmetic of docs/ffn.md, in FP32 before its rounding, to the bit, for
 * every BF16 that a gate can be: its quotient takes shortcuts that hold for these numbers only (wgmma_gemm.act.cuh).
 *
 *   test_act [--device SPEC] */
#include "test.h"

#include "../src/family.h"
#ifdef MOET_CUDA
#include "../src/cuda_api.h"
#endif

static const char *spec = "host";
static moet_device *device;

#ifdef MOET_CUDA
enum { GATES = 65536, THREADS = 256 };

/* Behind the family's source. value: as the epilogue has it; wanted: as docs/ffn.md says. */
static const char kernel_text[] =
    "extern \"C\" __global__ void test_act(float up, float clamp, float *value, float *wanted)\n"
    "{\n"
    "    const int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
    "    float g = __uint_as_float((unsigned)i << 16);\n"
    "    value[i] = moet_activate(g, up, 1.0f, clamp);\n"
    "    float u = up;\n"
    "    if (MOET_ACT != MOET_ACT_SWIGLU) {\n"
    "        const float limit = MOET_ACT == MOET_ACT_GPT_OSS ? 7.0f : clamp;\n"
    "        g = g > limit ? limit : g;\n"
    "        u = u > limit ? limit : u < -limit ? -limit : u;\n"
    "    }\n"
    "    const float x = MOET_ACT == MOET_ACT_GPT_OSS ? __fmul_rn(1.702f, g) : g;\n"
    "    const float d = __fadd_rn(1.0f, expf(-x));\n"
    "    wanted[i] = MOET_ACT == MOET_ACT_GPT_OSS\n"
    "                    ? __fmul_rn(__fmul_rn(g, __fdiv_rn(1.0f, d)), __fadd_rn(u, 1.0f))\n"
    "                    : __fmul_rn(__fdiv_rn(g, d), u);\n"
    "}\n";

static bool is_nan(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

static void check(moet_activation activation, float up, float clamp)
{
    const struct moet_cuda_api *cuda;
    const moet_family *family = moet_family_find("wgmma_gemm");
    const size_t bytes = GATES * sizeof(uint32_t);
    uint32_t *value = test_allocate(bytes), *wanted = test_allocate(bytes);
    void *memory = NULL, *module = NULL, *function = NULL;
    const char *const name = "test_act";
    moet_cubin cubin = {0};
    moet_problem problem;
    moet_config config = {.family = family};
    moet_source source;
    char *text = NULL;

    moet_problem_init(&problem, MOET_OP_UP, 8, 1024, 512);
    problem.activation = activation;
    problem.clamp = clamp;
    family->default_config(&problem, 4096, &device->info, &config);
    assert_true(family->source(&problem, &config, device->info.cc_major, device->info.cc_minor, 0, &source));
    assert_true(asprintf(&text, "%s\n%s", source.text, kernel_text) > 0);
    source.text = text;
    TEST_OK(moet_module_compile(&source, &cubin, NULL));
    TEST_OK(moet_module_load(&cubin, &name, 1, &module, &function));
    TEST_OK(device->backend->alloc(device, 2 * bytes, &memory));
    TEST_OK(moet_cuda_api_get(&cuda));
    void *value_memory = memory, *wanted_memory = (char *)memory + bytes;
    void *args[] = {&up, &clamp, &value_memory, &wanted_memory};
    assert_int_equal(cuda->cuLaunchKernel(function, GATES / THREADS, 1, 1, THREADS, 1, 1, 0, NULL, args, NULL),
                     CUDA_SUCCESS);
    TEST_OK(device->backend->stream_synchronize(device, NULL));
    TEST_OK(device->backend->download(device, value, value_memory, bytes));
    TEST_OK(device->backend->download(device, wanted, wanted_memory, bytes));
    int32_t different = 0;
    for (int32_t i = 0; i < GATES; i++) {
        if (value[i] == wanted[i] || (is_nan(value[i]) && is_nan(wanted[i]))) continue;
        if (different++ < 8)
            print_message("activation %d, clamp %g, gate %04x, up %g: %08x, %08x expected\n", activation, (double)clamp,
                          (unsigned)i, (double)up, value[i], wanted[i]);
    }
    assert_int_equal(different, 0);
    device->backend->free(device, memory);
    moet_module_unload(module);
    moet_cubin_release(&cubin);
    free(text);
    free(value);
    free(wanted);
}
#endif

static void test_every_gate(void **state)
{
    (void)state;
#ifdef MOET_CUDA
    if (strcmp(device->info.backend, "cuda") != 0 || device->info.cc_major != 9) skip();
    static const float ups[] = {1.0f, -3.140625f, 0x1p-100f};
    /* A clamp may be any float, and its quotient any. */
    static const float clamps[] = {7.0f, 10.0f, 0.1f, 1e-3f, 0x1.fffffep-2f, 3.3333333f, 88.4f, 1e30f};
    for (int32_t i = 0; i < MOET_COUNT_OF(ups); i++) {
        check(MOET_ACTIVATION_SWIGLU, ups[i], 0.0f);
        check(MOET_ACTIVATION_GPT_OSS, ups[i], 0.0f);
    }
    for (int32_t i = 0; i < MOET_COUNT_OF(clamps); i++) check(MOET_ACTIVATION_SWIGLU_CLAMP, 1.0f, clamps[i]);
#else
    skip();
#endif
}

static int group_open(void **state)
{
    (void)state;
    return moet_device_open(spec, &device) != MOET_OK;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(device);
    return 0;
}

int main(int argc, char **argv)
{
    const test_option options[] = {{.name = "--device", .text = &spec}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_gate)};
    return cmocka_run_group_tests_name("act", tests, group_open, group_close);
}
