/* moet_ffn against the training stack's composition, on whole workloads: permute, a vendor's GEMM an expert (cuBLASLt
 * without split-K; on the host the path's own GEMM), activation and combine as passes of their own. Under numerics train
 * every element must have the same bits, on the bench's inputs and on the same of several scales.
 *
 *   test_composed [--device host] [--workloads FILE] [--table DIR]      default: small ones, what runs without a table
 */
#include "test.h"

#include "../src/family.h"
#include "../tuner/planned.h"

static const char *spec = "host", *workloads_path, *table_dir;
static moet_device *device;
static moet_bench *bench;
static moet_handle *handle;

enum { UP, DOWN, GEMM_COUNT };
static const moet_op ops[GEMM_COUNT] = {[UP] = MOET_OP_UP, [DOWN] = MOET_OP_DOWN};

/* The composition's GEMMs and what lies between its steps, in device memory. */
typedef struct composition {
    moet_plan *plan; /* whose passes are used */
    const moet_family *family;
    moet_config configs[GEMM_COUNT];
    void *states[GEMM_COUNT];
    int64_t rows;
    moet_permuted permuted;
    void *up, *act, *workspace, *block;
} composition;

static const moet_family *find_family(void)
{
    static const char *const names[] = {"cublaslt_loop", "host_tile"};
    for (int32_t i = 0; i < MOET_COUNT_OF(names); i++) {
        const moet_family *family = moet_family_find(names[i]);
        if (family && strcmp(family->backend, device->info.backend) == 0) return family;
    }
    return NULL;
}

static size_t put(size_t *end, int64_t bytes)
{
    const size_t start = *end;
    *end += ((size_t)bytes + 255) / 256 * 256;
    return start;
}

static void compose(composition *c, const moet_problem *problem, int64_t rows, int64_t tokens, int32_t choices,
                    moet_plan *plan)
{
    const int64_t H = problem->hidden, I = problem->inter, E = problem->experts;
    size_t end = 0, workspace_bytes = 0;
    *c = (composition){.plan = plan, .family = find_family(), .rows = rows};
    assert_non_null(c->family);
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        const moet_problem gemm = moet_problem_gemm(problem, ops[i]);
        c->configs[i] = (moet_config){.family = c->family};
        c->family->default_config(&gemm, rows, &device->info, &c->configs[i]);
        const moet_prepare_args args = {
            .device = device, .problem = &gemm, .config = &c->configs[i], .max_rows = rows};
        TEST_OK(c->family->prepare(&args, &c->states[i]));
        const size_t bytes = c->family->workspace_bytes(&args);
        workspace_bytes = bytes > workspace_bytes ? bytes : workspace_bytes;
    }
    const size_t counts = put(&end, E * 4), places = put(&end, tokens * (choices < E ? choices : E) * 4);
    const size_t source = put(&end, rows * 4), prob = put(&end, rows * 4), x = put(&end, rows * H * 2);
    const size_t up = put(&end, rows * 4 * I), act = put(&end, rows * 2 * I);
    const size_t workspace = put(&end, (int64_t)workspace_bytes);
    TEST_OK(device->backend->alloc(device, end + 255, &c->block));
    char *block = (char *)c->block + (-(uintptr_t)c->block & 255);
    c->permuted = (moet_permuted){.counts = (int32_t *)(void *)(block + counts),
                                  .places = (int32_t *)(void *)(block + places),
                                  .source = (int32_t *)(void *)(block + source),
                                  .prob = (float *)(void *)(block + prob),
                                  .x = block + x};
    c->up = block + up;
    c->act = block + act;
    c->workspace = workspace_bytes ? block + workspace : NULL;
}

static void composition_release(composition *c)
{
    for (int32_t i = 0; i < GEMM_COUNT; i++) c->family->release(c->states[i]);
    device->backend->free(device, c->block);
}

static moet_status run_gemm(const composition *c, int32_t which, const moet_ffn_args *args, const void *x, void *out)
{
    const moet_family_launch_args launch = {.x = x,
                                            .w = which == UP ? args->up : args->down,
                                            .bias = which == UP ? args->up_bias : args->down_bias,
                                            .out = out,
                                            .counts = args->counts,
                                            .rows = c->rows,
                                            .workspace = c->workspace,
                                            .stream = args->stream};
    return c->family->launch(c->states[which], &launch);
}

static moet_status run_composition(void *context, const moet_ffn_args *args)
{
    const composition *c = context;
    MOET_TRY(moet_permute(c->plan, args, &c->permuted));
    MOET_TRY(run_gemm(c, UP, args, c->permuted.x, c->up));
    MOET_TRY(moet_activate(c->plan, c->up, &c->permuted, c->act, args->stream));
    MOET_TRY(run_gemm(c, DOWN, args, c->act, c->permuted.x));
    return moet_unpermute(c->plan, args, c->permuted.x, &c->permuted);
}

static void read_class(int32_t subject, const char *name, char bit_class[MOET_SHA256_TEXT_SIZE])
{
    const moet_trial *trial = moet_bench_view(bench, subject);
    if (trial->status != MOET_TRIAL_OK)
        test_fail("%s: %s: %s", name, moet_trial_status_name(trial->status), trial->reason);
    assert_true(trial->bit_class[0]);
    snprintf(bit_class, MOET_SHA256_TEXT_SIZE, "%s", trial->bit_class);
}

/* Whether both give the same bits. */
static bool check(const moet_workload *w, const moet_problem *problem)
{
    char classes[2][MOET_SHA256_TEXT_SIZE];
    int64_t tokens = 0;
    int32_t choices = 0, subject = -1;
    moet_planned planned = {0};
    composition c;
    TEST_OK(moet_bench_set_workload(bench, problem, w->counts, w->tokens));
    moet_bench_path_size(bench, &tokens, &choices);
    TEST_OK(moet_planned_add(bench, handle, problem, w->counts, false, "moet_ffn", &planned));
    read_class(planned.subject, w->name, classes[0]);
    compose(&c, problem, w->rows, tokens, choices, planned.plan);
    TEST_OK(moet_bench_add_path_launcher(bench, "composition", run_composition, &c, false, false, &subject));
    read_class(subject, w->name, classes[1]);
    moet_bench_retire(bench, planned.subject);
    moet_bench_retire(bench, subject);
    composition_release(&c);
    moet_planned_release(&planned);
    const bool is_same = strcmp(classes[0], classes[1]) == 0;
    if (!is_same)
        print_message("%s, %lld rows %s: other bits than the composition's\n", w->name, (long long)w->rows, w->skew);
    return is_same;
}

static void test_workloads(void **state)
{
    (void)state;
    static int32_t small[][4] = {{5, 0, 70, 9}, {64, 64, 64, 64}, {0, 1, 0, 0}};
    moet_workloads list = {0};
    int32_t different = 0;
    int64_t elements = 0;
    if (workloads_path) TEST_OK(moet_workloads_read(workloads_path, &list));
    for (int32_t i = 0; i < (workloads_path ? list.count : MOET_COUNT_OF(small)); i++) {
        moet_workload own = {.name = "small", .experts = 4, .hidden = 520, .inter = 264, .skew = "given"};
        own.counts = small[i % MOET_COUNT_OF(small)];
        for (int32_t e = 0; e < 4; e++) own.rows += own.counts[e];
        const moet_workload *w = workloads_path ? &list.items[i] : &own;
        moet_problem problem;
        moet_problem_init(&problem, MOET_OP_FFN, w->experts, w->hidden, w->inter);
        problem.prob = MOET_PROB_ADVANCE;
        different += !check(w, &problem);
        elements += (w->tokens ? w->tokens : w->rows) * w->hidden;
    }
    print_message("%d workloads, %lld elements on each of two inputs: %d have other bits than the composition's\n",
                  workloads_path ? list.count : MOET_COUNT_OF(small), (long long)elements, different);
    moet_workloads_release(&list);
    assert_int_equal(different, 0);
}

int main(int argc, char **argv)
{
    const test_option options[] = {
        {"--device", .text = &spec}, {"--workloads", .text = &workloads_path}, {"--table", .text = &table_dir}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    if (moet_device_open(spec, &device) != MOET_OK || moet_planned_open(table_dir, spec, &handle) != MOET_OK ||
        moet_bench_create(device, 1, false, &bench) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_workloads)};
    const int failed = cmocka_run_group_tests_name("composed", tests, NULL, NULL);
    moet_bench_destroy(bench);
    moet_close(handle);
    moet_device_close(device);
    return failed;
}
