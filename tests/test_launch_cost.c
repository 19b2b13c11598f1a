/* What a launch costs the host beside the driver's own work, for counts that were never seen, on a GPU.
 *
 *   test_launch_cost [--device cuda]
 *
 * A table of made-up times lets a plan choose among several configurations. The driver's launches are timed where they
 * are called; the rest of moet_launch is ours: at most 2 us. */
#include "table_text.h"
#include "test.h"

#include <math.h>
#include <time.h>

#include "../src/cuda_api.h"
#include "../tuner/workload.h"

static const char *spec = "cuda";
static moet_device *device;

enum { H = 2048, I = 768, N = 2 * I, ROWS = 4096, ROUTINGS = 48, BATCHES = 40, MOST_EXPERTS = 128, LIMIT_NS = 2000 };

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* ---- the driver's launches, timed ---- */

static struct moet_cuda_api driver; /* as it is */
static double driver_ns;
static int32_t driver_calls;

static CUresult CUDAAPI timed_launch(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                     unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                                     CUstream stream, void **parameters, void **extra)
{
    const double begin = now_ns();
    const CUresult result = driver.cuLaunchKernel(kernel, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                                                  shared_bytes, stream, parameters, extra);
    driver_ns += now_ns() - begin;
    driver_calls++;
    return result;
}

static CUresult CUDAAPI timed_launch_ex(const CUlaunchConfig *config, CUfunction kernel, void **parameters,
                                        void **extra)
{
    const double begin = now_ns();
    const CUresult result = driver.cuLaunchKernelEx(config, kernel, parameters, extra);
    driver_ns += now_ns() - begin;
    driver_calls++;
    return result;
}

/* ---- a plan that has a choice ---- */

static void write_table(const char *folder, const moet_problem *problem, const char *family_name)
{
    enum { POINTS = 10, CONFIGS = 3 };
    static char texts[POINTS][MOET_CONFIG_SIZE], validators[POINTS][64];
    int32_t counts[POINTS][MOST_EXPERTS];
    moet_config configs[CONFIGS];
    text_point points[POINTS];
    text_other others[POINTS][CONFIGS];
    static char config_texts[CONFIGS][MOET_CONFIG_SIZE];
    const moet_family *family = moet_family_find(family_name);
    static const int32_t rows_hints[CONFIGS] = {8, 128, 1024}; /* of an expert */
    for (int32_t c = 0; c < CONFIGS; c++) {
        configs[c] = (moet_config){.family = family};
        family->default_config(problem, (int64_t)rows_hints[c] * problem->experts, &device->info, &configs[c]);
        moet_config_format(&configs[c], config_texts[c]);
    }
    for (int32_t p = 0; p < POINTS; p++) {
        TEST_OK(moet_skew_draw(p & 1 ? "lognormal:0.43" : "balanced", problem->experts, 256 << p / 2, 1, counts[p]));
        const int32_t own = p / 2 < CONFIGS ? p / 2 : CONFIGS - 1;
        points[p] = (text_point){.counts = counts[p],
                                 .any = text_winner_of(&configs[own], texts[p], validators[p], 20000 + 5000 * p)};
        for (int32_t c = 0; c < CONFIGS; c++) {
            if (c != own) others[p][points[p].any.other_count++] = (text_other){config_texts[c], 22000 + 5000 * p};
        }
        points[p].any.others = others[p];
    }
    char *text = text_table(device, problem, points, POINTS, NULL, 0);
    text_write(folder, text);
    free(text);
}

static void measure(const char *family, int32_t experts)
{
    const moet_backend *b = device->backend;
    const struct moet_cuda_api *cuda;
    moet_problem problem;
    moet_handle *handle;
    moet_plan *plan;
    moet_stats stats;
    void *x, *w, *out, *stream;
    char folder[256];
    static int32_t counts[BATCHES * ROUTINGS][MOST_EXPERTS];
    moet_problem_init(&problem, MOET_OP_UP, experts, H, I);
    test_folder_make(folder);
    write_table(folder, &problem, family);
    for (int32_t i = 0; i < BATCHES * ROUTINGS; i++)
        TEST_OK(moet_skew_draw("lognormal:0.43", experts, 300 + i % 3700, (uint64_t)(7 + i), counts[i]));
    TEST_OK(b->alloc(device, (size_t)ROWS * H * 2, &x));
    TEST_OK(b->alloc(device, (size_t)experts * N * H * 2, &w));
    TEST_OK(b->alloc(device, (size_t)ROWS * N * 2, &out));
    TEST_OK(b->stream_create(device, &stream));
    TEST_OK(moet_open(folder, spec, &handle));
    TEST_OK(moet_plan_create(handle, &problem, &(moet_plan_options){.max_rows = ROWS}, &plan));
    assert_int_equal(moet_refusal_count(handle), 0);
    TEST_OK(moet_cuda_api_get(&cuda));
    struct moet_cuda_api *bound = (struct moet_cuda_api *)(uintptr_t)cuda;
    driver = *cuda;
    bound->cuLaunchKernel = timed_launch;
    bound->cuLaunchKernelEx = timed_launch_ex;
    double own_ns = INFINITY, least_driver_ns = INFINITY;
    for (int32_t batch = 0; batch < BATCHES; batch++) {
        driver_ns = 0;
        driver_calls = 0;
        const double begin = now_ns();
        for (int32_t i = 0; i < ROUTINGS; i++) {
            const moet_launch_args args = {
                .x = x, .w = w, .out = out, .counts = counts[batch * ROUTINGS + i], .stream = stream};
            TEST_OK(moet_launch(plan, &args));
        }
        const double all_ns = now_ns() - begin;
        TEST_OK(b->stream_synchronize(device, stream));
        assert_true(driver_calls >= ROUTINGS);
        own_ns = fmin(own_ns, (all_ns - driver_ns) / ROUTINGS);
        least_driver_ns = fmin(least_driver_ns, driver_ns / ROUTINGS);
    }
    *bound = driver;
    moet_stats_read(handle, &stats);
    print_message("%s, %d experts: a launch takes %.0f ns of the host beside the driver's %.0f\n", family, experts,
                  own_ns, least_driver_ns);
    assert_true(stats.nearest > BATCHES * ROUTINGS * 9 / 10);
    if (own_ns > LIMIT_NS) test_fail("%.0f ns, not %d", own_ns, LIMIT_NS);
    moet_plan_destroy(plan);
    moet_close(handle);
    b->stream_destroy(device, stream);
    b->free(device, x);
    b->free(device, w);
    b->free(device, out);
    test_folder_remove(folder);
}

static void test_wgmma(void **state)
{
    (void)state;
    if (device->info.cc_major != 9) skip();
    measure("wgmma_gemm", 8);
    measure("wgmma_gemm", 32);
    measure("wgmma_gemm", 128);
}

static void test_mma(void **state)
{
    (void)state;
    measure("mma_gemm", 8);
    measure("mma_gemm", 32);
    measure("mma_gemm", 128);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--device") == 0) spec = argv[2];
    unsetenv("MOET_TABLE");
    if (moet_device_open(spec, &device) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wgmma), cmocka_unit_test(test_mma)};
    int failed = cmocka_run_group_tests_name("launch_cost", tests, NULL, NULL);
    moet_device_close(device);
    return failed;
}
