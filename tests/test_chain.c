/* Launches that read what the one before wrote, with nothing between them, on a stream and in a graph: the same bits as
 * with a wait after each. Few CTAs a launch, so that SMs are free for one that begins too early (programmatic dependent
 * launch). Every family that is capturable, a pairwise set of its configs.
 *
 *   test_chain [--device SPEC] [--every N]
 */
#include "configs.h"
#include "subject.h"

#include <math.h>

#include "../kernels/reference.h"

static const char *spec = "cuda";
static int64_t every = 1;
static moet_device *device;

enum { EXPERTS = 4, HIDDEN = 1024, INTER = HIDDEN / 2, ROWS = 64, LAUNCHES = 6 }; /* N = 2 INTER = K */
static const int32_t counts_list[EXPERTS] = {24, 0, 33, 7};
static const size_t out_bytes = (size_t)ROWS * HIDDEN * sizeof(uint16_t);

typedef struct chain {
    test_subject subject;
    test_buffer x, w, bias, counts;
    test_buffer between[2]; /* what launches read and write in turn, the first one from x */
} chain;

static void create_random(test_buffer *buffer, int64_t count, float scale, uint64_t seed)
{
    uint16_t *values = test_allocate((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = moet_bf16_from_float(test_normal(&seed) * scale);
    test_buffer_create(device, buffer, values, (size_t)count * sizeof *values);
    free(values);
}

static moet_status launch(const chain *c, int32_t nth)
{
    const moet_family_launch_args args = {.x = test_buffer_inside(nth == 0 ? &c->x : &c->between[(nth + 1) % 2]),
                                          .w = test_buffer_inside(&c->w),
                                          .bias = c->subject.problem->bias ? test_buffer_inside(&c->bias) : NULL,
                                          .out = test_buffer_inside(&c->between[nth % 2]),
                                          .counts = c->subject.on_device ? test_buffer_inside(&c->counts) : counts_list,
                                          .counts_on_device = c->subject.on_device,
                                          .rows = ROWS,
                                          .workspace = c->subject.workspace,
                                          .stream = c->subject.stream};
    return c->subject.config->family->launch(c->subject.state, &args);
}

enum { WAITING, STREAM, GRAPH, WAYS };
static const char *const way_texts[WAYS] = {"one by one", "on a stream", "in a graph"};

/* All launches this way, twice; the last one's output into bits. */
static void run(chain *c, int32_t way, uint16_t *bits)
{
    const moet_backend *backend = device->backend;
    moet_status status = MOET_OK;
    void *graph = NULL;
    for (int32_t i = 0; i < 2; i++)
        TEST_OK(backend->fill(device, test_buffer_inside(&c->between[i]), TEST_POISON, out_bytes));
    if (way == GRAPH) TEST_OK(backend->capture_begin(device, c->subject.stream));
    for (int32_t i = 0; i < (way == GRAPH ? 1 : 2) * LAUNCHES && status == MOET_OK; i++) {
        status = launch(c, i % LAUNCHES);
        if (way == WAITING && status == MOET_OK) status = backend->stream_synchronize(device, c->subject.stream);
    }
    if (way == GRAPH) TEST_OK(backend->capture_end(device, c->subject.stream, &graph));
    for (int32_t i = 0; way == GRAPH && i < 2 && status == MOET_OK; i++)
        status = backend->graph_launch(device, graph, c->subject.stream);
    if (status == MOET_OK) status = backend->stream_synchronize(device, c->subject.stream);
    if (status != MOET_OK) test_fail("%s %s: %s", c->subject.config_text, way_texts[way], moet_last_error());
    if (graph) backend->graph_destroy(device, graph);
    TEST_OK(backend->download(device, bits, test_buffer_inside(&c->between[(LAUNCHES - 1) % 2]), out_bytes));
}

static void check(chain *c)
{
    uint16_t *want = test_allocate(out_bytes), *found = test_allocate(out_bytes);
    int64_t zeros = 0;
    run(c, WAITING, want);
    for (int64_t i = 0; i < (int64_t)ROWS * HIDDEN; i++) zeros += (want[i] & 0x7fff) == 0;
    assert_true(zeros < ROWS);
    for (int32_t way = STREAM; way < WAYS; way++) {
        run(c, way, found);
        if (memcmp(want, found, out_bytes) != 0)
            test_fail("%s (%s, counts on the %s): launches %s give other bits than one by one", c->subject.config_text,
                      c->subject.label, c->subject.on_device ? "device" : "host", way_texts[way]);
    }
    free(want);
    free(found);
}

static int32_t check_family(const moet_family *family, chain *c)
{
    moet_problem problems[4];
    test_configs configs;
    test_kernel kernel = {0};
    int32_t checked = 0;
    for (int32_t i = 0; i < MOET_COUNT_OF(problems); i++) {
        moet_problem_init(&problems[i], MOET_OP_UP, EXPERTS, HIDDEN, INTER);
        problems[i].layout = i & 1 ? MOET_LAYOUT_KN : MOET_LAYOUT_NK;
        problems[i].bias = i & 2;
    }
    test_configs_create(family, problems, MOET_COUNT_OF(problems), &device->info, true, &configs);
    for (int32_t i = 0; i < 2 * configs.count; i += (int32_t)every) {
        const test_choice *choice = &configs.choices[i / 2];
        char why[MOET_REASON_SIZE];
        c->subject = (test_subject){.device = device,
                                    .config = &choice->config,
                                    .problem = &problems[choice->problem],
                                    .label = choice->problem & 1 ? "kn" : "nk",
                                    .max_rows = ROWS,
                                    .on_device = i & 1,
                                    .kernel = &kernel};
        const moet_traits traits = family->traits(c->subject.problem, &choice->config);
        if (!traits.capturable || (c->subject.on_device ? !traits.device_counts : !traits.host_counts)) continue;
        if (!test_subject_open(&c->subject, why)) continue;
        check(c);
        test_subject_close(&c->subject);
        checked++;
    }
    test_kernel_release(&kernel);
    test_configs_destroy(&configs);
    return checked;
}

static void test_families(void **state)
{
    (void)state;
    chain c = {0};
    int32_t all = 0;
    const float w_scale = 1 / sqrtf(HIDDEN); /* rows keep their size */
    create_random(&c.x, (int64_t)ROWS * HIDDEN, 1, 1);
    create_random(&c.w, (int64_t)EXPERTS * HIDDEN * HIDDEN, w_scale, 2);
    create_random(&c.bias, (int64_t)EXPERTS * HIDDEN, 1, 3);
    test_buffer_create(device, &c.counts, counts_list, sizeof counts_list);
    for (int32_t i = 0; i < 2; i++) test_buffer_create(device, &c.between[i], NULL, out_bytes);
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *family = moet_families[i];
        if (family->gemm || strcmp(family->backend, device->info.backend) != 0) continue;
        const int32_t checked = check_family(family, &c);
        print_message("%s: %d chains of launches right\n", family->name, checked);
        all += checked;
    }
    assert_true(all > 0);
    test_buffer_destroy(device, &c.x);
    test_buffer_destroy(device, &c.w);
    test_buffer_destroy(device, &c.bias);
    test_buffer_destroy(device, &c.counts);
    for (int32_t i = 0; i < 2; i++) test_buffer_destroy(device, &c.between[i]);
}

static int group_open(void **state)
{
    (void)state;
    if (moet_device_open(spec, &device) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    return !device->backend->capture_begin;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(device);
    return 0;
}

int main(int argc, char **argv)
{
    const test_option options[] = {{.name = "--device", .text = &spec}, {.name = "--every", .number = &every}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families)};
    return cmocka_run_group_tests_name("chain", tests, group_open, group_close);
}
