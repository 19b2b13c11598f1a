/* Plans on the host: where an answer comes from, what a launch computes, what it refuses, threads, no allocation. */
#include "table_text.h"
#include "test.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "../kernels/reference.h"
#include "../src/table.h"

/* ---- counting allocations: malloc of this program stands before libc's, for every library it loads ---- */

#if defined(__SANITIZE_ADDRESS__)
#define COUNTS_ALLOCATIONS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTS_ALLOCATIONS 0
#endif
#endif
#ifndef COUNTS_ALLOCATIONS
#define COUNTS_ALLOCATIONS 1
#endif

static volatile int32_t allocation_count, counting;

#if COUNTS_ALLOCATIONS
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static void count_one(void)
{
    if (counting) __atomic_add_fetch(&allocation_count, 1, __ATOMIC_RELAXED);
}
void *malloc(size_t size)
{
    count_one();
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size)
{
    count_one();
    return __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size)
{
    count_one();
    return __libc_realloc(memory, size);
}
void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size)
{
    count_one();
    return __libc_memalign(alignment, size);
}
void *aligned_alloc(size_t alignment, size_t size)
{
    count_one();
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **memory, size_t alignment, size_t size)
{
    count_one();
    void *result = __libc_memalign(alignment, size);
    if (!result) return 12; /* ENOMEM */
    *memory = result;
    return 0;
}
#endif

/* ---- one problem with inputs ---- */

enum { E = 4, H = 64, I = 32, N = 2 * I, max_rows = 2048 };
static uint16_t x[max_rows * H] __attribute__((aligned(64))), w[E * N * H] __attribute__((aligned(64))),
    bias[E * N] __attribute__((aligned(64)));
static const int32_t balanced[E] = {16, 16, 16, 16}, skewed[E] = {61, 1, 1, 1}, close_to_balanced[E] = {20, 20, 20, 20},
                     far_away[E] = {500, 500, 500, 500}, nothing[E] = {0};
static moet_problem problem;
static moet_device *host;
static char folder[256];
static char texts[3][MOET_CONFIG_SIZE];
static char validators[3][64];

/* A config of host_tile that is not the default, so that a table's answer can be told from it. */
static text_winner winner(int32_t index, int64_t time_ns)
{
    const moet_family *family = moet_family_find("host_tile");
    moet_config config, fallback;
    char why[MOET_REASON_SIZE];
    TEST_OK(moet_default_config(&problem, 64, false, &host->info, &fallback));
    moet_config_first(family, &config);
    for (int32_t left = index;;) {
        if (!moet_config_equal(&config, &fallback) && family->applicable(&problem, &config, &host->info, why) &&
            left-- == 0)
            return text_winner_of(&config, texts[index], validators[index], time_ns);
        assert_true(moet_config_next(&config));
    }
}

/* Of the first point it is also known what the second's winner took. */
static void write_table(const char *dir)
{
    text_point points[] = {
        {.counts = balanced, .any = winner(0, 1500), .device_counts = winner(1, 2500)},
        {.counts = skewed, .any = winner(1, 2000)},
    };
    const text_other others[] = {{"no_such_family:a=1", 1}, {texts[1], 1600}};
    points[0].any.others = others;
    points[0].any.other_count = MOET_COUNT_OF(others);
    char *text = text_table(host, &problem, points, 2, NULL, 0);
    text_write(dir, text);
    free(text);
}

static int group_open(void **state)
{
    (void)state;
    uint64_t random = 5;
    unsetenv("MOET_TABLE");
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    problem.bias = true;
    for (int32_t i = 0; i < max_rows * H; i++) x[i] = moet_bf16_from_float((float)test_between(&random, -2, 2));
    for (int32_t i = 0; i < E * N * H; i++) w[i] = moet_bf16_from_float((float)test_between(&random, -2, 2));
    for (int32_t i = 0; i < E * N; i++) bias[i] = moet_bf16_from_float((float)test_between(&random, -8, 8));
    if (moet_device_open("host", &host) != MOET_OK) return 1;
    test_folder_make(folder);
    write_table(folder);
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(host);
    test_folder_remove(folder);
    return 0;
}

static moet_plan *plan_make(moet_handle *handle)
{
    moet_plan *plan;
    moet_plan_options options = {.max_rows = max_rows};
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    return plan;
}

/* Launches and compares with the reference: values, as a zero may have either sign. */
static void launch_right(moet_plan *plan, const int32_t *counts)
{
    moet_routing r;
    TEST_OK(moet_routing_summarize(counts, E, &r));
    size_t size = (size_t)(r.rows + 1) * N * 2;
    uint16_t *out = NULL, *want = malloc(size);
    assert_int_equal(posix_memalign((void **)&out, 64, size), 0);
    assert_non_null(want);
    memset(out, 0xff, size);
    moet_launch_args args = {.x = x, .w = w, .bias = bias, .out = out, .counts = counts};
    TEST_OK(moet_launch(plan, &args));
    moet_reference_gemm(&problem, x, w, bias, counts, want);
    for (int64_t i = 0; i < r.rows * N; i++) {
        float got = moet_bf16_to_float(out[i]), expected = moet_bf16_to_float(want[i]);
        if (!(got == expected)) test_fail("out[%lld] is %g, not %g", (long long)i, (double)got, (double)expected);
    }
    for (int64_t i = r.rows * N; i < (r.rows + 1) * N; i++) assert_int_equal(out[i], 0xffff);
    free(out);
    free(want);
}

static void test_default_without_a_table(void **state)
{
    (void)state;
    moet_handle *handle;
    TEST_OK(moet_open(NULL, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 0);
    assert_int_equal(moet_refusal_count(handle), 0);
    assert_string_equal(moet_device_key(handle), host->key);
    moet_plan *plan = plan_make(handle);
    moet_choice choice;
    TEST_OK(moet_plan_query(plan, balanced, &choice));
    assert_int_equal(choice.hit, MOET_HIT_DEFAULT);
    assert_true(choice.distance == 0 && choice.tuned_rows == 0 && choice.tuned_time_us == 0);
    moet_config config;
    TEST_OK(moet_config_parse(choice.config, &config));
    launch_right(plan, balanced);
    launch_right(plan, skewed);
    launch_right(plan, nothing);
    moet_plan_destroy(plan);
    moet_plan_destroy(NULL);
    moet_close(handle);
    moet_close(NULL);
}

/* The default of a plan is for the rows that it expects, else for all that it is made for. */
static void test_default_for_what_is_expected(void **state)
{
    (void)state;
    static const int64_t expected[] = {0, E, max_rows};
    moet_handle *handle;
    TEST_OK(moet_open(NULL, "host", &handle));
    char texts_of[MOET_COUNT_OF(expected)][MOET_CONFIG_SIZE];
    for (int32_t i = 0; i < MOET_COUNT_OF(expected); i++) {
        moet_plan *plan;
        moet_choice choice;
        moet_config config;
        const moet_plan_options options = {.max_rows = max_rows, .expected_rows = expected[i]};
        TEST_OK(moet_default_config(&problem, expected[i] ? expected[i] : max_rows, false, &host->info, &config));
        moet_config_format(&config, texts_of[i]);
        TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
        TEST_OK(moet_plan_query(plan, balanced, &choice));
        assert_string_equal(choice.config, texts_of[i]);
        launch_right(plan, far_away);
        moet_plan_destroy(plan);
    }
    assert_string_equal(texts_of[0], texts_of[2]);
    assert_string_not_equal(texts_of[0], texts_of[1]);
    moet_close(handle);
}

static void test_hits(void **state)
{
    (void)state;
    moet_handle *handle;
    TEST_OK(moet_open(folder, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 3);
    assert_int_equal(moet_refusal_count(handle), 0);
    moet_plan *plan = plan_make(handle);
    moet_choice choice;
    winner(0, 1), winner(1, 1);
    TEST_OK(moet_plan_query(plan, balanced, &choice));
    assert_int_equal(choice.hit, MOET_HIT_EXACT);
    assert_string_equal(choice.config, texts[0]);
    assert_int_equal(choice.tuned_rows, 64);
    assert_true(fabs(choice.tuned_time_us - 1.5) < 1e-9 && choice.distance == 0);
    TEST_OK(moet_plan_query(plan, skewed, &choice));
    assert_int_equal(choice.hit, MOET_HIT_EXACT);
    assert_string_equal(choice.config, texts[1]);
    TEST_OK(moet_plan_query(plan, close_to_balanced, &choice));
    assert_int_equal(choice.hit, MOET_HIT_NEAREST);
    assert_string_equal(choice.config, texts[0]);
    assert_true(fabs(choice.distance - log(80.0 / 64)) < 1e-9);
    TEST_OK(moet_plan_query(plan, far_away, &choice));
    assert_int_equal(choice.hit, MOET_HIT_DEFAULT);
    TEST_OK(moet_plan_query(plan, nothing, &choice));
    assert_int_equal(choice.hit, MOET_HIT_DEFAULT);
    assert_string_equal(moet_hit_name(MOET_HIT_NEAREST), "nearest");
    assert_string_equal(moet_hit_name((moet_hit)99), "unknown");
    launch_right(plan, balanced);
    launch_right(plan, skewed);
    launch_right(plan, close_to_balanced);
    launch_right(plan, far_away);
    launch_right(plan, nothing);
    /* Another problem on the same table has the default. */
    moet_problem other = problem;
    other.bias = false;
    moet_plan *untuned;
    moet_plan_options options = {.max_rows = 64};
    TEST_OK(moet_plan_create(handle, &other, &options, &untuned));
    TEST_OK(moet_plan_query(untuned, balanced, &choice));
    assert_int_equal(choice.hit, MOET_HIT_DEFAULT);
    moet_plan_destroy(untuned);
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* Counts that the host does not know: chosen for what the caller expects, from the other winners. */
static void test_device_counts(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan;
    moet_choice choice;
    winner(1, 1);
    TEST_OK(moet_open(folder, "host", &handle));
    moet_plan_options options = {.max_rows = 256, .device_counts = true, .expected_rows = 64};
    moet_status status = moet_plan_create(handle, &problem, &options, &plan);
    TEST_OK(status);
    TEST_OK(moet_plan_query(plan, NULL, &choice));
    assert_int_equal(choice.hit, MOET_HIT_EXACT);
    assert_string_equal(choice.config, texts[1]);
    launch_right(plan, balanced);
    launch_right(plan, skewed);
    launch_right(plan, nothing);
    moet_launch_args args = {.x = x, .w = w, .bias = bias, .out = x};
    TEST_FAILS(MOET_INVALID, "counts are NULL", moet_launch(plan, &args));
    moet_plan_destroy(plan);
    options.expected_max_over_mean = 4;
    options.expected_rows = 0; /* max_rows */
    options.max_rows = 260;
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    TEST_OK(moet_plan_query(plan, NULL, &choice));
    assert_int_equal(choice.hit, MOET_HIT_DEFAULT); /* more than four times the rows */
    launch_right(plan, skewed);
    moet_plan_destroy(plan);
    moet_close(handle);
}

static void test_environment(void **state)
{
    (void)state;
    moet_handle *handle;
    setenv("MOET_TABLE", folder, 1);
    TEST_OK(moet_open(NULL, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 3);
    moet_close(handle);
    setenv("MOET_TABLE", "off", 1);
    TEST_OK(moet_open(folder, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 0);
    moet_close(handle);
    setenv("MOET_TABLE", "/nowhere/at/all", 1);
    TEST_FAILS(MOET_NOT_FOUND, "/nowhere/at/all/table.json: no such file", moet_open(folder, "host", &handle));
    TEST_CONTAINS(moet_last_error(), "(from MOET_TABLE)");
    TEST_FAILS(MOET_INVALID, "unknown", moet_open(folder, "toaster", &handle)); /* no fault of the table's */
    assert_null(strstr(moet_last_error(), "MOET_TABLE"));
    setenv("MOET_TABLE", "", 1); /* as if it were not set */
    TEST_OK(moet_open(folder, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 3);
    moet_close(handle);
    unsetenv("MOET_TABLE");
    TEST_FAILS(MOET_INVALID, "unknown", moet_open(NULL, "toaster", &handle));
    TEST_FAILS(MOET_NOT_FOUND, "no such file", moet_open("/nowhere", "host", &handle));
}

static void test_refusals_of_plans(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan = (moet_plan *)&problem;
    TEST_OK(moet_open(NULL, "host", &handle));
    static const struct {
        moet_plan_options options;
        const char *words;
    } cases[] = {
        {{.max_rows = 0}, "max_rows is 0"},
        {{.max_rows = -5}, "max_rows is -5"},
        {{.max_rows = MOET_MAX_ROWS + 1}, "max_rows"},
        {{.max_rows = 8, .max_sms = -1}, "max_sms is -1"},
        {{.max_rows = 8, .expected_rows = 9}, "expected_rows is 9"},
        {{.max_rows = 8, .expected_rows = -1}, "expected_rows is -1"},
        {{.max_rows = 8, .expected_max_over_mean = 0.5}, "expected_max_over_mean"},
        {{.max_rows = 8, .expected_max_over_mean = 1e9}, "expected_max_over_mean"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++)
        TEST_FAILS(MOET_INVALID, cases[i].words, moet_plan_create(handle, &problem, &cases[i].options, &plan));
    moet_plan_options nan_options = {.max_rows = 8, .expected_max_over_mean = NAN}, fine = {.max_rows = 8};
    TEST_FAILS(MOET_INVALID, "expected_max_over_mean", moet_plan_create(handle, &problem, &nan_options, &plan));
    moet_problem bad = problem;
    bad.hidden = 9;
    TEST_FAILS(MOET_INVALID, "multiples of 8", moet_plan_create(handle, &bad, &fine, &plan));
    assert_ptr_equal(plan, &problem);
    moet_close(handle);
}

static void test_refusals_of_launches(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan;
    moet_choice choice;
    static uint16_t out[64 * N] __attribute__((aligned(64)));
    memset(out, 0xff, sizeof out);
    TEST_OK(moet_open(NULL, "host", &handle));
    moet_plan_options options = {.max_rows = 64};
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    const int32_t negative[E] = {1, -1, 0, 0}, many[E] = {64, 0, 0, 1};
    moet_launch_args good = {.x = x, .w = w, .bias = bias, .out = out, .counts = balanced}, args;
#define REFUSE(field, value, words)                                                                                    \
    do {                                                                                                               \
        args = good;                                                                                                   \
        args.field = (value);                                                                                          \
        TEST_FAILS(MOET_INVALID, words, moet_launch(plan, &args));                                                     \
    } while (0)
    REFUSE(x, NULL, "NULL");
    REFUSE(w, NULL, "NULL");
    REFUSE(bias, NULL, "NULL");
    REFUSE(out, NULL, "NULL");
    REFUSE(counts, NULL, "counts are NULL");
    REFUSE(counts, negative, "-1 rows");
    REFUSE(counts, many, "at most 64");
    REFUSE(x, x + 1, "16-byte aligned");
    REFUSE(w, w + 4, "16-byte aligned");
    REFUSE(bias, bias + 2, "16-byte aligned");
    REFUSE(out, out + 1, "16-byte aligned");
    REFUSE(x, out, "out is x");
    TEST_FAILS(MOET_INVALID, "at most 64", moet_plan_query(plan, many, &choice));
    TEST_FAILS(MOET_INVALID, "NULL", moet_plan_query(plan, NULL, &choice));
    for (int32_t i = 0; i < MOET_COUNT_OF(out); i++) assert_int_equal(out[i], 0xffff);
    /* No rows: nothing is needed and nothing happens. */
    args = (moet_launch_args){.counts = nothing};
    TEST_OK(moet_launch(plan, &args));
    TEST_OK(moet_launch(plan, &good));
    moet_plan_destroy(plan);
    moet_close(handle);
}

static void test_replay_command(void **state)
{
    (void)state;
    moet_handle *handle;
    char text[1000], small[1000];
    TEST_OK(moet_open(folder, "host", &handle));
    moet_plan *plan = plan_make(handle);
    TEST_OK(moet_plan_replay_command(plan, skewed, text, sizeof text));
    TEST_CONTAINS(text, "moe-tune bench");
    TEST_CONTAINS(text, "[61,1,1,1]");
    TEST_CONTAINS(text, folder);
    TEST_CONTAINS(text, "--ops up");
    TEST_CONTAINS(text, "--bias");
    size_t length = strlen(text);
    for (size_t size = 0; size <= length; size++) {
        memset(small, 'x', sizeof small);
        TEST_FAILS(MOET_INVALID, "does not fit", moet_plan_replay_command(plan, skewed, small, size));
        assert_int_equal(small[size], 'x');
    }
    TEST_OK(moet_plan_replay_command(plan, skewed, small, length + 1));
    assert_string_equal(small, text);
    TEST_FAILS(MOET_INVALID, "NULL", moet_plan_replay_command(plan, NULL, text, sizeof text));
    moet_plan_destroy(plan);
    moet_close(handle);
    TEST_OK(moet_open(NULL, "host", &handle));
    plan = plan_make(handle);
    TEST_OK(moet_plan_replay_command(plan, skewed, text, sizeof text));
    TEST_CONTAINS(text, "--default");
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* A plan for more rows has another default than the bench of a few would choose, and one with counts on the device
 * another winner than these counts have: the command names what would run. */
static void test_replay_of_another_choice(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan;
    moet_choice choice;
    moet_config few;
    char text[1500], few_text[MOET_CONFIG_SIZE], wanted[MOET_CONFIG_SIZE + 16];
    static const int32_t ones[E] = {1, 1, 1, 1}, foreign[E] = {9, 0, 0, 0};
    TEST_OK(moet_default_config(&problem, E, false, &host->info, &few));
    moet_config_format(&few, few_text);
    TEST_OK(moet_open(NULL, "host", &handle));
    plan = plan_make(handle);
    TEST_OK(moet_plan_query(plan, ones, &choice));
    assert_string_not_equal(choice.config, few_text);
    TEST_OK(moet_plan_replay_command(plan, ones, text, sizeof text));
    snprintf(wanted, sizeof wanted, " --config %s ", choice.config);
    TEST_CONTAINS(text, wanted);
    assert_null(strstr(text, "--default"));
    moet_plan_destroy(plan);
    moet_close(handle);

    TEST_OK(moet_open(folder, "host", &handle));
    const moet_plan_options options = {.max_rows = max_rows, .device_counts = true, .expected_rows = 64};
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    TEST_OK(moet_plan_query(plan, NULL, &choice));
    assert_int_equal(choice.hit, MOET_HIT_EXACT);
    TEST_OK(moet_plan_replay_command(plan, balanced, text, sizeof text));
    TEST_CONTAINS(text, "--table");
    TEST_OK(moet_plan_replay_command(plan, foreign, text, sizeof text)); /* far from every point */
    snprintf(wanted, sizeof wanted, " --config %s ", choice.config);
    TEST_CONTAINS(text, wanted);
    TEST_CONTAINS(text, "--device-counts");
    moet_plan_destroy(plan);
    moet_close(handle);
}

static void test_replay_of_paths(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan;
    moet_problem path;
    char text[1000];
    const moet_plan_options options = {.max_tokens = 64, .choices = 8};
    moet_problem_init(&path, MOET_OP_FFN, 4, 64, 32);
    path.activation = MOET_ACTIVATION_SWIGLU_CLAMP;
    path.clamp = 1.25;
    path.bias = path.down_bias = true;
    TEST_OK(moet_open(NULL, "host", &handle));
    TEST_OK(moet_plan_create(handle, &path, &options, &plan));
    TEST_OK(moet_plan_replay_command(plan, skewed, text, sizeof text));
    TEST_CONTAINS(text, "--ops ffn --layout nk --numerics train --bias --activation swiglu_clamp --prob combine "
                        "--clamp 1.25");
    moet_plan_destroy(plan);
    path.bias = false;
    path.combine = MOET_COMBINE_PADDLE;
    TEST_OK(moet_plan_create(handle, &path, &options, &plan));
    TEST_OK(moet_plan_replay_command(plan, skewed, text, sizeof text));
    TEST_CONTAINS(text, " --bias=down --activation swiglu_clamp --prob combine --combine paddle --clamp 1.25");
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* Two tables side by side, each in its own thread, many times. */
static void *run_thread(void *table)
{
    moet_handle *handle;
    if (moet_open(table, "host", &handle) != MOET_OK) return "open";
    for (int32_t turn = 0; turn < 5; turn++) {
        moet_plan *plan;
        moet_choice choice;
        moet_plan_options options = {.max_rows = 256, .max_sms = 1};
        static _Thread_local uint16_t out[64 * N] __attribute__((aligned(64)));
        if (moet_plan_create(handle, &problem, &options, &plan) != MOET_OK) return "plan";
        if (moet_plan_query(plan, balanced, &choice) != MOET_OK) return "query";
        if (choice.hit != (table ? MOET_HIT_EXACT : MOET_HIT_DEFAULT)) return "hit";
        uint16_t want[64 * N];
        moet_reference_gemm(&problem, x, w, bias, balanced, want);
        for (int32_t i = 0; i < 20; i++) {
            memset(out, 0xff, sizeof out);
            moet_launch_args args = {.x = x, .w = w, .bias = bias, .out = out, .counts = balanced};
            if (moet_launch(plan, &args) != MOET_OK) return "launch";
            for (int32_t j = 0; j < 64 * N; j++)
                if (!(moet_bf16_to_float(out[j]) == moet_bf16_to_float(want[j]))) return "result";
        }
        moet_plan_destroy(plan);
    }
    moet_close(handle);
    return NULL;
}

static void test_two_handles_in_two_threads(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (int32_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_thread, i & 1 ? folder : NULL), 0);
    for (int32_t i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        if (failed) test_fail("thread %d failed at: %s", i, (char *)failed);
    }
}

static void test_launch_allocates_nothing(void **state)
{
    (void)state;
    if (!COUNTS_ALLOCATIONS) skip();
    counting = 1;
    void *volatile some = malloc(1); /* the hook works at all */
    counting = 0;
    free(some);
    assert_int_equal(allocation_count, 1);
    static uint16_t out[max_rows * N] __attribute__((aligned(64)));
    for (int32_t turn = 0; turn < 4; turn++) {
        const bool with_table = turn % 2, is_recording = turn / 2;
        moet_handle *handle;
        TEST_OK(moet_open(with_table ? folder : NULL, "host", &handle));
        if (is_recording) TEST_OK(moet_record_start(handle, 100));
        moet_plan *plan = plan_make(handle);
        static const int32_t *const routings[] = {balanced, skewed, close_to_balanced, far_away, nothing};
        for (int32_t i = 0; i < 2 * MOET_COUNT_OF(routings); i++) {
            moet_launch_args args = {.x = x, .w = w, .bias = bias, .out = out, .counts = routings[i / 2]};
            moet_choice choice;
            allocation_count = 0;
            counting = 1;
            moet_status status = moet_launch(plan, &args);
            int32_t allocated = allocation_count;
            counting = 0;
            TEST_OK(status);
            TEST_OK(moet_plan_query(plan, routings[i / 2], &choice));
            if (allocated) test_fail("launch %d (%s) allocated %d times", i, choice.config, allocated);
        }
        moet_plan_destroy(plan);
        moet_close(handle);
    }
}

/* An entry that cannot be prepared is refused when a plan meets it; the default answers. */
static void test_late_refusal(void **state)
{
    (void)state;
    /* kn weights under a config made for this build, but a problem for which it is not applicable: none on the host
     * today, so the point's config is one that applicable() refuses, if the space has one. */
    const moet_family *family = moet_family_find("host_tile");
    moet_config config;
    char why[MOET_REASON_SIZE], dir[256], text[MOET_CONFIG_SIZE], validator[64];
    moet_config_first(family, &config);
    while (family->applicable(&problem, &config, &host->info, why)) {
        if (!moet_config_next(&config)) skip();
    }
    text_point points[] = {{.counts = balanced, .any = text_winner_of(&config, text, validator, 100)},
                           {.counts = skewed, .any = winner(0, 100)}};
    test_folder_make(dir);
    char *table = text_table(host, &problem, points, 2, NULL, 0);
    text_write(dir, table);
    free(table);
    moet_handle *handle;
    TEST_OK(moet_open(dir, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 2);
    moet_plan *first = plan_make(handle), *second = plan_make(handle);
    assert_int_equal(moet_refusal_count(handle), 1); /* once, though two plans met it */
    TEST_CONTAINS(moet_refusal(handle, 0), text);
    moet_choice choice;
    TEST_OK(moet_plan_query(first, balanced, &choice));
    assert_int_equal(choice.hit, MOET_HIT_NEAREST); /* the other point serves: ln 3.81 away */
    launch_right(first, balanced);
    moet_plan_destroy(first);
    moet_plan_destroy(second);
    moet_close(handle);
    test_folder_remove(dir);
}

static void test_max_sms(void **state)
{
    (void)state;
    moet_handle *handle;
    TEST_OK(moet_open(NULL, "host", &handle));
    for (int32_t sms = 1; sms <= 3; sms++) {
        moet_plan *plan;
        moet_plan_options options = {.max_rows = 64, .max_sms = sms};
        TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
        assert_true(moet_plan_workspace_bytes(plan) < (size_t)1 << 30);
        launch_right(plan, balanced);
        moet_plan_destroy(plan);
    }
    moet_close(handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_without_a_table),
        cmocka_unit_test(test_default_for_what_is_expected),
        cmocka_unit_test(test_hits),
        cmocka_unit_test(test_device_counts),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_refusals_of_plans),
        cmocka_unit_test(test_refusals_of_launches),
        cmocka_unit_test(test_replay_command),
        cmocka_unit_test(test_replay_of_another_choice),
        cmocka_unit_test(test_replay_of_paths),
        cmocka_unit_test(test_two_handles_in_two_threads),
        cmocka_unit_test(test_launch_allocates_nothing),
        cmocka_unit_test(test_late_refusal),
        cmocka_unit_test(test_max_sms),
    };
    return cmocka_run_group_tests_name("plan", tests, group_open, group_close);
}
