#include "stages_case.h"

#include "../kernels/ffn_reference.h"
#include "../kernels/reference.h"

static const char *const flag_names[] = {
#define MOET_X(name, value, text) text,
    FLAG_TABLE(MOET_X)
#undef MOET_X
};

const char *const fixture_output_names[OUTPUT_COUNT] = {"counts", "places", "rowmap", "source", "prob",
                                                        "target", "x",      "act",    "out"};

/* ---- what comes in ---- */

static void fill_bits(uint64_t *random, uint16_t *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] = moet_bf16_from_float(2 * test_normal(random));
}

void fixture_fill(fixture *f, uint64_t *random)
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

void fixture_expect(fixture *f)
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

static int32_t sms_of(const shape *s) { return s->flags & ONE_SM ? 1 : s->flags & FEW_SMS ? 3 : 0; }

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
        [WORKSPACE] = (int64_t)moet_stages_workspace_bytes(&f->problem, s->choices, R, sms_of(s), &f->device->info),
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

void fixture_open(fixture *f, moet_device *device, const shape *s)
{
    const int64_t width = s->choices < s->experts ? s->choices : s->experts;
    *f = (fixture){.device = device, .shape = *s, .max_rows = s->max_rows ? s->max_rows : s->bound * width};
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
    TEST_OK(moet_stages_create(device, &f->problem, s->choices, s->bound, sms_of(s), NULL, &f->stages));
}

void fixture_close(fixture *f)
{
    moet_device *device = f->device;
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

void fixture_upload(fixture *f, uint8_t dirt)
{
    moet_device *device = f->device;
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

void fixture_enqueue(fixture *f)
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
bool is_near(uint16_t a, uint16_t b)
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

void fixture_check(fixture *f, const char *label)
{
    moet_device *device = f->device;
    const moet_backend *b = device->backend;
    const bool is_host = strcmp(device->backend->name, "host") == 0;
    TEST_OK(b->stream_synchronize(device, f->stream));
    for (int32_t i = 0; i < OUTPUT_COUNT; i++) {
        const size_t size = f->output_bytes[i];
        const uint8_t *found = f->output[i].raw + TEST_GUARD_BYTES;
        TEST_OK(b->download(device, f->output[i].raw, f->output[i].buffer.memory, size + 2 * TEST_GUARD_BYTES));
        for (size_t j = 0; j < TEST_GUARD_BYTES; j++) {
            if (f->output[i].raw[j] != TEST_POISON || found[size + j] != TEST_POISON)
                test_fail("%s: %s: written outside", label, fixture_output_names[i]);
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
                test_fail("%s: %s: byte %zu of %zu is %02x, %02x expected (%lld rows)", label, fixture_output_names[i],
                          j, size, found[j], f->expected[i][j], (long long)f->rows);
        }
    }
}

void shape_label(const shape *s, char label[256])
{
    int used = snprintf(label, 256, "E %d k %d R %lld of %lld max_rows %lld H %d I %d activation %d prob %d combine %d",
                        s->experts, s->choices, (long long)s->tokens, (long long)s->bound, (long long)s->max_rows,
                        s->hidden, s->inter, (int)s->activation, (int)s->prob, (int)s->combine);
    for (int32_t i = 0; i < MOET_COUNT_OF(flag_names); i++) {
        if (s->flags >> i & 1) used += snprintf(label + used, 256 - (size_t)used, ", %s", flag_names[i]);
    }
}
