/* Device specifications, keys, and the backend interface on every device of this machine. */
#include "test.h"

#include <math.h>

#include "../bench/bench.h"
#include "../kernels/ops.h"
#include "../kernels/reference.h"

static moet_device *device;
static const char *spec = "host";

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

static void test_specs(void **state)
{
    (void)state;
    moet_device *other = NULL;
    TEST_FAILS(MOET_INVALID, "'bogus' is unknown", moet_device_open("bogus", &other));
    TEST_FAILS(MOET_INVALID, "unknown", moet_device_open("", &other));
    TEST_FAILS(MOET_INVALID, "unknown", moet_device_open("a_backend_with_a_long_name:1", &other));
    TEST_FAILS(MOET_INVALID, "a device number", moet_device_open("host:", &other));
    TEST_FAILS(MOET_INVALID, "a device number", moet_device_open("host:x", &other));
    TEST_FAILS(MOET_INVALID, "a device number", moet_device_open("host:-1", &other));
    TEST_FAILS(MOET_INVALID, "a device number", moet_device_open("host:1024", &other));
    TEST_FAILS(MOET_INVALID, "a device number", moet_device_open("host:0x", &other));
    TEST_FAILS(MOET_NOT_FOUND, "1 host device", moet_device_open("host:5", &other));
    moet_status status = moet_device_open("cuda:1000", &other);
    assert_true(status == MOET_NOT_FOUND || status == MOET_UNSUPPORTED || status == MOET_MISMATCH);
    assert_true(moet_last_error()[0]);
    assert_null(other);
    TEST_OK(moet_device_open("auto", &other));
    assert_true(other->info.name[0]);
    moet_device_close(other);
    TEST_OK(moet_device_open("host:0", &other));
    assert_string_equal(other->info.backend, "host");
    moet_device_close(other);
    moet_device_close(NULL);
    assert_null(moet_backend_find("bogus"));
    assert_non_null(moet_backend_find("host"));
}

static void test_key(void **state)
{
    (void)state;
    char key[MOET_DEVICE_KEY_SIZE];
    moet_device_info info = {.backend = "cuda",
                             .name = "NVIDIA H100 80GB HBM3",
                             .cc_major = 9,
                             .sm_count = 132,
                             .memory_bytes = 85520809984,
                             .power_limit_mw = 700000};
    moet_device_format_key(&info, key);
    assert_string_equal(
        key, "backend=cuda,name=NVIDIA H100 80GB HBM3,cc=9.0,sms=132,memory_mib=81559,power_w=700,partition=");
    /* What is in the key tells devices apart; what is not does not. */
    char other[MOET_DEVICE_KEY_SIZE];
    moet_device_info changed = info;
    strcpy(changed.driver, "999.99");
    changed.l2_bytes = 12345;
    moet_device_format_key(&changed, other);
    assert_string_equal(key, other);
    strcpy(changed.partition, "1g.10gb");
    moet_device_format_key(&changed, other);
    assert_string_not_equal(key, other);
    /* The longest of everything fits. */
    memset(&info, 0, sizeof info);
    memset(info.backend, 'b', sizeof info.backend - 1);
    memset(info.name, 'n', sizeof info.name - 1);
    memset(info.partition, 'p', sizeof info.partition - 1);
    info.cc_major = info.cc_minor = info.sm_count = INT32_MAX;
    info.memory_bytes = info.power_limit_mw = INT64_MAX;
    moet_device_format_key(&info, key);
    assert_int_equal(key[strlen(key) - 1], 'p');
}

static void test_description(void **state)
{
    (void)state;
    char key[MOET_DEVICE_KEY_SIZE];
    assert_true(device->info.name[0]);
    assert_true(device->info.sm_count >= 1);
    assert_true(device->info.memory_bytes > 1 << 20);
    assert_null(strpbrk(device->info.name, "\n,\""));
    moet_device_format_key(&device->info, key);
    assert_string_equal(key, device->key);
    moet_device *again;
    TEST_OK(moet_device_open(spec, &again)); /* the same device has the same key each time */
    assert_string_equal(again->key, device->key);
    moet_device_close(again);
    TEST_OK(device->backend->activate(device));
}

static void test_memory(void **state)
{
    (void)state;
    const moet_backend *b = device->backend;
    uint8_t sent[1000], back[1000];
    void *memory = NULL, *huge = NULL;
    size_t left = 0;
    TEST_OK(b->free_bytes(device, &left));
    assert_true(left > 1 << 20);
    TEST_OK(b->alloc(device, sizeof sent, &memory));
    assert_int_equal((uintptr_t)memory % 256, 0);
    for (size_t i = 0; i < sizeof sent; i++) sent[i] = (uint8_t)(i * 7);
    TEST_OK(b->upload(device, memory, sent, sizeof sent));
    TEST_OK(b->download(device, back, memory, sizeof back));
    assert_memory_equal(sent, back, sizeof sent);
    TEST_OK(b->fill(device, memory, 0x5c, 500));
    TEST_OK(b->download(device, back, memory, sizeof back));
    for (size_t i = 0; i < 500; i++) assert_int_equal(back[i], 0x5c);
    assert_memory_equal(sent + 500, back + 500, 500);
    b->free(device, memory);
    b->free(device, NULL);
    TEST_FAILS(MOET_NO_DEVICE_MEMORY, NULL, b->alloc(device, (size_t)1 << 60, &huge));
    assert_null(huge);
}

static void test_streams_and_events(void **state)
{
    (void)state;
    const moet_backend *b = device->backend;
    void *stream = NULL, *begin = NULL, *end = NULL;
    double time_us = -1;
    TEST_OK(b->stream_create(device, &stream));
    TEST_OK(b->event_create(device, &begin));
    TEST_OK(b->event_create(device, &end));
    const int64_t begin_ns = moet_clock_ns();
    TEST_OK(b->event_record(device, begin, stream));
    TEST_OK(b->event_record(device, end, stream));
    TEST_OK(b->event_elapsed_us(device, begin, end, &time_us));
    assert_true(time_us >= 0 && time_us <= 1e-3 * (double)(moet_clock_ns() - begin_ns) + 1000);
    TEST_OK(b->stream_synchronize(device, stream));
    TEST_OK(b->stream_synchronize(device, NULL));
    b->event_destroy(device, begin);
    b->event_destroy(device, end);
    b->stream_destroy(device, stream);
    moet_clocks clocks;
    TEST_OK(b->clocks(device, &clocks));
    assert_true(clocks.sm_mhz >= 0 && clocks.power_mw >= 0);
    assert_true(!b->capture_begin == !b->capture_end && !b->capture_begin == !b->graph_launch &&
                !b->capture_begin == !b->graph_destroy);
}

/* Rows of several scales: what moet_ops_spread promises, whatever the device. */
static void test_spread(void **state)
{
    (void)state;
    enum { ROWS = 23, K = 136, COUNT = ROWS * K };
    const moet_backend *b = device->backend;
    uint16_t from[COUNT], to[COUNT];
    int32_t exponents[13] = {0};
    moet_ops *ops = NULL;
    void *device_from = NULL, *device_to = NULL;
    TEST_OK(moet_ops_create(device, &ops));
    TEST_OK(b->alloc(device, sizeof from, &device_from));
    TEST_OK(b->alloc(device, sizeof to, &device_to));
    TEST_OK(moet_ops_random(ops, device_from, COUNT, 3, 1.0f, NULL));
    TEST_OK(moet_ops_spread(ops, device_to, device_from, ROWS, K, 7, NULL));
    TEST_OK(b->stream_synchronize(device, NULL));
    TEST_OK(b->download(device, from, device_from, sizeof from));
    TEST_OK(b->download(device, to, device_to, sizeof to));
    for (int32_t i = 0; i < COUNT; i++) {
        const int32_t kind = i / K % 5, k = i % K;
        const bool repeats = kind == 0 && k >= K / 2;
        const int32_t at = repeats ? i - K / 2 : i;
        const double ratio = log2((double)moet_bf16_to_float(to[i]) / (double)moet_bf16_to_float(from[at]));
        const bool fits = kind == 1 ? ratio == 6 : kind == 2 ? ratio == -6 : kind == 4 ? ratio == 0 : fabs(ratio) <= 6;
        if (!fits || ratio != rint(ratio) || (repeats && to[i] != to[at]))
            test_fail("row %d, column %d: 2^%g times", i / K, k, ratio);
        if (kind == 0 || kind == 3) exponents[6 + (int32_t)ratio]++;
    }
    for (int32_t i = 0; i < 13; i++) assert_true(exponents[i] > 0);
    b->free(device, device_from);
    b->free(device, device_to);
    moet_ops_destroy(ops);
}

/* Of every eighth column of w the halves cancel; all else stays. */
static void test_mirror(void **state)
{
    (void)state;
    enum { EXPERTS = 3, H = 40, I = 24, N = 2 * I, K = H, COUNT = EXPERTS * N * K };
    const moet_backend *b = device->backend;
    uint16_t before[COUNT], after[COUNT];
    moet_problem problem;
    moet_ops *ops = NULL;
    void *w = NULL;
    TEST_OK(moet_ops_create(device, &ops));
    TEST_OK(b->alloc(device, sizeof before, &w));
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, H, I);
    for (int32_t layout = 0; layout < MOET_LAYOUT_COUNT; layout++) {
        const bool nk = layout == MOET_LAYOUT_NK;
        problem.layout = (moet_layout)layout;
        TEST_OK(moet_ops_random(ops, w, COUNT, 3, 1.0f, NULL));
        TEST_OK(b->stream_synchronize(device, NULL));
        TEST_OK(b->download(device, before, w, sizeof before));
        TEST_OK(moet_ops_mirror(ops, &problem, w, NULL));
        TEST_OK(b->stream_synchronize(device, NULL));
        TEST_OK(b->download(device, after, w, sizeof after));
        for (int32_t i = 0; i < COUNT; i++) {
            const int32_t inside = i % (N * K), n = nk ? inside / K : inside % N, k = nk ? inside % K : inside / N;
            const bool mirrored = n % 8 == 7 && k >= K / 2;
            const uint16_t wanted = mirrored ? before[i - K / 2 * (nk ? 1 : N)] ^ 0x8000 : before[i];
            if (after[i] != wanted) test_fail("layout %d, expert %d, column %d, k %d", layout, i / (N * K), n, k);
        }
    }
    b->free(device, w);
    moet_ops_destroy(ops);
}

/* test_device [--device SPEC] */
int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--device") == 0) spec = argv[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_specs),
        cmocka_unit_test(test_key),
        cmocka_unit_test(test_description),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_streams_and_events),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_mirror),
    };
    return cmocka_run_group_tests_name("device", tests, group_open, group_close);
}
