/* GEMMs that do the expert path's activation in their epilogue give the bits of the GEMM, rounded, and the activation
 * as a pass, in a pairwise set of configs, with each activation, layout, bias and router weight, counts on either side,
 * and on few SMs as well. GEMMs that scatter rows give the bits of those that do not. All of it on usual numbers and
 * with NaN, infinities, -0 and denormals in everything that is read; there any NaN stands for any. Where no GEMM fuses,
 * as on the host, these go through the GEMM and the pass alone, which is compared with its formula.
 *
 *   test_fused [--device SPEC] [--every N] */
#include "configs.h"
#include "subject.h"

#include <float.h>
#include <math.h>

#include "../kernels/reference.h"
#include "../kernels/stages.h"

static const char *spec = "host";
static int64_t every = 1;
static moet_device *device;

/* Tails in rows, columns and K. */
enum { EXPERTS = TEST_FUSED_EXPERTS, HIDDEN = 200, INTER = 328 };
static const int32_t counts[EXPERTS] = {130, 0, 17, 300, 1, 64, 0, 40};
enum { ROWS = 130 + 17 + 300 + 1 + 64 + 40, X_STRIDE = HIDDEN + 24 };
_Static_assert(ROWS % 5 != 0, "scatter");

typedef struct inputs {
    test_buffer x, w[2], bias, prob, counts;
    test_buffer scattered, source; /* row r of x is row source[r] of scattered */
    float prob_values[ROWS];
    void *stream;
} inputs;

static uint16_t *numbers(uint64_t *random, int64_t count, float scale)
{
    uint16_t *values = test_allocate((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = moet_bf16_from_float((float)test_normal(random) * scale);
    return values;
}

static void place(test_buffer *buffer, const uint16_t *values, int64_t count)
{
    test_buffer_create(device, buffer, values, (size_t)count * sizeof *values);
}

/* ---- odd numbers ---- */

static const uint16_t odd_numbers[] = {0x7fc0, 0xffc1, 0x7f80, 0xff80, 0x8000, 0x0001, 0x807f, 0x7f7f, 0xff7f, 0x3f80};
enum { ODD = MOET_COUNT_OF(odd_numbers), ODD_STEP = 23 };

/* By rows: zeros and -0, for which the bias speaks alone; NaN, inf or -inf at one place; the greatest number at one
 * place and else zeros; denormals; the rest as it is. */
static void odd_x(uint16_t *x)
{
    for (int32_t r = 0; r < ROWS; r++, x += HIDDEN) {
        const int32_t kind = r % 8, at = r * 7 % HIDDEN;
        for (int32_t k = 0; k < HIDDEN && (kind == 0 || kind == 4); k++) x[k] = k % 2 ? 0x8000 : 0;
        for (int32_t k = 0; k < HIDDEN && kind == 5; k++) x[k] &= 0x80ff; /* small, and of either sign */
        if (kind >= 1 && kind <= 3) x[at] = odd_numbers[kind];
        if (kind == 4) x[at] = 0x7f7f;
    }
}

/* Some columns have one odd number, some are denormals. */
static void odd_w(moet_layout layout, uint16_t *w)
{
    const int64_t N = 2 * INTER, step = layout == MOET_LAYOUT_NK ? 1 : N,
                  column = layout == MOET_LAYOUT_NK ? HIDDEN : 1;
    for (int64_t e = 0; e < EXPERTS; e++, w += N * HIDDEN) {
        for (int64_t n = 0; n < N; n++) {
            if (n % ODD_STEP == 0) w[n * column + n * 3 % HIDDEN * step] = odd_numbers[n / ODD_STEP % ODD];
            for (int64_t k = 0; k < HIDDEN && n % ODD_STEP == 7; k++) w[n * column + k * step] &= 0x807f;
        }
    }
}

/* Of every second expert: each gate beside each up. */
static void odd_bias(uint16_t *bias)
{
    for (int32_t e = 0; e < EXPERTS; e += 2) {
        for (int32_t i = 0; i < INTER; i++) {
            bias[e * 2 * INTER + i] = odd_numbers[i % ODD];
            bias[e * 2 * INTER + INTER + i] = odd_numbers[i / ODD % ODD];
        }
    }
}

static void odd_prob(float *prob)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, -0.0f, 0.0f, 1e-40f, -1e-40f, FLT_MAX, -1.0f, FLT_MIN};
    for (int32_t r = 1; r < ROWS; r += 3) prob[r] = odd[r / 3 % MOET_COUNT_OF(odd)];
}

/* ---- inputs ---- */

/* The rows in another order and further apart, NaN between them. */
static void scatter(inputs *in, const uint16_t *x)
{
    int32_t source[ROWS];
    uint16_t *rows = test_allocate((size_t)ROWS * X_STRIDE * sizeof *rows);
    memset(rows, TEST_POISON, (size_t)ROWS * X_STRIDE * sizeof *rows);
    for (int32_t r = 0; r < ROWS; r++) {
        source[r] = (r * 5 + 3) % ROWS; /* 5 does not divide ROWS */
        memcpy(rows + (size_t)source[r] * X_STRIDE, x + (size_t)r * HIDDEN, HIDDEN * sizeof *rows);
    }
    test_buffer_create(device, &in->scattered, rows, (size_t)ROWS * X_STRIDE * sizeof *rows);
    test_buffer_create(device, &in->source, source, sizeof source);
    free(rows);
}

static void inputs_open(inputs *in, bool odd)
{
    uint64_t random = 5;
    float prob[ROWS];
    const int64_t w_count = (int64_t)EXPERTS * 2 * INTER * HIDDEN, bias_count = (int64_t)EXPERTS * 2 * INTER;
    /* Gates to +-40 or so: the tails of expf too. */
    uint16_t *x = numbers(&random, (int64_t)ROWS * HIDDEN, 1.0f);
    if (odd) odd_x(x);
    place(&in->x, x, (int64_t)ROWS * HIDDEN);
    scatter(in, x);
    free(x);
    for (int32_t i = 0; i < 2; i++) {
        uint16_t *w = numbers(&random, w_count, 0.7f);
        if (odd) odd_w((moet_layout)i, w);
        place(&in->w[i], w, w_count);
        free(w);
    }
    uint16_t *bias = numbers(&random, bias_count, 20.0f);
    if (odd) odd_bias(bias);
    place(&in->bias, bias, bias_count);
    free(bias);
    for (int32_t i = 0; i < ROWS; i++) prob[i] = (float)test_between(&random, 1, 1 << 20) / (1 << 20);
    if (odd) odd_prob(prob);
    memcpy(in->prob_values, prob, sizeof prob);
    test_buffer_create(device, &in->prob, prob, sizeof prob);
    test_buffer_create(device, &in->counts, counts, sizeof counts);
    TEST_OK(device->backend->stream_create(device, &in->stream));
}

static void inputs_close(inputs *in)
{
    test_buffer *const buffers[] = {&in->x,    &in->w[0],   &in->w[1],      &in->bias,
                                    &in->prob, &in->counts, &in->scattered, &in->source};
    for (int32_t i = 0; i < MOET_COUNT_OF(buffers); i++) test_buffer_destroy(device, buffers[i]);
    device->backend->stream_destroy(device, in->stream);
}

/* Runs a config of a GEMM family into out's poison; returns what it wrote of `columns` a row, and checks that it wrote
 * nothing else. Its kernel is kept for the next call, which often wants the same. */
static uint16_t *run(const inputs *in, const moet_problem *problem, const moet_config *config, test_kernel *kernel,
                     int32_t columns, bool on_device, int32_t max_sms)
{
    char why[MOET_REASON_SIZE];
    test_subject s = {.device = device,
                      .config = config,
                      .problem = problem,
                      .label = "fused activation",
                      .max_rows = ROWS,
                      .on_device = on_device,
                      .max_sms = max_sms,
                      .kernel = kernel};
    if (!test_subject_open(&s, why)) test_fail("%s", why);
    test_output out;
    const size_t size_bytes = (size_t)ROWS * (size_t)columns * 2;
    test_output_create(device, &out, size_bytes + (size_t)columns * 2);
    const moet_family_launch_args args = {.x = test_buffer_inside(config->gathers ? &in->scattered : &in->x),
                                          .x_stride = X_STRIDE,
                                          .source = test_buffer_inside(&in->source),
                                          .w = test_buffer_inside(&in->w[problem->layout]),
                                          .bias = problem->bias ? test_buffer_inside(&in->bias) : NULL,
                                          .out = test_buffer_inside(&out.buffer),
                                          .prob = test_buffer_inside(&in->prob),
                                          .counts = on_device ? test_buffer_inside(&in->counts) : counts,
                                          .counts_on_device = on_device,
                                          .rows = ROWS,
                                          .workspace = s.workspace,
                                          .stream = in->stream};
    TEST_OK(config->family->launch(s.state, &args));
    TEST_OK(device->backend->stream_synchronize(device, in->stream));
    TEST_OK(
        device->backend->download(device, out.raw, out.buffer.memory, out.buffer.size_bytes + 2 * TEST_GUARD_BYTES));
    for (size_t i = 0; i < out.buffer.size_bytes + 2 * TEST_GUARD_BYTES; i++) {
        const bool is_ours = i >= TEST_GUARD_BYTES && i < TEST_GUARD_BYTES + size_bytes;
        if (!is_ours && out.raw[i] != TEST_POISON)
            test_fail("%s: byte %lld of out was written", s.config_text, (long long)i - TEST_GUARD_BYTES);
    }
    uint16_t *bits = test_allocate(size_bytes);
    memcpy(bits, out.raw + TEST_GUARD_BYTES, size_bytes);
    test_output_destroy(device, &out);
    test_subject_close(&s);
    return bits;
}

/* The GEMM by the family's default, then the activation as a pass. gemm_bits (NULL: not wanted): of the GEMM. */
static uint16_t *run_passes(const inputs *in, const moet_family *family, const moet_problem *fused,
                            uint16_t **gemm_bits)
{
    moet_problem plain = *fused, path = *fused;
    moet_config config = {.family = family};
    test_kernel kernel = {0};
    moet_stages *stages;
    test_buffer up, act;
    plain.activation = MOET_ACTIVATION_NONE;
    plain.prob = MOET_PROB_NONE;
    plain.clamp = 0;
    path.op = MOET_OP_FFN;
    family->default_config(&plain, ROWS, &device->info, &config);
    uint16_t *gemm = run(in, &plain, &config, &kernel, 2 * INTER, false, 0);
    test_buffer_create(device, &up, gemm, (size_t)ROWS * 2 * INTER * 2);
    test_buffer_create(device, &act, NULL, (size_t)ROWS * INTER * 2);
    TEST_OK(moet_stages_create(device, &path, 1, ROWS, 0, NULL, &stages));
    const moet_permuted permuted = {.counts = test_buffer_inside(&in->counts), .prob = test_buffer_inside(&in->prob)};
    TEST_OK(
        moet_stages_activate(stages, test_buffer_inside(&up), &permuted, ROWS, test_buffer_inside(&act), in->stream));
    TEST_OK(device->backend->stream_synchronize(device, in->stream));
    uint16_t *bits = test_allocate((size_t)ROWS * INTER * 2);
    TEST_OK(device->backend->download(device, bits, test_buffer_inside(&act), (size_t)ROWS * INTER * 2));
    moet_stages_destroy(stages);
    test_kernel_release(&kernel);
    test_buffer_destroy(device, &up);
    test_buffer_destroy(device, &act);
    if (gemm_bits)
        *gemm_bits = gemm;
    else
        free(gemm);
    return bits;
}

enum { USUAL_INPUTS, ODD_INPUTS, INPUT_SETS };
static const char *const input_labels[INPUT_SETS] = {"", ", odd numbers"};

static void inputs_open_all(inputs in[INPUT_SETS])
{
    for (int32_t i = 0; i < INPUT_SETS; i++) inputs_open(&in[i], i == ODD_INPUTS);
}

static void inputs_close_all(inputs in[INPUT_SETS])
{
    for (int32_t i = 0; i < INPUT_SETS; i++) inputs_close(&in[i]);
}

/* Odd numbers on all SMs or on few, in turn. */
static bool is_run(int32_t set, int64_t nth, int32_t few) { return set == USUAL_INPUTS || few == nth / 2 % 2; }

static void check_family(const moet_family *family)
{
    moet_problem problems[TEST_FUSED_PROBLEMS];
    uint16_t *wanted[INPUT_SETS][TEST_FUSED_PROBLEMS][TEST_FUSED_KINDS] = {{{0}}};
    int64_t met[TEST_CLASS_COUNT] = {0};
    test_configs configs;
    test_kernel kernel = {0};
    inputs in[INPUT_SETS];
    int32_t launches = 0;
    test_fused_problems(HIDDEN, INTER, problems);
    test_configs_create(family, problems, TEST_FUSED_PROBLEMS, &device->info, true, &configs);
    inputs_open_all(in);
    for (int64_t i = 0; i < configs.count; i += every) {
        const test_choice *choice = &configs.choices[i];
        moet_problem problem;
        moet_config config;
        if (!test_fused_choice(choice, problems, &device->info, i, &problem, &config)) continue;
        for (int32_t run_nth = 0; run_nth < 2 * INPUT_SETS; run_nth++) {
            const int32_t few = run_nth % 2, set = run_nth / 2;
            char text[MOET_CONFIG_SIZE];
            uint16_t **want = &wanted[set][choice->problem][i % TEST_FUSED_KINDS];
            const bool on_device = (i + few) & 1;
            if (!is_run(set, i, few)) continue;
            if (!*want) {
                *want = run_passes(&in[set], family, &problem, NULL);
                if (set == ODD_INPUTS) test_classes_count(*want, (int64_t)ROWS * INTER, met);
            }
            uint16_t *found = run(&in[set], &problem, &config, &kernel, INTER, on_device, few ? test_few_sms(i) : 0);
            moet_config_format(&config, text);
            for (int64_t e = 0; e < (int64_t)ROWS * INTER; e++)
                if (!test_same_number(found[e], (*want)[e]))
                    test_fail("%s%s%s, activation %d, layout %d, bias %d, prob %d: row %lld, column %lld is %04x, %04x "
                              "expected",
                              text, config.gathers ? " gathering" : "", input_labels[set], problem.activation,
                              problem.layout, problem.bias, problem.prob, (long long)(e / INTER),
                              (long long)(e % INTER), found[e], (*want)[e]);
            free(found);
            launches++;
        }
    }
    print_message("%s: %d runs of a config with a fused activation right\n", family->name, launches);
    assert_true(configs.count == 0 || launches > 0);
    if (every == 1) test_classes_check(met, 200);
    for (int32_t i = 0; i < INPUT_SETS * TEST_FUSED_PROBLEMS * TEST_FUSED_KINDS; i++) free((&wanted[0][0][0])[i]);
    test_kernel_release(&kernel);
    test_configs_destroy(&configs);
    inputs_close_all(in);
}

/* ---- rows that are stored elsewhere ---- */

enum { COLUMNS = 2 * INTER, SCATTER_STRIDE = COLUMNS + 16 };

/* Runs of 16 rows without a target, with one each, and with one for every second row; the targets in another order. */
static void targets_make(int32_t target[ROWS])
{
    for (int32_t r = 0; r < ROWS; r++) {
        const bool has_one = r / 16 % 3 == 1 || (r / 16 % 3 == 2 && r % 2);
        target[r] = has_one ? (r * 5 + 3) % ROWS : -1;
    }
}

static void check_row(const char *text, int32_t row, const uint16_t *found, const uint16_t *want)
{
    for (int32_t c = 0; c < COLUMNS; c++) {
        const uint16_t expected = want ? want[c] : (uint16_t)(TEST_POISON << 8 | TEST_POISON);
        if (want ? !test_same_number(found[c], expected) : found[c] != expected)
            test_fail("%s: row %d, column %d is %04x, %04x expected", text, row, c, found[c], expected);
    }
}

/* Everything of `out`, with the guards; its inside. */
static const uint16_t *download(const test_output *out)
{
    const size_t whole_bytes = out->buffer.size_bytes + 2 * TEST_GUARD_BYTES;
    TEST_OK(device->backend->download(device, out->raw, out->buffer.memory, whole_bytes));
    for (size_t i = 0; i < TEST_GUARD_BYTES; i++)
        assert_true(out->raw[i] == TEST_POISON && out->raw[whole_bytes - 1 - i] == TEST_POISON);
    return (const uint16_t *)(out->raw + TEST_GUARD_BYTES);
}

/* want [ROWS, COLUMNS]: without targets. */
static void check_scattered(const inputs *in, const test_choice *choice, const moet_problem *problem,
                            test_kernel *kernel, bool on_device, int32_t max_sms, const uint16_t *want)
{
    char why[MOET_REASON_SIZE];
    int32_t target[ROWS];
    bool is_target[ROWS] = {false};
    test_buffer targets;
    test_output out, scattered;
    moet_config config = choice->config;
    config.scatters = true;
    test_subject s = {.device = device,
                      .config = &config,
                      .problem = problem,
                      .label = "scattered rows",
                      .max_rows = ROWS,
                      .on_device = on_device,
                      .max_sms = max_sms,
                      .kernel = kernel};
    targets_make(target);
    if (!config.family->applicable(problem, &config, &device->info, why)) return; /* too many accumulators */
    if (!test_subject_open(&s, why)) test_fail("%s", why);
    test_buffer_create(device, &targets, target, sizeof target);
    test_output_create(device, &out, (size_t)ROWS * COLUMNS * 2);
    test_output_create(device, &scattered, (size_t)ROWS * SCATTER_STRIDE * 2);
    const moet_family_launch_args args = {.x = test_buffer_inside(&in->x),
                                          .w = test_buffer_inside(&in->w[problem->layout]),
                                          .bias = problem->bias ? test_buffer_inside(&in->bias) : NULL,
                                          .out = test_buffer_inside(&out.buffer),
                                          .target = test_buffer_inside(&targets),
                                          .scattered = test_buffer_inside(&scattered.buffer),
                                          .scattered_stride = SCATTER_STRIDE,
                                          .counts = on_device ? test_buffer_inside(&in->counts) : counts,
                                          .counts_on_device = on_device,
                                          .rows = ROWS,
                                          .workspace = s.workspace,
                                          .stream = in->stream};
    TEST_OK(config.family->launch(s.state, &args));
    TEST_OK(device->backend->stream_synchronize(device, in->stream));
    const uint16_t *dense = download(&out), *there = download(&scattered);
    for (int32_t r = 0; r < ROWS; r++) {
        check_row(s.config_text, r, dense + r * COLUMNS, target[r] < 0 ? want + r * COLUMNS : NULL);
        if (target[r] < 0) continue;
        check_row(s.config_text, r, there + target[r] * SCATTER_STRIDE, want + r * COLUMNS);
        is_target[target[r]] = true;
    }
    for (int32_t r = 0; r < ROWS; r++) {
        if (!is_target[r]) check_row(s.config_text, r, there + r * SCATTER_STRIDE, NULL);
        for (int32_t c = COLUMNS; c < SCATTER_STRIDE; c++) assert_int_equal(there[r * SCATTER_STRIDE + c], 0xffff);
    }
    test_buffer_destroy(device, &targets);
    test_output_destroy(device, &out);
    test_output_destroy(device, &scattered);
    test_subject_close(&s);
}

static void check_scattering(const moet_family *family)
{
    moet_problem problems[TEST_FUSED_PROBLEMS];
    uint16_t *wanted[INPUT_SETS][TEST_FUSED_PROBLEMS] = {{NULL}};
    int64_t met[TEST_CLASS_COUNT] = {0};
    test_configs configs;
    test_kernel kernel = {0}, plain_kernel = {0};
    inputs in[INPUT_SETS];
    int32_t launches = 0;
    test_fused_problems(HIDDEN, INTER, problems);
    for (int32_t i = 0; i < TEST_FUSED_PROBLEMS; i++) problems[i].activation = MOET_ACTIVATION_NONE;
    test_configs_create(family, problems, TEST_FUSED_PROBLEMS, &device->info, true, &configs);
    inputs_open_all(in);
    for (int64_t i = 0; i < configs.count; i += every) {
        const test_choice *choice = &configs.choices[i];
        const moet_problem *problem = &problems[choice->problem];
        for (int32_t run_nth = 0; run_nth < 2 * INPUT_SETS; run_nth++) {
            const int32_t few = run_nth % 2, set = run_nth / 2;
            uint16_t **want = &wanted[set][choice->problem];
            if (!is_run(set, i, few)) continue;
            if (!*want) {
                moet_config config = {.family = family};
                family->default_config(problem, ROWS, &device->info, &config);
                *want = run(&in[set], problem, &config, &plain_kernel, COLUMNS, false, 0);
                if (set == ODD_INPUTS) test_classes_count(*want, (int64_t)ROWS * COLUMNS, met);
            }
            check_scattered(&in[set], choice, problem, &kernel, (i + few) & 1, few ? test_few_sms(i) : 0, *want);
            launches++;
        }
    }
    print_message("%s: %d runs of a config that scatters right\n", family->name, launches);
    assert_true(configs.count == 0 || launches > 0);
    met[TEST_NEGATIVE_ZERO] += 200; /* a sum begins at +0: there need be none */
    if (every == 1) test_classes_check(met, 200);
    for (int32_t i = 0; i < INPUT_SETS * TEST_FUSED_PROBLEMS; i++) free((&wanted[0][0])[i]);
    test_kernel_release(&kernel);
    test_kernel_release(&plain_kernel);
    test_configs_destroy(&configs);
    inputs_close_all(in);
}

static void test_scatter(void **state)
{
    (void)state;
    int32_t checked = 0;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *family = moet_families[i];
        if (!family->fuses_scatter || strcmp(family->backend, device->info.backend) != 0) continue;
        check_scattering(family);
        checked++;
    }
    if (checked == 0) skip();
}

static void test_families(void **state)
{
    (void)state;
    int32_t checked = 0;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *family = moet_families[i];
        if (!family->fuses_activation || strcmp(family->backend, device->info.backend) != 0) continue;
        check_family(family);
        checked++;
    }
    if (checked == 0) skip();
}

/* docs/ffn.md's formulas once more, by the C library's minimum and maximum, which would lose a NaN. */
static uint16_t activated(const moet_problem *problem, uint16_t gate, uint16_t up, float prob)
{
    const bool is_weighted = problem->prob == MOET_PROB_ADVANCE,
               is_gpt_oss = problem->activation == MOET_ACTIVATION_GPT_OSS;
    const float limit = is_gpt_oss ? 7.0f : problem->clamp > 0 ? (float)problem->clamp : INFINITY;
    float g = moet_bf16_to_float(gate), u = moet_bf16_to_float(up);
    if (isnan(g) || isnan(u) || (is_weighted && isnan(prob))) return 0x7fc0;
    g = fminf(g, limit);
    u = fmaxf(fminf(u, limit), -limit);
    float value;
    if (is_gpt_oss) {
        const float sigmoid = 1.0f / (1.0f + expf(-(1.702f * g)));
        value = g * sigmoid * (u + 1.0f);
    } else {
        value = g / (1.0f + expf(-g)) * u;
    }
    return moet_bf16_from_float(is_weighted ? value * prob : value);
}

/* The pass alone, where expf is the host's: the odd numbers are tried where no GPU is. */
static void test_passes(void **state)
{
    (void)state;
    static const moet_prob probs[] = {MOET_PROB_NONE, MOET_PROB_ADVANCE};
    inputs in;
    int64_t met[TEST_CLASS_COUNT] = {0};
    if (strcmp(device->info.backend, "host") != 0) skip();
    inputs_open(&in, true);
    for (int32_t i = 0; i < 2 * 2 * 2 * 3; i++) {
        moet_problem problem;
        uint16_t *gemm;
        moet_problem_init(&problem, MOET_OP_UP, EXPERTS, HIDDEN, INTER);
        problem.layout = (moet_layout)(i & 1);
        problem.bias = i & 2;
        problem.prob = probs[i >> 2 & 1];
        problem.activation = (moet_activation)(MOET_ACTIVATION_SWIGLU + i / 8);
        problem.clamp = problem.activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 0.75 : 0;
        uint16_t *found = run_passes(&in, moet_family_find("host_tile"), &problem, &gemm);
        for (int32_t r = 0; r < ROWS; r++) {
            for (int32_t c = 0; c < INTER; c++) {
                const uint16_t *gate = gemm + r * 2 * INTER + c;
                const uint16_t want = activated(&problem, gate[0], gate[INTER], in.prob_values[r]);
                if (!test_same_number(found[r * INTER + c], want))
                    test_fail("activation %d, layout %d, bias %d, prob %d: row %d, column %d is %04x, %04x expected",
                              problem.activation, problem.layout, problem.bias, problem.prob, r, c,
                              found[r * INTER + c], want);
            }
        }
        test_classes_count(found, (int64_t)ROWS * INTER, met);
        free(found);
        free(gemm);
    }
    test_classes_check(met, 1000);
    inputs_close(&in);
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
    const test_option options[] = {{.name = "--device", .text = &spec}, {.name = "--every", .number = &every}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_scatter),
                                       cmocka_unit_test(test_passes)};
    return cmocka_run_group_tests_name("fused", tests, group_open, group_close);
}
