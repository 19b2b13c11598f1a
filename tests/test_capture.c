/* Plans in CUDA graphs, on a GPU: device counts are read when the graph is replayed, host counts are frozen in it.
 *
 *   test_capture [--device cuda]
 */
#include "test.h"

#include "../kernels/reference.h"
#include "../src/family.h"

static const char *spec = "cuda";
static moet_device *device;

enum { E = 6, H = 192, I = 72, N = 2 * I, K = H, max_rows = 300 };
static const int32_t routings[][E] = {
    {50, 50, 50, 50, 50, 50}, {300, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}, {0, 1, 0, 129, 17, 3}, {0, 0, 0, 0, 0, 1}};

static uint16_t x[max_rows * K], w[E * N * K], out[max_rows * N], want[max_rows * N];

typedef struct fixture {
    moet_handle *handle;
    moet_plan *plan;
    moet_problem problem;
    void *x, *w, *out, *counts, *stream, *graph;
} fixture;

static void fixture_open(fixture *f, bool device_counts, moet_layout layout)
{
    uint64_t random = 3;
    const moet_backend *b = device->backend;
    *f = (fixture){0};
    moet_problem_init(&f->problem, MOET_OP_UP, E, H, I);
    f->problem.layout = layout;
    for (int32_t i = 0; i < max_rows * K; i++) x[i] = moet_bf16_from_float((float)test_between(&random, -2, 2));
    for (int32_t i = 0; i < E * N * K; i++) w[i] = moet_bf16_from_float((float)test_between(&random, -2, 2));
    TEST_OK(b->alloc(device, sizeof x, &f->x));
    TEST_OK(b->alloc(device, sizeof w, &f->w));
    TEST_OK(b->alloc(device, sizeof out, &f->out));
    TEST_OK(b->alloc(device, E * sizeof(int32_t), &f->counts));
    TEST_OK(b->upload(device, f->x, x, sizeof x));
    TEST_OK(b->upload(device, f->w, w, sizeof w));
    TEST_OK(b->stream_create(device, &f->stream));
    TEST_OK(moet_open(NULL, spec, &f->handle));
    moet_plan_options options = {.max_rows = max_rows, .device_counts = device_counts};
    TEST_OK(moet_plan_create(f->handle, &f->problem, &options, &f->plan));
}

static void fixture_close(fixture *f)
{
    const moet_backend *b = device->backend;
    if (f->graph) b->graph_destroy(device, f->graph);
    moet_plan_destroy(f->plan);
    moet_close(f->handle);
    b->stream_destroy(device, f->stream);
    b->free(device, f->x);
    b->free(device, f->w);
    b->free(device, f->out);
    b->free(device, f->counts);
}

static void capture(fixture *f, const int32_t *counts)
{
    moet_launch_args args = {.x = f->x, .w = f->w, .out = f->out, .counts = counts, .stream = f->stream};
    TEST_OK(device->backend->capture_begin(device, f->stream));
    moet_status status = moet_launch(f->plan, &args);
    TEST_OK(device->backend->capture_end(device, f->stream, &f->graph));
    TEST_OK(status);
}

/* Poisons out, replays, compares rows and what lies past them. */
static void replay(fixture *f, const int32_t *counts, const char *what)
{
    const moet_backend *b = device->backend;
    int64_t rows = 0;
    for (int32_t e = 0; e < E; e++) rows += counts[e];
    TEST_OK(b->fill(device, f->out, 0xff, sizeof out));
    TEST_OK(b->graph_launch(device, f->graph, f->stream));
    TEST_OK(b->stream_synchronize(device, f->stream));
    TEST_OK(b->download(device, out, f->out, sizeof out));
    moet_reference_gemm(&f->problem, x, w, NULL, counts, want);
    for (int64_t i = 0; i < max_rows * N; i++) {
        bool right = i < rows * N ? moet_bf16_to_float(out[i]) == moet_bf16_to_float(want[i]) : out[i] == 0xffff;
        if (!right)
            test_fail("%s, %lld rows: out[%lld][%lld] is %04x", what, (long long)rows, (long long)(i / N),
                      (long long)(i % N), out[i]);
    }
}

static void test_device_counts(void **state)
{
    (void)state;
    for (int32_t layout = 0; layout < MOET_LAYOUT_COUNT; layout++) {
        fixture f;
        fixture_open(&f, true, (moet_layout)layout);
        TEST_OK(device->backend->upload(device, f.counts, routings[0], sizeof routings[0]));
        capture(&f, f.counts);
        for (int32_t turn = 0; turn < 2; turn++) {
            for (int32_t r = 0; r < MOET_COUNT_OF(routings); r++) {
                TEST_OK(device->backend->upload(device, f.counts, routings[r], sizeof routings[r]));
                replay(&f, routings[r], "device counts");
            }
        }
        fixture_close(&f);
    }
}

static void test_host_counts(void **state)
{
    (void)state;
    for (int32_t r = 0; r < MOET_COUNT_OF(routings); r++) {
        if (r == 2) continue; /* no rows: nothing to capture */
        fixture f;
        int32_t counts[E];
        fixture_open(&f, false, MOET_LAYOUT_NK);
        memcpy(counts, routings[r], sizeof counts);
        capture(&f, counts);
        memset(counts, 0x7f, sizeof counts); /* read before the call returned */
        replay(&f, routings[r], "host counts");
        replay(&f, routings[r], "host counts, again");
        fixture_close(&f);
    }
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--device") == 0) spec = argv[2];
    if (moet_device_open(spec, &device) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    if (!device->backend->capture_begin) {
        fprintf(stderr, "%s has no graphs\n", spec);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_counts),
        cmocka_unit_test(test_host_counts),
    };
    int failed = cmocka_run_group_tests_name("capture", tests, NULL, NULL);
    moet_device_close(device);
    return failed;
}
