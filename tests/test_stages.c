/* The expert path's stages on a device against the C reference: permutation, gather and combine to the bit, on poisoned
 * outputs whose every other byte must stay, with a workspace full of anything, again and again, and as a graph.
 *
 *   test_stages [--device host] [--quick]
 *
 * The activation's expf is the device's: on a GPU an element may be one BF16 step off, one in a thousand at most. An
 * expf that is 2 units of FP32 off moves a result over a rounding border in about 4 of 65536 elements. */
#include "subject.h"

#include "../kernels/ffn_reference.h"
#include "../kernels/reference.h"
#include "../kernels/stages.h"

static const char *spec = "host";
static bool quick; /* few and small shapes: for tools that make kernels slow */
static moet_device *device;

typedef struct shape {
    int32_t experts, choices;
    int64_t bound, tokens; /* tokens < bound with ON_DEVICE only */
    int64_t max_rows;      /* 0: all that there can be */
    int32_t hidden, inter;
    moet_activation activation;
    moet_prob prob;
    moet_combine combine;
    int32_t none, bad; /* in percent: choices of other ranks, of no expert or a repeated one */
    uint32_t flags;
} shape;

/* value, in labels */
#define FLAG_TABLE(X)                                                                                                  \
    X(INT64, 1, "int64")                                                                                               \
    X(ON_DEVICE, 2, "device_tokens")                                                                                   \
    X(NO_ROWMAP, 4, "no rowmap")                                                                                       \
    X(NO_PLACES, 8, "no places")                                                                                       \
    X(NO_WEIGHTS, 16, "no weights")                                                                                    \
    X(STRIDED, 32, "strided")                                                                                          \
    X(DIRECT, 64, "direct rows")

enum flag {
#define MOET_X(name, value, text) name = value,
    FLAG_TABLE(MOET_X)
#undef MOET_X
};
static const char *const flag_names[] = {
#define MOET_X(name, value, text) text,
    FLAG_TABLE(MOET_X)
#undef MOET_X
};

/* Shorter, for the rows of the tables. */
#define SWIGLU MOET_ACTIVATION_SWIGLU
#define CLAMPED MOET_ACTIVATION_SWIGLU_CLAMP
#define GPT_OSS MOET_ACTIVATION_GPT_OSS
#define PROB_NONE MOET_PROB_NONE
#define PROB_ADVANCE MOET_PROB_ADVANCE
#define PROB_COMBINE MOET_PROB_COMBINE
#define EXACT MOET_COMBINE_EXACT
#define PADDLE MOET_COMBINE_PADDLE

enum input { IDS, WEIGHTS, X, UP, ROWS, TOKENS, WORKSPACE, INPUT_COUNT };
enum output { COUNTS, PLACES, ROWMAP, SOURCE, PROB, TARGET, GATHERED, ACT, OUT, OUTPUT_COUNT };
static const char *const output_names[] = {"counts", "places", "rowmap", "source", "prob", "target", "x", "act", "out"};

typedef struct fixture {
    shape shape;
    moet_problem problem;
    moet_stages *stages;
    int64_t max_rows, rows; /* rows: of this routing, max_rows at most */
    moet_ffn_args given;    /* of host memory */
    moet_ffn_args args;     /* of the device's */
    moet_permuted permuted;
    void *content[INPUT_COUNT]; /* on the host */
    size_t input_bytes[INPUT_COUNT], output_bytes[OUTPUT_COUNT];
    test_buffer input[INPUT_COUNT];
    test_output output[OUTPUT_COUNT];
    uint8_t *expected[OUTPUT_COUNT];
    void *stream;
} fixture;

/* ---- what comes in ---- */

static void fill_bits(uint64_t *random, uint16_t *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = moet_bf16_from_float(2 * test_normal(random));
}

/* Any numbers, so that the order and the copies show; ids of all kinds. */
static void fixture_fill(fixture *f, uint64_t *random)
{
    static const int64_t strangers[] = {-2, INT32_MIN, INT32_MAX, (int64_t)1 << 32, INT64_MIN, INT64_MAX};
    const shape *s = &f->shape;
    int64_t *wide = f->content[IDS];
    int32_t *narrow = f->content[IDS];
    float *weights = f->content[WEIGHTS];
    const int64_t ids = (int64_t)f->input_bytes[IDS] / ((s->flags & INT64) ? 8 : 4);
    for (int64_t i = 0; i < ids; i++) { /* local, if what is between the tokens were read */
        if (s->flags & INT64)
            wide[i] = 0;
        else
            narrow[i] = 0;
    }
    for (int64_t t = 0; t < s->bound; t++) { /* past the tokens too: nobody may look at them */
        const bool is_empty = test_between(random, 0, 9) == 0;
        for (int32_t c = 0; c < s->choices; c++) {
            const int64_t at = t * f->given.ids_stride + c, dice = test_between(random, 0, 99);
            int64_t id = test_between(random, 0, s->experts - 1);
            if (is_empty || dice < s->none)
                id = -1;
            else if (dice < s->none + s->bad)
                id = strangers[test_between(random, 0, MOET_COUNT_OF(strangers) - 1)];
            else if (dice < s->none + 2 * s->bad && c > 0)
                id = s->flags & INT64 ? wide[at - 1] : narrow[at - 1];
            if (id == s->experts - 1 && test_between(random, 0, 3) == 0) id = s->experts; /* the first that is none */
            if (s->flags & INT64)
                wide[at] = id;
            else
                narrow[at] = id < INT32_MIN || id > INT32_MAX ? -1 : (int32_t)id;
        }
    }
    for (int64_t i = 0; i < (int64_t)f->input_bytes[WEIGHTS] / 4; i++)
        weights[i] = (float)test_between(random, 1, 1 << 20) / (1 << 20);
    static const enum input bits[] = {X, UP, ROWS};
    for (int32_t i = 0; i < MOET_COUNT_OF(bits); i++)
        fill_bits(random, f->content[bits[i]], (int64_t)f->input_bytes[bits[i]] / 2);
    ((uint16_t *)f->content[ROWS])[0] = 0x8000; /* -0, which a copy keeps */
    *(int32_t *)f->content[TOKENS] = (int32_t)s->tokens;
}

/* ---- what must come out ---- */

/* The ids with -1 for all that must be taken so, int32 and dense. */
static int32_t *cleaned_ids(const fixture *f)
{
    const shape *s = &f->shape;
    int32_t *ids = test_allocate((size_t)(s->tokens * s->choices) * sizeof *ids);
    for (int64_t t = 0; t < s->tokens; t++) {
        int32_t *of = ids + t * s->choices;
        for (int32_t c = 0; c < s->choices; c++) {
            const int64_t at = t * f->given.ids_stride + c;
            const int64_t id =
                s->flags & INT64 ? ((const int64_t *)f->given.ids)[at] : ((const int32_t *)f->given.ids)[at];
            of[c] = id >= 0 && id < s->experts ? (int32_t)id : -1;
            for (int32_t d = 0; d < c; d++) {
                if (of[d] == of[c]) of[c] = -1;
            }
        }
    }
    return ids;
}

/* Leaves rows from max_rows on out of the reference's permutation. */
static void permutation_clip(const fixture *f, moet_ffn_permutation *p)
{
    int64_t start = 0;
    for (int32_t e = 0; e < f->shape.experts; e++) {
        const int64_t end = start + p->counts[e], most = f->max_rows;
        p->counts[e] = (int32_t)((end < most ? end : most) - (start < most ? start : most));
        start = end;
    }
    for (int64_t i = 0; i < f->shape.tokens * f->shape.experts; i++) {
        if (p->rowmap[i] >= f->max_rows) p->rowmap[i] = -1;
    }
    if (p->rows > f->max_rows) p->rows = f->max_rows;
}

/* With direct rows, what is expected otherwise: a token's only row has the token as its target, and combine leaves the
 * token out. `counts` of each token, those past max_rows too. */
static void expect_direct(fixture *f, const moet_ffn_permutation *p, const int32_t *counts)
{
    const shape *s = &f->shape;
    const int64_t width = s->choices < s->experts ? s->choices : s->experts;
    int32_t *target = (int32_t *)f->expected[TARGET];
    for (int64_t m = 0; m < p->rows; m++) {
        const int32_t token = p->source[m];
        target[m] = counts[token] == 1 ? token : -1;
        if (counts[token] != 1) continue;
        ((int32_t *)f->expected[PLACES])[token * width] = MOET_STAGES_DIRECT;
        memset((uint16_t *)f->expected[OUT] + token * f->given.out_stride, TEST_POISON, (size_t)s->hidden * 2);
    }
}

static void fixture_expect(fixture *f)
{
    const shape *s = &f->shape;
    const int64_t E = s->experts, H = s->hidden, I = s->inter, width = s->choices < E ? s->choices : E;
    int32_t *ids = cleaned_ids(f);
    moet_ffn_permutation *p;
    moet_ffn_args args = f->given;
    args.ids = ids;
    args.ids_int64 = false;
    args.ids_stride = 0;
    args.tokens = s->tokens;
    for (int32_t i = 0; i < OUTPUT_COUNT; i++) memset(f->expected[i], TEST_POISON, f->output_bytes[i]);
    TEST_OK(moet_ffn_permutation_create(&f->problem, s->choices, &args, &p));
    int32_t *counts = test_allocate((size_t)(s->tokens > 0 ? s->tokens : 1) * sizeof *counts);
    for (int64_t i = 0; i < s->tokens; i++) counts[i] = 0;
    for (int64_t i = 0; i < s->tokens * E; i++) counts[i / E] += p->rowmap[i] >= 0;
    permutation_clip(f, p);
    f->rows = p->rows;
    memcpy(f->expected[COUNTS], p->counts, (size_t)E * 4);
    if (p->rows > 0) {
        memcpy(f->expected[SOURCE], p->source, (size_t)p->rows * 4);
        memcpy(f->expected[PROB], p->prob, (size_t)p->rows * 4);
    }
    for (int64_t t = 0; t < s->tokens; t++) {
        const int32_t *map = p->rowmap + t * E;
        int32_t *places = (int32_t *)f->expected[PLACES] + t * width;
        int64_t count = 0;
        for (int64_t i = 0; i < width; i++) places[i] = -1;
        for (int64_t e = 0; e < E; e++) {
            if (map[e] >= 0) places[count++] = map[e];
        }
        memcpy((int32_t *)f->expected[ROWMAP] + t * E, map, (size_t)E * 4);
    }
    for (int64_t m = 0; m < p->rows; m++) {
        memcpy((uint16_t *)f->expected[GATHERED] + m * H, (const uint16_t *)args.x + p->source[m] * args.x_stride,
               (size_t)H * 2);
        moet_reference_activate_row(&f->problem, (const uint16_t *)f->content[UP] + m * 2 * I, p->prob[m],
                                    (uint16_t *)f->expected[ACT] + m * I);
    }
    args.out = f->expected[OUT];
    moet_reference_combine(&f->problem, p, &args, f->content[ROWS]);
    if (s->flags & DIRECT) expect_direct(f, p, counts);
    free(counts);
    moet_ffn_permutation_destroy(p);
    free(ids);
}

/* ---- a case ---- */

static size_t at_least_one(int64_t size_bytes) { return size_bytes > 0 ? (size_t)size_bytes : 16; }

static void fixture_sizes(fixture *f)
{
    const shape *s = &f->shape;
    const int64_t E = s->experts, R = s->bound, M = f->max_rows, H = s->hidden, I = s->inter;
    const int64_t width = s->choices < E ? s->choices : E;
    const int64_t inputs[INPUT_COUNT] = {
        [IDS] = R * f->given.ids_stride * ((s->flags & INT64) ? 8 : 4),
        [WEIGHTS] = R * f->given.weights_stride * 4,
        [X] = R * f->given.x_stride * 2,
        [UP] = M * 2 * I * 2,
        [ROWS] = M * H * 2,
        [TOKENS] = 4,
        [WORKSPACE] = (int64_t)moet_stages_workspace_bytes(&f->problem, s->choices, R, &device->info),
    };
    const int64_t outputs[OUTPUT_COUNT] = {
        [COUNTS] = E * 4,       [PLACES] = R * width * 4, [ROWMAP] = R * E * 4,
        [SOURCE] = M * 4,       [PROB] = M * 4,           [TARGET] = M * 4,
        [GATHERED] = M * H * 2, [ACT] = M * I * 2,        [OUT] = R * f->given.out_stride * 2,
    };
    assert_int_equal(inputs[WORKSPACE] % 256, 0);
    for (int32_t i = 0; i < INPUT_COUNT; i++) f->input_bytes[i] = at_least_one(inputs[i]);
    for (int32_t i = 0; i < OUTPUT_COUNT; i++) f->output_bytes[i] = at_least_one(outputs[i]);
}

static void fixture_open(fixture *f, const shape *s)
{
    const int64_t width = s->choices < s->experts ? s->choices : s->experts;
    *f = (fixture){.shape = *s, .max_rows = s->max_rows ? s->max_rows : s->bound * width};
    f->problem = (moet_problem){.op = MOET_OP_FFN,
                                .experts = s->experts,
                                .hidden = s->hidden,
                                .inter = s->inter,
                                .activation = s->activation,
                                .prob = s->prob,
                                .combine = s->combine,
                                .clamp = s->activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 1.1 : 0};
    f->given = (moet_ffn_args){.ids_int64 = s->flags & INT64,
                               .x_stride = s->hidden + ((s->flags & STRIDED) ? 24 : 0),
                               .ids_stride = s->choices + ((s->flags & STRIDED) ? 3 : 0),
                               .weights_stride = s->choices + ((s->flags & STRIDED) ? 5 : 0),
                               .out_stride = s->hidden + ((s->flags & STRIDED) ? 8 : 0),
                               .tokens = s->tokens};
    fixture_sizes(f);
    TEST_OK(device->backend->stream_create(device, &f->stream));
    for (int32_t i = 0; i < INPUT_COUNT; i++) {
        f->content[i] = test_allocate(f->input_bytes[i]);
        test_buffer_create(device, &f->input[i], NULL, f->input_bytes[i]);
    }
    void *in[INPUT_COUNT], *out[OUTPUT_COUNT];
    for (int32_t i = 0; i < INPUT_COUNT; i++) in[i] = test_buffer_inside(&f->input[i]);
    for (int32_t i = 0; i < OUTPUT_COUNT; i++) {
        f->expected[i] = test_allocate(f->output_bytes[i]);
        test_output_create(device, &f->output[i], f->output_bytes[i]);
        out[i] = test_buffer_inside(&f->output[i].buffer);
    }
    f->given.x = f->content[X];
    f->given.ids = f->content[IDS];
    f->given.weights = s->flags & NO_WEIGHTS ? NULL : f->content[WEIGHTS];
    f->args = f->given;
    f->args.x = in[X];
    f->args.ids = in[IDS];
    f->args.weights = s->flags & NO_WEIGHTS ? NULL : in[WEIGHTS];
    f->args.out = out[OUT];
    f->args.device_tokens = s->flags & ON_DEVICE ? in[TOKENS] : NULL;
    if (s->flags & ON_DEVICE) f->args.tokens = -77; /* not looked at */
    if (!(s->flags & STRIDED)) f->args.x_stride = f->args.ids_stride = f->args.weights_stride = f->args.out_stride = 0;
    f->permuted = (moet_permuted){.counts = out[COUNTS],
                                  .places = s->flags & NO_PLACES ? NULL : out[PLACES],
                                  .rowmap = s->flags & NO_ROWMAP ? NULL : out[ROWMAP],
                                  .source = out[SOURCE],
                                  .prob = out[PROB],
                                  .x = out[GATHERED]};
    TEST_OK(moet_stages_create(device, &f->problem, s->choices, s->bound, NULL, &f->stages));
}

static void fixture_close(fixture *f)
{
    moet_stages_destroy(f->stages);
    device->backend->stream_destroy(device, f->stream);
    for (int32_t i = 0; i < INPUT_COUNT; i++) {
        test_buffer_destroy(device, &f->input[i]);
        free(f->content[i]);
    }
    for (int32_t i = 0; i < OUTPUT_COUNT; i++) {
        test_output_destroy(device, &f->output[i]);
        free(f->expected[i]);
    }
}

/* Inputs to the device, poison into the outputs, `dirt` into the workspace. */
static void fixture_upload(fixture *f, uint8_t dirt)
{
    const moet_backend *b = device->backend;
    for (int32_t i = 0; i < INPUT_COUNT; i++) {
        if (i == WORKSPACE)
            TEST_OK(b->fill(device, test_buffer_inside(&f->input[i]), dirt, f->input_bytes[i]));
        else
            TEST_OK(b->upload(device, test_buffer_inside(&f->input[i]), f->content[i], f->input_bytes[i]));
    }
    for (int32_t i = 0; i < OUTPUT_COUNT; i++)
        TEST_OK(b->fill(device, test_buffer_inside(&f->output[i].buffer), TEST_POISON, f->output_bytes[i]));
}

/* All stages, one behind the other without a look between. */
static void fixture_enqueue(fixture *f)
{
    void *in[INPUT_COUNT], *act = test_buffer_inside(&f->output[ACT].buffer);
    for (int32_t i = 0; i < INPUT_COUNT; i++) in[i] = test_buffer_inside(&f->input[i]);
    int32_t *target = f->shape.flags & DIRECT ? test_buffer_inside(&f->output[TARGET].buffer) : NULL;
    TEST_OK(moet_stages_permute(f->stages, &f->args, &f->permuted, f->max_rows, target, in[WORKSPACE], f->stream));
    TEST_OK(moet_stages_gather(f->stages, &f->args, &f->permuted, f->max_rows, f->stream));
    TEST_OK(moet_stages_activate(f->stages, in[UP], &f->permuted, f->max_rows, act, f->stream));
    TEST_OK(moet_stages_combine(f->stages, &f->args, in[ROWS], &f->permuted, f->stream));
}

/* Steps from one BF16 number to another of the same sign; NaN is no number. */
static bool is_near(uint16_t a, uint16_t b)
{
    if ((a & 0x7fff) > 0x7f80 || (b & 0x7fff) > 0x7f80) return (a & 0x7fff) > 0x7f80 && (b & 0x7fff) > 0x7f80;
    return (a ^ b) < 0x8000 && abs(a - b) <= 1;
}

/* The activation on another machine's expf. */
static void check_near(const fixture *f, const uint8_t *found, const char *label)
{
    const uint16_t *a = (const uint16_t *)f->expected[ACT], *b = (const uint16_t *)found;
    const int64_t count = f->rows * f->shape.inter;
    int64_t off = 0;
    for (int64_t i = 0; i < count; i++) {
        if (a[i] == b[i]) continue;
        off++;
        if (!is_near(a[i], b[i]))
            test_fail("%s: act: element %lld is %04x, %04x expected", label, (long long)i, b[i], a[i]);
    }
    if (off > 2 + count / 1000)
        test_fail("%s: act: %lld of %lld elements are a step off", label, (long long)off, (long long)count);
}

static void fixture_check(fixture *f, const char *label)
{
    const moet_backend *b = device->backend;
    const bool is_host = strcmp(device->backend->name, "host") == 0;
    TEST_OK(b->stream_synchronize(device, f->stream));
    for (int32_t i = 0; i < OUTPUT_COUNT; i++) {
        const size_t size = f->output_bytes[i];
        const uint8_t *found = f->output[i].raw + TEST_GUARD_BYTES;
        TEST_OK(b->download(device, f->output[i].raw, f->output[i].buffer.memory, size + 2 * TEST_GUARD_BYTES));
        for (size_t j = 0; j < TEST_GUARD_BYTES; j++) {
            if (f->output[i].raw[j] != TEST_POISON || found[size + j] != TEST_POISON)
                test_fail("%s: %s: written outside", label, output_names[i]);
        }
        size_t from = 0;
        if ((i == PLACES && (f->shape.flags & NO_PLACES)) || (i == ROWMAP && (f->shape.flags & NO_ROWMAP)))
            memset(f->expected[i], TEST_POISON, size);
        if (i == ACT && !is_host) {
            check_near(f, found, label);
            from = (size_t)(f->rows * f->shape.inter * 2);
        }
        for (size_t j = from; j < size; j++) {
            if (found[j] != f->expected[i][j])
                test_fail("%s: %s: byte %zu of %zu is %02x, %02x expected (%lld rows)", label, output_names[i], j, size,
                          found[j], f->expected[i][j], (long long)f->rows);
        }
    }
}

static void shape_label(const shape *s, char label[256])
{
    int used = snprintf(label, 256, "E %d k %d R %lld of %lld max_rows %lld H %d I %d activation %d prob %d combine %d",
                        s->experts, s->choices, (long long)s->tokens, (long long)s->bound, (long long)s->max_rows,
                        s->hidden, s->inter, (int)s->activation, (int)s->prob, (int)s->combine);
    for (int32_t i = 0; i < MOET_COUNT_OF(flag_names); i++) {
        if (s->flags >> i & 1) used += snprintf(label + used, 256 - (size_t)used, ", %s", flag_names[i]);
    }
}

/* Twice, with another content of the workspace. */
static void check_shape(uint64_t *random, const shape *s)
{
    static const uint8_t dirt[] = {0xff, 0x5a};
    char label[256];
    fixture f;
    shape_label(s, label);
    fixture_open(&f, s);
    fixture_fill(&f, random);
    for (int32_t i = 0; i < MOET_COUNT_OF(dirt); i++) {
        fixture_expect(&f);
        fixture_upload(&f, dirt[i]);
        fixture_enqueue(&f);
        fixture_check(&f, label);
    }
    fixture_close(&f);
}

/* ---- the tests ---- */

static void test_edges(void **state)
{
    (void)state;
    uint64_t random = 11;
    static const shape shapes[] = {
        {1, 1, 1, 1, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 0, 0, 0},
        {1, 1, 5, 0, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 0, 0, 0},
        {4, 2, 5, 0, 0, 8, 8, SWIGLU, PROB_NONE, EXACT, 0, 0, ON_DEVICE},
        {4, 2, 5, 5, 0, 8, 8, SWIGLU, PROB_NONE, EXACT, 100, 0, 0}, /* none is local */
        {1, 16, 40, 33, 0, 16, 24, GPT_OSS, PROB_ADVANCE, EXACT, 30, 10, ON_DEVICE},
        {1024, 16, 60, 60, 0, 16, 8, SWIGLU, PROB_COMBINE, EXACT, 20, 20, 0},
        {1024, 16, 700, 650, 0, 8, 8, CLAMPED, PROB_COMBINE, PADDLE, 20, 20, INT64 | ON_DEVICE | STRIDED},
        {1024, 1, 3000, 3000, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 5, 5, 0},
        {1023, 3, 1500, 1500, 700, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 5, 5, 0},
        {256, 8, 1024, 1024, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 80, 2, 0},
        {32, 8, 1024, 1024, 0, 40, 16, SWIGLU, PROB_COMBINE, EXACT, 50, 2, 0},
        {32, 8, 1025, 1025, 0, 40, 16, SWIGLU, PROB_COMBINE, EXACT, 50, 2, 0},
        {32, 8, 9000, 1, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 50, 2, ON_DEVICE},
        {32, 8, 9000, 0, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 50, 2, ON_DEVICE},
        {33, 5, 5000, 4999, 1, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 40, 5, ON_DEVICE},
        {17, 16, 4000, 4000, 12345, 8, 8, SWIGLU, PROB_ADVANCE, EXACT, 30, 5, INT64 | NO_PLACES},
        {3, 2, 64, 64, 0, 7168, 2048, SWIGLU, PROB_COMBINE, EXACT, 30, 0, 0},
        {3, 2, 64, 64, 0, 1032, 520, GPT_OSS, PROB_NONE, PADDLE, 30, 0, NO_WEIGHTS | STRIDED},
        {3, 2, 64, 64, 50, 1032, 520, GPT_OSS, PROB_NONE, PADDLE, 30, 0, STRIDED | DIRECT},
        {32, 8, 3000, 2999, 0, 40, 8, SWIGLU, PROB_ADVANCE, EXACT, 85, 2, INT64 | ON_DEVICE | DIRECT},
        {1, 1, 5, 0, 0, 8, 8, SWIGLU, PROB_NONE, EXACT, 0, 0, DIRECT},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) check_shape(&random, &shapes[i]);
}

static void test_random_shapes(void **state)
{
    (void)state;
    uint64_t random = 12;
    for (int32_t i = 0; i < (quick ? 12 : 120); i++) {
        static const int32_t experts[] = {1, 2, 8, 31, 32, 33, 64, 100, 300};
        static const int64_t bounds[] = {1, 2, 31, 32, 33, 127, 128, 129, 300, 1000, 2500};
        shape s = {.experts = experts[test_between(&random, 0, MOET_COUNT_OF(experts) - 1)],
                   .choices = (int32_t)test_between(&random, 1, 16),
                   .bound = bounds[test_between(&random, 0, MOET_COUNT_OF(bounds) - 1)],
                   .hidden = 8 * (int32_t)test_between(&random, 1, 40),
                   .inter = 8 * (int32_t)test_between(&random, 1, 40),
                   .activation = (moet_activation)test_between(&random, 1, 3),
                   .prob = (moet_prob)test_between(&random, 0, 2),
                   .combine = (moet_combine)test_between(&random, 0, 1),
                   .none = (int32_t)test_between(&random, 0, 9) * 10,
                   .bad = (int32_t)test_between(&random, 0, 1) * 5,
                   .flags = (uint32_t)test_random(&random) & (INT64 | ON_DEVICE | NO_ROWMAP | STRIDED)};
        s.tokens = s.flags & ON_DEVICE ? test_between(&random, 0, s.bound) : s.bound;
        if (!(s.flags & NO_ROWMAP) && test_between(&random, 0, 2) == 0) s.flags |= NO_PLACES;
        if (s.prob == MOET_PROB_NONE && test_between(&random, 0, 1)) s.flags |= NO_WEIGHTS;
        if (!(s.flags & NO_PLACES) && test_between(&random, 0, 1)) s.flags |= DIRECT;
        if (test_between(&random, 0, 2) == 0) s.max_rows = test_between(&random, 1, s.bound);
        check_shape(&random, &s);
    }
}

/* As many tokens as there may be: several tiles a block. */
static void test_many_tokens(void **state)
{
    (void)state;
    uint64_t random = 13;
    static const shape shapes[] = {
        {32, 8, 40000, 40000, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 70, 1, INT64},
        {3, 1, MOET_MAX_ROWS, MOET_MAX_ROWS, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 10, 1, NO_ROWMAP},
        {3, 2, MOET_MAX_ROWS / 2, MOET_MAX_ROWS / 2, 0, 8, 8, SWIGLU, PROB_ADVANCE, EXACT, 40, 1, NO_ROWMAP | DIRECT},
    };
    if (quick) skip();
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) check_shape(&random, &shapes[i]);
}

/* A graph reads tokens and ids when it is replayed. */
static void test_graph(void **state)
{
    (void)state;
    const moet_backend *b = device->backend;
    static const int64_t bounds[] = {500, 6000}; /* one launch, two launches */
    if (!b->capture_begin) skip();
    for (int32_t i = 0; i < MOET_COUNT_OF(bounds); i++) {
        uint64_t random = 14;
        void *graph = NULL;
        fixture f;
        shape s = {.experts = 24,
                   .choices = 6,
                   .bound = bounds[i],
                   .tokens = bounds[i],
                   .max_rows = bounds[i] * 3,
                   .hidden = 264,
                   .inter = 72,
                   .activation = MOET_ACTIVATION_SWIGLU,
                   .prob = MOET_PROB_COMBINE,
                   .none = 50,
                   .bad = 2,
                   .flags = ON_DEVICE};
        fixture_open(&f, &s);
        TEST_OK(b->capture_begin(device, f.stream));
        fixture_enqueue(&f);
        TEST_OK(b->capture_end(device, f.stream, &graph));
        for (int32_t round = 0; round < 6; round++) {
            static const int64_t parts[] = {100, 0, 50, 1, 100, 99}; /* of the bound, in percent */
            char label[256];
            f.shape.tokens = s.bound * parts[round] / 100;
            fixture_fill(&f, &random);
            fixture_expect(&f);
            fixture_upload(&f, (uint8_t)(round * 77));
            /* The second replay follows at once: what the first left must not matter. */
            for (int32_t replay = 0; replay < 2; replay++) TEST_OK(b->graph_launch(device, graph, f.stream));
            shape_label(&f.shape, label);
            fixture_check(&f, label);
        }
        b->graph_destroy(device, graph);
        fixture_close(&f);
    }
}

/* permute with all outputs but one NULL. */
static void test_one_output(void **state)
{
    (void)state;
    for (int32_t i = COUNTS; i <= PROB; i++) {
        uint64_t random = 16;
        fixture f;
        const shape s = {20, 6, 5000, 5000, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 30, 5, 0};
        fixture_open(&f, &s);
        fixture_fill(&f, &random);
        fixture_expect(&f);
        fixture_upload(&f, 0xff);
        const moet_permuted all = f.permuted;
        const moet_permuted one = {.counts = i == COUNTS ? all.counts : NULL,
                                   .places = i == PLACES ? all.places : NULL,
                                   .rowmap = i == ROWMAP ? all.rowmap : NULL,
                                   .source = i == SOURCE ? all.source : NULL,
                                   .prob = i == PROB ? all.prob : NULL};
        TEST_OK(moet_stages_permute(f.stages, &f.args, &one, f.max_rows, NULL, test_buffer_inside(&f.input[WORKSPACE]),
                                    f.stream));
        for (int32_t j = 0; j < OUTPUT_COUNT; j++) {
            if (j != i) memset(f.expected[j], TEST_POISON, f.output_bytes[j]);
        }
        f.rows = 0; /* of the activation, which was not asked for */
        fixture_check(&f, output_names[i]);
        fixture_close(&f);
    }
}

/* NaN and infinities go through activation and combine as in the reference. */
static void test_no_numbers(void **state)
{
    (void)state;
    static const uint16_t odd[] = {0x7fc0, 0xffc1, 0x7f80, 0xff80, 0x0001, 0x8001, 0x7f7f, 0xff7f, 0x8000, 0x3f80};
    const moet_backend *b = device->backend;
    for (int32_t a = MOET_ACTIVATION_SWIGLU; a < MOET_ACTIVATION_COUNT; a++) {
        uint64_t random = 15;
        fixture f;
        shape s = {2, 1, 100, 100, 0, 8, 8, (moet_activation)a, PROB_COMBINE, EXACT, 0, 0, 0};
        fixture_open(&f, &s);
        fixture_fill(&f, &random);
        for (int32_t i = 0; i < 100; i++) { /* every pair */
            for (int32_t j = 0; j < 8; j++) {
                uint16_t *row = (uint16_t *)f.content[UP] + 16 * i;
                row[j] = odd[i % 10];
                row[8 + j] = odd[i / 10];
                ((uint16_t *)f.content[ROWS])[8 * i + j] = odd[i % 10];
            }
        }
        fixture_expect(&f);
        fixture_upload(&f, 0);
        fixture_enqueue(&f);
        TEST_OK(b->stream_synchronize(device, f.stream));
        static const enum output outputs[] = {ACT, OUT};
        for (int32_t i = 0; i < MOET_COUNT_OF(outputs); i++) {
            const test_output *out = &f.output[outputs[i]];
            const uint16_t *want = (const uint16_t *)f.expected[outputs[i]];
            const int64_t count = outputs[i] == ACT ? f.rows * 8 : 100 * 8;
            TEST_OK(b->download(device, out->raw, test_buffer_inside(&out->buffer), out->buffer.size_bytes));
            const uint16_t *found = (const uint16_t *)out->raw;
            for (int64_t j = 0; j < count; j++) {
                if (!is_near(want[j], found[j]))
                    test_fail("activation %d, %s: element %lld is %04x, %04x expected", a, output_names[outputs[i]],
                              (long long)j, found[j], want[j]);
            }
        }
        fixture_close(&f);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    moet_stages *stages = NULL;
    moet_problem problem = {.op = MOET_OP_FFN, .experts = 2, .hidden = 8, .inter = 8};
    problem.activation = MOET_ACTIVATION_SWIGLU;
    TEST_FAILS(MOET_INVALID, "choices is 17", moet_stages_create(device, &problem, 17, 1, NULL, &stages));
    TEST_FAILS(MOET_INVALID, "max_tokens is 0", moet_stages_create(device, &problem, 1, 0, NULL, &stages));
    problem.inter = 12;
    TEST_FAILS(MOET_INVALID, "inter 12", moet_stages_create(device, &problem, 1, 1, NULL, &stages));
    problem.inter = 8;
    problem.activation = MOET_ACTIVATION_NONE;
    TEST_FAILS(MOET_INVALID, "activation is 0", moet_stages_create(device, &problem, 1, 1, NULL, &stages));
    problem.activation = MOET_ACTIVATION_SWIGLU;
    problem.op = MOET_OP_UP;
    TEST_FAILS(MOET_INVALID, "op is 0", moet_stages_create(device, &problem, 1, 1, NULL, &stages));
    problem.op = MOET_OP_FFN;
    assert_null(stages);
    TEST_OK(moet_stages_create(device, &problem, 1, 4, NULL, &stages));
    moet_ffn_args args = {.tokens = 5};
    moet_permuted permuted = {0};
    TEST_FAILS(MOET_INVALID, "tokens is 5, must be 0 to 4",
               moet_stages_permute(stages, &args, &permuted, 4, NULL, NULL, NULL));
    TEST_FAILS(MOET_INVALID, "tokens is 5", moet_stages_combine(stages, &args, NULL, &permuted, NULL));
    args.tokens = 0;
    TEST_OK(moet_stages_combine(stages, &args, NULL, &permuted, NULL));
    TEST_OK(moet_stages_gather(stages, &args, &permuted, 0, NULL));
    TEST_OK(moet_stages_activate(stages, NULL, &permuted, 0, NULL, NULL));
    const moet_cubin *cubin = moet_stages_cubin(stages);
    assert_int_equal(cubin == NULL, strcmp(device->backend->name, "host") == 0);
    moet_stages *again = NULL; /* from a table's kernels */
    TEST_OK(moet_stages_create(device, &problem, 1, 4, cubin, &again));
    moet_stages_destroy(again);
    moet_stages_destroy(stages);
    moet_stages_destroy(NULL);
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
    const test_option options[] = {{.name = "--device", .text = &spec}, {.name = "--quick", .flag = &quick}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),    cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_graph),    cmocka_unit_test(test_one_output),    cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("stages", tests, group_open, group_close);
}
