/* Bit classes: all configs of the families of a class give the same bits as one reference call, for random inputs of
 * several scales, both layouts, with and without bias, partial tiles and unequal experts, on all SMs and on few.
 *
 *   test_bits [--device SPEC] [--family NAME] [--pairs] [--every N] [--draws N] [--seed N]
 *
 * Without --pairs and --every it is the full run, on a GPU tens of thousands of launches, minutes.
 * --family: only this one; it may be any family of the device, a member of the class or not. --pairs: a set of configs
 * in which every pair of parameter values, and every value with every shape and layout, with and without bias, occurs.
 * --every N (or MOET_TEST_EVERY=N): of the configs that remain every N-th on an input, each on some inputs. --draws N:
 * so many inputs of each kind. --seed N: as printed by a run that is to be repeated. Exit code 77: no such device, or
 * no reference on it. */
#include "configs.h"
#include "subject.h"

#include <math.h>
#include <time.h>

#include "../kernels/reference.h"

/* What the classes are measured by. On the host any config of host_tile: each is one fp32 chain over ascending k.
 *
 * On CUDA, cuBLASLt as cublaslt_loop calls it with numerics `train`: without split-K and without a reduction scheme,
 * one fp32 accumulation over ascending k in the tensor cores, bias added to it in fp32, one rounding. That is what
 * users have today, by a library that is not ours. Of cublaslt_loop's configs it is the first that the library offers
 * without split-K: tile "auto", the heuristic's own choice, then the fixed tiles.
 *
 * Every expert gets reference_rows, of which the first are its own and the others zero. So one algorithm of the library
 * computes all of them, and one for many rows: for few, the heuristic may choose kernels whose warps divide K inside a
 * CTA, which is another order of summation and no split-K by its attributes. */
typedef struct bit_class {
    const char *backend, *reference, *reference_name;
    int32_t reference_rows;
    const char *families[4];
} bit_class;

static const bit_class classes[] = {
    {"cuda", "cublaslt_loop", "cuBLASLt", 4096, {"wgmma_gemm", "mma_gemm"}},
    {"host", "host_tile", "host_tile's first", 320, {"host_tile"}},
};

static const char *spec = "cuda", *only_family;
static int64_t every = 1, draws = 1, seed;
static bool only_pairs, has_reference = true;
static moet_device *device;
static const bit_class *chosen;

/* ---- inputs ---- */

/* N and K have tails against every tile (of N 64 to 256 columns, of K 32 and 64), N more than one tile of most; rows
 * are none, one, a few, whole tiles and a row more. */
enum { EXPERTS = 8, LONGEST_K = 4104 };
typedef struct bit_shape {
    moet_op op;
    int32_t hidden, inter;
    int32_t counts[EXPERTS];
} bit_shape;

static const bit_shape shapes[] = {
    {MOET_OP_UP, 2056, 164, {130, 0, 1, 257, 17, 64, 0, 40}},
    {MOET_OP_DOWN, 136, LONGEST_K, {0, 1, 3, 96, 300, 0, 16, 9}},
};
enum { PROBLEMS = MOET_COUNT_OF(shapes) * MOET_LAYOUT_COUNT * 2 };

/* A row of x and a column of w have a scale each, so that a launch sees all pairs of them. Where both cancel, the
 * second half of K takes away what the first one gave, and rounding is all that is left: another order of summation
 * changes nearly every such sum, but only one in thousands of the others, whose last bits BF16 drops. */
typedef enum scale { SCALE_1, SCALE_SMALL, SCALE_LARGE, SCALE_MIXED, SCALE_CANCELS, SCALES } scale;
static const struct {
    const char *text;
    int32_t low, high; /* exponent of an element, drawn from low..high */
} scales[SCALES] = {
    [SCALE_1] = {"1", 0, 0},
    [SCALE_SMALL] = {"2^-10", -10, -10},
    [SCALE_LARGE] = {"2^10", 10, 10},
    [SCALE_MIXED] = {"mixed 2^-10 to 2^10", -10, 10},
    [SCALE_CANCELS] = {"mixed and cancelling", -10, 10},
};

typedef struct bit_input {
    char label[120];
    const moet_problem *problem;
    const int32_t *counts;
    int32_t n, k;
    int64_t rows;
    uint8_t *x_scales, *w_scales; /* [rows], [experts, N] */
    test_buffer device_counts, x, w, bias;
    test_output out;
    uint16_t *want, *got; /* [rows, N] */
} bit_input;

static void problem_init(int32_t i, moet_problem *problem)
{
    const bit_shape *shape = &shapes[i / 4];
    moet_problem_init(problem, shape->op, EXPERTS, shape->hidden, shape->inter);
    problem->layout = (moet_layout)(i & 1);
    problem->bias = i & 2;
    problem->numerics = MOET_NUMERICS_TRAIN;
}

static uint8_t draw_scale(uint64_t *random) { return (uint8_t)test_between(random, 0, SCALES - 1); }

/* The k elements of a row of x or a column of w, `step` apart. flip: what the second half of one that cancels has of
 * the first, in BF16 bits: 0 the same, 0x8000 the negative. */
static void draw_line(uint64_t *random, uint8_t drawn_scale, uint16_t flip, int64_t k, int64_t step, uint16_t *line)
{
    for (int64_t i = 0; i < k; i++) {
        int32_t exponent = (int32_t)test_between(random, scales[drawn_scale].low, scales[drawn_scale].high);
        if (drawn_scale == SCALE_CANCELS && i >= k / 2)
            line[i * step] = line[(i - k / 2) * step] ^ flip;
        else
            line[i * step] = moet_bf16_from_float(ldexpf(test_normal(random), exponent));
    }
}

static uint16_t *draw_x(const bit_input *in, uint64_t *random)
{
    uint16_t *x = test_allocate((size_t)(in->rows * in->k) * sizeof *x);
    for (int64_t row = 0; row < in->rows; row++) {
        in->x_scales[row] = draw_scale(random);
        draw_line(random, in->x_scales[row], 0, in->k, 1, x + row * in->k);
    }
    return x;
}

static uint16_t *draw_w(const bit_input *in, uint64_t *random)
{
    const int64_t n = in->n, k = in->k;
    const bool kn = in->problem->layout == MOET_LAYOUT_KN;
    uint16_t *w = test_allocate((size_t)(EXPERTS * n * k) * sizeof *w);
    for (int64_t column = 0; column < EXPERTS * n; column++) {
        uint16_t *line = w + column / n * n * k + (kn ? column % n : column % n * k);
        in->w_scales[column] = draw_scale(random);
        draw_line(random, in->w_scales[column], 0x8000, k, kn ? n : 1, line);
    }
    return w;
}

/* As large as sums with rows of some scale, where adding it after the rounding would show. */
static uint16_t *draw_bias(const bit_input *in, uint64_t *random)
{
    uint16_t *bias = test_allocate((size_t)(EXPERTS * in->n) * sizeof *bias);
    for (int64_t column = 0; column < EXPERTS * in->n; column++) {
        float root = sqrtf((float)in->k);
        int32_t exponent = scales[in->w_scales[column]].high + scales[draw_scale(random)].high;
        bias[column] = moet_bf16_from_float(ldexpf(root * test_normal(random), exponent));
    }
    return bias;
}

/* ---- the reference call ---- */

/* The first config of the class's reference that its library has; false: it has none, and no test is possible. */
static bool reference_open(test_subject *s, moet_config *config)
{
    char why[MOET_REASON_SIZE] = "not in this build";
    const moet_family *family = moet_family_find(chosen->reference);
    if (family) moet_config_first(family, config);
    s->config = config;
    do {
        if (family && family->applicable(s->problem, config, &device->info, why) && test_subject_open(s, why))
            return true;
    } while (family && moet_config_next(config));
    print_message("skipped: no reference: %s: %s\n", chosen->reference, why);
    has_reference = false;
    return false;
}

static bool compute_reference(bit_input *in, const uint16_t *x)
{
    const int64_t rows = EXPERTS * chosen->reference_rows;
    const size_t row_bytes = (size_t)in->k * sizeof *x, out_count = (size_t)(rows * in->n);
    int32_t counts[EXPERTS];
    moet_config config;
    test_kernel kernel = {0};
    test_subject s = {
        .device = device, .problem = in->problem, .label = in->label, .max_rows = rows, .kernel = &kernel};
    test_buffer padded;
    test_output out;
    if (!reference_open(&s, &config)) return false;
    test_buffer_create(device, &padded, NULL, (size_t)rows * row_bytes);
    test_output_create(device, &out, out_count * sizeof *in->want);
    TEST_OK(device->backend->fill(device, test_buffer_inside(&padded), 0, (size_t)rows * row_bytes));
    const uint16_t *from = x;
    uint8_t *to = test_buffer_inside(&padded);
    for (int32_t e = 0; e < EXPERTS; e++) {
        counts[e] = chosen->reference_rows;
        if (in->counts[e]) TEST_OK(device->backend->upload(device, to, from, (size_t)in->counts[e] * row_bytes));
        from += (int64_t)in->counts[e] * in->k;
        to += (size_t)chosen->reference_rows * row_bytes;
    }
    uint16_t *bits = test_allocate(out_count * sizeof *bits), *want = in->want;
    test_subject_launch(&s, test_buffer_inside(&padded), test_buffer_inside(&in->w),
                        in->problem->bias ? test_buffer_inside(&in->bias) : NULL, counts, rows, &out, bits);
    for (int32_t e = 0; e < EXPERTS; e++) {
        const size_t count = (size_t)(in->counts[e] * in->n);
        memcpy(want, bits + (size_t)(e * chosen->reference_rows) * (size_t)in->n, count * sizeof *want);
        want += count;
    }
    print_message("%s: reference %s, %d rows an expert\n", in->label, s.config_text, chosen->reference_rows);
    free(bits);
    test_output_destroy(device, &out);
    test_buffer_destroy(device, &padded);
    test_kernel_release(&kernel);
    test_subject_close(&s);
    return true;
}

/* ---- inputs, continued ---- */

static bool input_create(const moet_problem *problem, int32_t index, int64_t turn, bit_input *in)
{
    uint64_t random = (uint64_t)seed + (uint64_t)(turn * PROBLEMS + index) * 0x2545f4914f6cdd1du;
    *in = (bit_input){.problem = problem,
                      .counts = shapes[index / 4].counts,
                      .n = moet_problem_n(problem),
                      .k = moet_problem_k(problem)};
    snprintf(in->label, sizeof in->label, "N = %d, K = %d, %s%s, draw %lld of seed %lld", in->n, in->k,
             problem->layout == MOET_LAYOUT_KN ? "kn" : "nk", problem->bias ? ", bias" : "", (long long)turn,
             (long long)seed);
    for (int32_t e = 0; e < EXPERTS; e++) in->rows += in->counts[e];
    const size_t out_bytes = (size_t)(in->rows * in->n) * sizeof *in->want;
    in->x_scales = test_allocate((size_t)in->rows);
    in->w_scales = test_allocate((size_t)(EXPERTS * in->n));
    uint16_t *x = draw_x(in, &random), *w = draw_w(in, &random), *bias = draw_bias(in, &random);
    test_buffer_create(device, &in->device_counts, in->counts, EXPERTS * sizeof *in->counts);
    test_buffer_create(device, &in->x, x, (size_t)(in->rows * in->k) * sizeof *x);
    test_buffer_create(device, &in->w, w, (size_t)EXPERTS * (size_t)in->n * (size_t)in->k * sizeof *w);
    if (problem->bias) test_buffer_create(device, &in->bias, bias, (size_t)(EXPERTS * in->n) * sizeof *bias);
    test_output_create(device, &in->out, out_bytes);
    in->want = test_allocate(out_bytes);
    in->got = test_allocate(out_bytes);
    bool done = compute_reference(in, x);
    free(x);
    free(w);
    free(bias);
    return done;
}

static void input_destroy(bit_input *in)
{
    test_buffer_destroy(device, &in->device_counts);
    test_buffer_destroy(device, &in->x);
    test_buffer_destroy(device, &in->w);
    test_buffer_destroy(device, &in->bias);
    test_output_destroy(device, &in->out);
    free(in->x_scales);
    free(in->w_scales);
    free(in->want);
    free(in->got);
}

/* ---- a config on an input ---- */

typedef struct tally {
    int64_t compared, differing, refused_late;
    char late_why[MOET_REASON_SIZE];
} tally;

static void report(const test_subject *s, const bit_input *in)
{
    int64_t count = 0, by_scale[SCALES] = {0};
    char first[400] = "";
    for (int64_t row = 0, expert = 0, left = in->counts[0]; row < in->rows; row++, left--) {
        while (left == 0) left = in->counts[++expert];
        for (int64_t column = 0; column < in->n; column++) {
            const uint16_t got = in->got[row * in->n + column], want = in->want[row * in->n + column];
            if (got == want) continue;
            by_scale[in->x_scales[row]]++;
            if (count++ > 0) continue;
            snprintf(
                first, sizeof first,
                "out[%lld][%lld] (expert %lld of %d rows, x scale %s, w scale %s) is %g (%04x), expected %g (%04x)",
                (long long)row, (long long)column, (long long)expert, in->counts[expert],
                scales[in->x_scales[row]].text, scales[in->w_scales[expert * in->n + column]].text,
                (double)moet_bf16_to_float(got), got, (double)moet_bf16_to_float(want), want);
        }
    }
    print_error("%s (%s, counts on the %s): %lld of %lld elements differ from %s, first %s; of them by scale of x",
                s->config_text, in->label, s->on_device ? "device" : "host", (long long)count,
                (long long)(in->rows * in->n), chosen->reference_name, first);
    for (int32_t i = 0; i < SCALES; i++)
        print_error("%s %s: %lld", i ? "," : "", scales[i].text, (long long)by_scale[i]);
    print_error("\n");
}

static void check_launch(const moet_config *config, bit_input *in, bool on_device, int32_t max_sms, test_kernel *kernel,
                         tally *t)
{
    enum { MOST_REPORTS = 20 };
    moet_traits traits = config->family->traits(in->problem, config);
    test_subject s = {.device = device,
                      .config = config,
                      .problem = in->problem,
                      .label = in->label,
                      .max_rows = in->rows,
                      .on_device = on_device ? traits.device_counts : !traits.host_counts,
                      .max_sms = max_sms,
                      .kernel = kernel};
    if (!test_subject_open(&s, t->late_why)) {
        t->refused_late++;
        return;
    }
    test_subject_launch(&s, test_buffer_inside(&in->x), test_buffer_inside(&in->w),
                        in->problem->bias ? test_buffer_inside(&in->bias) : NULL,
                        s.on_device ? test_buffer_inside(&in->device_counts) : in->counts, in->rows, &in->out, in->got);
    test_subject_close(&s);
    t->compared++;
    if (memcmp(in->got, in->want, (size_t)(in->rows * in->n) * sizeof *in->got) == 0) return;
    if (t->differing++ < MOST_REPORTS) report(&s, in);
}

/* On all SMs, and on so few that CTAs have many tiles; the counts are on the host for one and on the device for the
 * other, in turn. */
static void check_config(const moet_config *config, bit_input *in, int64_t nth, test_kernel *kernel, tally *t)
{
    check_launch(config, in, nth & 1, 0, kernel, t);
    check_launch(config, in, !(nth & 1), test_few_sms(nth / 2), kernel, t);
}

/* ---- over families ---- */

/* Place of a config in the order of moet_config_next. */
static size_t place_of(const moet_config *config)
{
    size_t place = 0;
    for (int32_t p = 0; p < config->family->param_count; p++) {
        size_t values = 0;
        while (config->family->params[p].values[values]) values++;
        place = place * values + (size_t)config->value[p];
    }
    return place;
}

/* The last place, plus 1. */
static size_t place_count(const moet_family *family)
{
    moet_config last;
    moet_config_first(family, &last);
    for (int32_t p = 0; p < family->param_count; p++)
        while (family->params[p].values[last.value[p] + 1]) last.value[p]++;
    return place_of(&last) + 1;
}

static void check_family(const moet_family *family)
{
    moet_problem problems[PROBLEMS];
    test_configs configs;
    test_kernel kernel = {0};
    tally t = {0};
    int64_t config_count = 0;
    bool *seen = test_allocate(place_count(family) * sizeof *seen);
    for (int32_t i = 0; i < PROBLEMS; i++) problem_init(i, &problems[i]);
    test_configs_create(family, problems, PROBLEMS, &device->info, only_pairs, &configs);
    for (int64_t turn = 0; turn < draws && has_reference; turn++) {
        for (int32_t i = 0, at = 0; i < PROBLEMS; i++) {
            bit_input in;
            if (!input_create(&problems[i], i, turn, &in)) {
                input_destroy(&in);
                break;
            }
            /* Another starting point for each input, so that with N > 1 all configs see some. */
            for (int64_t nth = i + turn; at < configs.count && configs.choices[at].problem == i; at++, nth++) {
                const moet_config *config = &configs.choices[at].config;
                if (nth % every != 0) continue;
                check_config(config, &in, nth / every, &kernel, &t);
                config_count += !seen[place_of(config)];
                seen[place_of(config)] = true;
            }
            input_destroy(&in);
        }
    }
    test_kernel_release(&kernel);
    test_configs_destroy(&configs);
    free(seen);
    if (!has_reference) skip();
    if (t.refused_late)
        print_message("%s: %lld refused by the library: %s\n", family->name, (long long)t.refused_late, t.late_why);
    if (t.differing)
        test_fail("%s: %lld of %lld launches differ from %s", family->name, (long long)t.differing,
                  (long long)t.compared, chosen->reference_name);
    assert_true(t.compared > 0);
    print_message("%s: %lld configs on %lld inputs agree bit for bit with %s (%lld launches compared)\n", family->name,
                  (long long)config_count, (long long)(PROBLEMS * draws), chosen->reference_name,
                  (long long)t.compared);
}

static void test_family(void **state) { check_family(*state); }

static bool in_class(const moet_family *family)
{
    if (strcmp(family->backend, chosen->backend) != 0) return false;
    if (only_family) return strcmp(family->name, only_family) == 0;
    for (int32_t i = 0; i < MOET_COUNT_OF(chosen->families) && chosen->families[i]; i++)
        if (strcmp(chosen->families[i], family->name) == 0) return true;
    return false;
}

int main(int argc, char **argv)
{
    enum { SKIPPED = 77 };
    struct CMUnitTest tests[32];
    int32_t count = 0;
    seed = time(NULL);
    const test_option options[] = {
        {"--device", .text = &spec},      {"--family", .text = &only_family},
        {"--pairs", .flag = &only_pairs}, {"--every", .number = &every, .variable = "MOET_TEST_EVERY"},
        {"--draws", .number = &draws},    {"--seed", .number = &seed},
    };
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    if (moet_device_open(spec, &device) != MOET_OK) {
        fprintf(stderr, "skipped: %s\n", moet_last_error());
        return SKIPPED;
    }
    for (chosen = classes; strcmp(chosen->backend, device->info.backend) != 0;) chosen++;
    for (int32_t i = 0; moet_families[i] && count < MOET_COUNT_OF(tests); i++) {
        if (!in_class(moet_families[i])) continue;
        union { /* cmocka's state is not const */
            const moet_family *family;
            void *state;
        } u = {.family = moet_families[i]};
        tests[count++] = (struct CMUnitTest){u.family->name, test_family, NULL, NULL, u.state};
    }
    if (count == 0) {
        fprintf(stderr, "no kernel family%s%s on %s\n", only_family ? " " : "", only_family ? only_family : "", spec);
        return 1;
    }
    print_message("seed %lld\n", (long long)seed);
    int failed = _cmocka_run_group_tests("bits", tests, (size_t)count, NULL, NULL);
    moet_device_close(device);
    return failed || has_reference ? failed : SKIPPED;
}
