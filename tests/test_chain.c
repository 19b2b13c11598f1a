/* Launches that read what the one before wrote, with nothing between them, on a stream and in a graph: the same bits as
 * with a wait after each. Few CTAs a launch, so that SMs are free for one that begins too early (programmatic dependent
 * launch). GEMMs: every family that is capturable, a pairwise set of its configs. Expert paths, which also share their
 * workspace with the one before: moet_ffn, and of every path family the default, all by passes, and some configs.
 * Where there are no graphs, as on the host, on a stream only. And, on a GPU, a path in one launch while others have
 * half of the SMs.
 *
 *   test_chain [--device SPEC] [--every N] [--configs N]
 */
#include "configs.h"
#include "ffn_run.h"
#include "hold_sms.h"

#include "../bench/bench.h"

#include <math.h>

static const char *spec = "cuda";
static int64_t every = 1, config_count = 2;
static moet_handle *handle;
static moet_device *device; /* the handle's */

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

static int32_t way_count(void) { return device->backend->capture_begin ? WAYS : GRAPH; }

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
    for (int32_t way = STREAM; way < way_count(); way++) {
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
        if ((way_count() == WAYS && !traits.capturable) ||
            (c->subject.on_device ? !traits.device_counts : !traits.host_counts))
            continue;
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

/* ---- expert paths ---- */

enum { PATH_EXPERTS = 4, PATH_TOKENS = 64, CHOICES = 3, PATH_HIDDEN = 512, PATH_INTER = 256, PATH_LAUNCHES = 5 };
static const size_t path_bytes = (size_t)PATH_TOKENS * PATH_HIDDEN * sizeof(uint16_t);

/* Launch after launch of one path, whose ids are other ones in turn: what permute left is then not what it must be. */
typedef struct path_chain {
    ffn_path path;
    ffn_placed placed;
    test_buffer between[2], ids[2];
    int32_t counts[2][PATH_EXPERTS];
    int64_t rows[2];
    void *stream;
    moet_plan *plan; /* NULL: prepared */
    ffn_prepared prepared;
    const char *text; /* of the plan or config, with where the counts are */
} path_chain;

static void path_chain_open(path_chain *c, uint64_t *random, moet_problem problem)
{
    *c = (path_chain){0};
    ffn_path_make(&c->path, PATH_TOKENS, CHOICES, problem);
    for (int32_t i = 0; i < 2; i++) { /* the second one's ids stay */
        ffn_path_fill(random, &c->path);
        ffn_place(device, &c->path, false, &c->placed);
        memcpy(c->counts[i], c->placed.counts, sizeof c->counts[i]);
        c->rows[i] = c->placed.rows;
        test_buffer_create(device, &c->ids[i], c->path.ids, PATH_TOKENS * CHOICES * sizeof *c->path.ids);
        test_buffer_create(device, &c->between[i], NULL, path_bytes);
        if (i == 0) ffn_placed_free(&c->placed);
    }
    assert_true(memcmp(c->counts[0], c->counts[1], sizeof c->counts[0]) != 0);
    TEST_OK(device->backend->stream_create(device, &c->stream));
}

static void path_chain_close(path_chain *c)
{
    for (int32_t i = 0; i < 2; i++) {
        test_buffer_destroy(device, &c->ids[i]);
        test_buffer_destroy(device, &c->between[i]);
    }
    device->backend->stream_destroy(device, c->stream);
    ffn_placed_free(&c->placed);
    ffn_path_free(&c->path);
}

static moet_status path_launch(const path_chain *c, int32_t nth)
{
    moet_ffn_args args = c->placed.args;
    args.x = nth == 0 ? args.x : test_buffer_inside(&c->between[(nth + 1) % 2]);
    args.out = test_buffer_inside(&c->between[nth % 2]);
    args.ids = test_buffer_inside(&c->ids[nth % 2]);
    args.counts = c->counts[nth % 2];
    args.stream = c->stream;
    return c->plan ? moet_ffn(c->plan, &args) : ffn_prepared_launch(&c->prepared, &args, c->rows[nth % 2], c->stream);
}

/* As run, of paths. */
static void path_run(path_chain *c, int32_t way, uint16_t *bits)
{
    const moet_backend *backend = device->backend;
    moet_status status = MOET_OK;
    void *graph = NULL;
    for (int32_t i = 0; i < 2; i++)
        TEST_OK(backend->fill(device, test_buffer_inside(&c->between[i]), TEST_POISON, path_bytes));
    if (way == GRAPH) TEST_OK(backend->capture_begin(device, c->stream));
    for (int32_t i = 0; i < (way == GRAPH ? 1 : 2) * PATH_LAUNCHES && status == MOET_OK; i++) {
        status = path_launch(c, i % PATH_LAUNCHES);
        if (way == WAITING && status == MOET_OK) status = backend->stream_synchronize(device, c->stream);
    }
    if (way == GRAPH) TEST_OK(backend->capture_end(device, c->stream, &graph));
    for (int32_t i = 0; way == GRAPH && i < 2 && status == MOET_OK; i++)
        status = backend->graph_launch(device, graph, c->stream);
    if (status == MOET_OK) status = backend->stream_synchronize(device, c->stream);
    if (status != MOET_OK) test_fail("%s %s: %s", c->text, way_texts[way], moet_last_error());
    if (graph) backend->graph_destroy(device, graph);
    TEST_OK(backend->download(device, bits, test_buffer_inside(&c->between[(PATH_LAUNCHES - 1) % 2]), path_bytes));
}

/* The chain must not come to rest, nor die out, nor grow without bound: then a launch that reads too early might find
 * what it should. */
static void check_alive(path_chain *c, const uint16_t *last)
{
    uint16_t *before = test_allocate(path_bytes);
    int64_t equal = 0;
    double squares = 0;
    TEST_OK(device->backend->download(device, before, test_buffer_inside(&c->between[PATH_LAUNCHES % 2]), path_bytes));
    for (int64_t i = 0; i < PATH_TOKENS * PATH_HIDDEN; i++) {
        equal += last[i] == before[i];
        squares += pow((double)moet_bf16_to_float(last[i]), 2) / (PATH_TOKENS * PATH_HIDDEN);
    }
    free(before);
    if (!(squares > 1e-4 && squares < 1e4) || equal > PATH_TOKENS * PATH_HIDDEN / 2)
        test_fail("%s: a root mean square of %g, %lld elements as the launch before had them", c->text, sqrt(squares),
                  (long long)equal);
}

static void path_check(path_chain *c)
{
    uint16_t *want = test_allocate(path_bytes), *found = test_allocate(path_bytes);
    path_run(c, WAITING, want);
    check_alive(c, want);
    for (int32_t way = STREAM; way < way_count(); way++) {
        path_run(c, way, found);
        if (memcmp(want, found, path_bytes) != 0)
            test_fail("%s: launches %s give other bits than one by one", c->text, way_texts[way]);
    }
    free(want);
    free(found);
}

static int32_t check_plans(path_chain *c)
{
    static const char *const texts[] = {"moet_ffn, counts on the host", "moet_ffn, counts on the device"};
    for (int32_t on_device = 0; on_device < 2; on_device++) {
        const moet_plan_options options = ffn_options(&c->path, on_device);
        TEST_OK(moet_plan_create(handle, &c->path.problem, &options, &c->plan));
        c->text = texts[on_device];
        path_check(c);
        moet_plan_destroy(c->plan);
        c->plan = NULL;
    }
    return 2;
}

/* The nth config: the default, all by passes, then by chance; false: it does not apply. */
static bool path_config(uint64_t *random, int64_t nth, const moet_family *family, const moet_problem *problem,
                        moet_config *config)
{
    char why[MOET_REASON_SIZE];
    if (nth > 1) return ffn_draw_config(random, family, problem, &device->info, config);
    *config = (moet_config){.family = family};
    family->default_config(problem, PATH_TOKENS, &device->info, config);
    const char *const params[] = {"act", "gather", "combine"};
    for (int32_t i = 0; i < MOET_COUNT_OF(params) && nth == 1; i++) moet_config_set(config, params[i], "pass");
    return family->applicable(problem, config, &device->info, why);
}

static int32_t check_path_family(path_chain *c, uint64_t *random, const moet_family *family)
{
    moet_plan_options options = ffn_options(&c->path, true);
    int32_t checked = 0;
    options.max_rows = PATH_TOKENS * CHOICES;
    for (int64_t i = 0; i < 2 + config_count; i++) {
        moet_config config;
        if (!path_config(random, i, family, &c->path.problem, &config)) continue;
        for (int32_t on_device = 0; on_device < 2; on_device++) {
            char text[MOET_CONFIG_SIZE + 64];
            moet_config_format(&config, text);
            snprintf(text + strlen(text), 64, ", counts on the %s", on_device ? "device" : "host");
            c->text = text;
            ffn_prepare(device, &c->path, &options, &config, on_device, &c->prepared);
            path_check(c);
            ffn_prepared_release(&c->prepared);
            checked++;
        }
    }
    return checked;
}

static void test_paths(void **state)
{
    (void)state;
    uint64_t random = 51;
    int32_t all = 0;
    for (int32_t i = 0; i < 2; i++) { /* activations that are bounded; in advance all can be fused */
        moet_problem problem;
        path_chain c;
        moet_problem_init(&problem, MOET_OP_FFN, PATH_EXPERTS, PATH_HIDDEN, PATH_INTER);
        problem.prob = i == 0 ? MOET_PROB_ADVANCE : MOET_PROB_COMBINE;
        problem.activation = i == 0 ? MOET_ACTIVATION_SWIGLU_CLAMP : MOET_ACTIVATION_GPT_OSS;
        problem.clamp = i == 0 ? 1.5 : 0;
        problem.layout = i == 0 ? MOET_LAYOUT_NK : MOET_LAYOUT_KN;
        problem.bias = problem.down_bias = true; /* tokens without local experts come to life again */
        path_chain_open(&c, &random, problem);
        all += check_plans(&c);
        for (int32_t f = 0; moet_families[f]; f++) {
            const moet_family *family = moet_families[f];
            if (!family->gemm || strcmp(family->backend, device->info.backend) != 0) continue;
            const int32_t checked = check_path_family(&c, &random, family);
            print_message("%s: %d chains of paths right\n", family->name, checked);
            all += checked;
        }
        path_chain_close(&c);
    }
    assert_true(all > 4);
}

/* ---- SMs that others have ---- */

enum { HELD_EXPERTS = 16, HELD_TOKENS = 64, HELD_HIDDEN = 512, HELD_INTER = 1024 }; /* more tiles than SMs */
#define HOLD_NS INT64_C(2000000000)

/* A path with both GEMMs in one launch, of which half of the CTAs find no SM: those that run must not wait for them. */
static void check_held(const moet_family *family, ffn_path *path, ffn_placed *placed)
{
    const moet_backend *backend = device->backend;
    const size_t bytes = (size_t)path->elements * 2;
    moet_plan_options options = ffn_options(path, true);
    uint16_t *want = test_allocate(bytes), *found = test_allocate(bytes);
    moet_config config = {.family = family};
    char why[MOET_REASON_SIZE];
    ffn_prepared prepared;
    void *stream, *others;
    options.max_rows = HELD_TOKENS * CHOICES;
    family->default_config(&path->problem, HELD_TOKENS * CHOICES, &device->info, &config);
    moet_config_set(&config, "chain", "on");
    if (!family->applicable(&path->problem, &config, &device->info, why))
        test_fail("%s: the default does not chain: %s", family->name, why);
    TEST_OK(backend->stream_create(device, &stream));
    TEST_OK(backend->stream_create(device, &others));
    ffn_prepare(device, path, &options, &config, true, &prepared);
    for (int32_t held = 0; held < 2; held++) {
        ffn_poison_out(placed);
        TEST_OK(backend->stream_synchronize(device, NULL));
        if (held) hold_sms(device, device->info.sm_count / 2, HOLD_NS, others);
        const int64_t begin_ns = moet_clock_ns();
        TEST_OK(ffn_prepared_launch(&prepared, &placed->args, placed->rows, stream));
        TEST_OK(backend->stream_synchronize(device, stream));
        if (held && moet_clock_ns() - begin_ns > HOLD_NS / 2)
            test_fail("%s: a chain ends when the SMs that others have are free, not before", family->name);
        ffn_read_out(placed, HELD_TOKENS, held ? found : want);
    }
    if (memcmp(want, found, bytes) != 0) test_fail("%s: other bits where others have half of the SMs", family->name);
    TEST_OK(backend->stream_synchronize(device, others));
    ffn_prepared_release(&prepared);
    backend->stream_destroy(device, stream);
    backend->stream_destroy(device, others);
    free(want);
    free(found);
}

static void test_held_sms(void **state)
{
    (void)state;
    uint64_t random = 52;
    moet_problem problem;
    ffn_path path;
    ffn_placed placed;
    if (strcmp(device->info.backend, "cuda") != 0) skip();
    moet_problem_init(&problem, MOET_OP_FFN, HELD_EXPERTS, HELD_HIDDEN, HELD_INTER);
    ffn_path_make(&path, HELD_TOKENS, CHOICES, problem);
    ffn_path_fill(&random, &path);
    ffn_place(device, &path, false, &placed);
    for (int32_t f = 0; moet_families[f]; f++) {
        const moet_family *family = moet_families[f];
        moet_config config = {.family = family};
        char why[MOET_REASON_SIZE];
        if (!family->gemm || !family->gemm->fuses_next || strcmp(family->backend, device->info.backend) != 0) continue;
        family->default_config(&problem, HELD_TOKENS * CHOICES, &device->info, &config);
        if (family->applicable(&problem, &config, &device->info, why)) check_held(family, &path, &placed);
    }
    ffn_placed_free(&placed);
    ffn_path_free(&path);
}

static int group_open(void **state)
{
    (void)state;
    if (moet_open(NULL, spec, &handle) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    device = handle->device;
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    moet_close(handle);
    return 0;
}

int main(int argc, char **argv)
{
    const test_option options[] = {{.name = "--device", .text = &spec},
                                   {.name = "--every", .number = &every},
                                   {.name = "--configs", .number = &config_count}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_paths),
                                       cmocka_unit_test(test_held_sms)};
    return cmocka_run_group_tests_name("chain", tests, group_open, group_close);
}
